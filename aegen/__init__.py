"""aegen: autoencoders from the command line, every part a plugin.

These names are all that a plugin may import. They are looked up when first used: `import aegen` loads no torch.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers take it; typing itself is 20 ms in which Ctrl-C would end in a traceback
if TYPE_CHECKING:
    from typing import Any

    from aegen.accumulation import StepMean, micro_batches
    from aegen.autoencoder import BOUND, Autoencoder, bound
    from aegen.checkpoint import save as save_checkpoint
    from aegen.collectives import common_generator, gather_rows, mean_over_ranks, own_rows, sum_over_ranks, take_rows
    from aegen.data.decode import SUFFIXES as IMAGE_SUFFIXES
    from aegen.data.decode import Target as Target
    from aegen.data.decode import common_target as common_target
    from aegen.data.decode import read_many as read_images
    from aegen.data.decode import reshape as reshape_images
    from aegen.data.decode import side as image_side
    from aegen.data.decoded_cache import keep as keep_images
    from aegen.data.encoded import Files as ImageFiles
    from aegen.data.image_rows import Rows
    from aegen.data.listing import list_folder as list_images
    from aegen.data.shards import ShardRows
    from aegen.data.shards import contents as shard_contents
    from aegen.errors import AegenError, EnvironmentFault, PluginError, RunError, UsageError
    from aegen.evaluation import evaluate
    from aegen.evaluation.batch import Seen
    from aegen.factory import build_features
    from aegen.foreign import read_tensors
    from aegen.hooks import hookimpl
    from aegen.inference import Model, export, import_model, interpolate, load, reconstruct, sample
    from aegen.intervals import mean_interval
    from aegen.model_spec import LatentStatistics, ModelSpec
    from aegen.noise import exponential_like, normal_like, uniform_like
    from aegen.protocols import (
        AUTOENCODER,
        Architecture,
        Bottleneck,
        Dataset,
        Exporter,
        FeatureNetwork,
        Images,
        ImageShape,
        Imported,
        Importer,
        Latent,
        LeftOut,
        Likelihood,
        Metric,
        Objective,
        Outcome,
        Pixels,
        Posterior,
        Sampler,
        Statistic,
        Turn,
        Wrapper,
    )
    from aegen.registry import API_VERSION
    from aegen.reporting import Comparison, compare, write_comparison, write_report
    from aegen.reporting import check_place as check_page
    from aegen.schedules import Schedule
    from aegen.settings import DataSettings
    from aegen.spec import File, Range, Spec
    from aegen.training.fit_sampler import fit_sampler
    from aegen.training.run import train
    from aegen.untrusted import parse_json, read_text

_HOME = {
    "aegen.protocols": [
        "AUTOENCODER",
        "Architecture",
        "Bottleneck",
        "Dataset",
        "Exporter",
        "FeatureNetwork",
        "ImageShape",
        "Images",
        "Imported",
        "Importer",
        "Latent",
        "LeftOut",
        "Likelihood",
        "Metric",
        "Objective",
        "Outcome",
        "Pixels",
        "Posterior",
        "Sampler",
        "Statistic",
        "Turn",
        "Wrapper",
    ],
    "aegen.intervals": ["mean_interval"],
    "aegen.accumulation": ["StepMean", "micro_batches"],
    "aegen.autoencoder": ["BOUND", "Autoencoder", "bound"],
    "aegen.errors": ["AegenError", "EnvironmentFault", "PluginError", "RunError", "UsageError"],
    "aegen.evaluation": ["evaluate"],
    "aegen.evaluation.batch": ["Seen"],
    "aegen.factory": ["build_features"],
    "aegen.noise": ["exponential_like", "normal_like", "uniform_like"],
    "aegen.untrusted": ["parse_json", "read_text"],
    "aegen.foreign": ["read_tensors"],
    "aegen.model_spec": ["LatentStatistics", "ModelSpec"],
    "aegen.hooks": ["hookimpl"],
    "aegen.collectives": [
        "common_generator",
        "gather_rows",
        "mean_over_ranks",
        "own_rows",
        "sum_over_ranks",
        "take_rows",
    ],
    "aegen.registry": ["API_VERSION"],
    "aegen.reporting": ["Comparison", "check_page=check_place", "compare", "write_comparison", "write_report"],
    "aegen.schedules": ["Schedule"],
    "aegen.settings": ["DataSettings"],
    "aegen.spec": ["File", "Range", "Spec"],
    "aegen.training.fit_sampler": ["fit_sampler"],
    "aegen.training.run": ["train"],
    "aegen.inference": ["Model", "export", "import_model", "interpolate", "load", "reconstruct", "sample"],
    "aegen.data.decode": [
        "IMAGE_SUFFIXES=SUFFIXES",
        "Target",
        "common_target",
        "image_side=side",
        "read_images=read_many",
        "reshape_images=reshape",
    ],
    "aegen.data.encoded": ["ImageFiles=Files"],
    "aegen.data.decoded_cache": ["keep_images=keep"],
    "aegen.data.listing": ["list_images=list_folder"],
    "aegen.data.image_rows": ["Rows"],
    "aegen.data.shards": ["ShardRows", "shard_contents=contents"],
    "aegen.checkpoint": ["save_checkpoint=save"],
}
_WHERE = {
    name.partition("=")[0]: (module, name.rpartition("=")[2]) for module, names in _HOME.items() for name in names
}
__all__ = [
    "API_VERSION",
    "AUTOENCODER",
    "BOUND",
    "IMAGE_SUFFIXES",
    "AegenError",
    "Architecture",
    "Autoencoder",
    "Bottleneck",
    "Comparison",
    "DataSettings",
    "Dataset",
    "EnvironmentFault",
    "Exporter",
    "FeatureNetwork",
    "File",
    "ImageFiles",
    "ImageShape",
    "Images",
    "Imported",
    "Importer",
    "Latent",
    "LatentStatistics",
    "LeftOut",
    "Likelihood",
    "Metric",
    "Model",
    "ModelSpec",
    "Objective",
    "Outcome",
    "Pixels",
    "PluginError",
    "Posterior",
    "Range",
    "Rows",
    "RunError",
    "Sampler",
    "Schedule",
    "Seen",
    "ShardRows",
    "Spec",
    "Statistic",
    "StepMean",
    "Target",
    "Turn",
    "UsageError",
    "Wrapper",
    "bound",
    "build_features",
    "check_page",
    "common_generator",
    "common_target",
    "compare",
    "evaluate",
    "exponential_like",
    "export",
    "fit_sampler",
    "gather_rows",
    "hookimpl",
    "image_side",
    "import_model",
    "interpolate",
    "keep_images",
    "list_images",
    "load",
    "mean_interval",
    "mean_over_ranks",
    "micro_batches",
    "normal_like",
    "own_rows",
    "parse_json",
    "read_images",
    "read_tensors",
    "read_text",
    "reconstruct",
    "reshape_images",
    "sample",
    "save_checkpoint",
    "shard_contents",
    "sum_over_ranks",
    "take_rows",
    "train",
    "uniform_like",
    "write_comparison",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'aegen' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _WHERE[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
