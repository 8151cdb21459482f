"""Use a trained model: load, sample, reconstruct, interpolate, export."""

from aegen.inference.exporting import Exported, export
from aegen.inference.importing import import_model
from aegen.inference.interpolation import interpolate
from aegen.inference.latents import METHODS
from aegen.inference.loading import trust_components
from aegen.inference.model import Model, load
from aegen.inference.reconstruction import reconstruct
from aegen.inference.samplers import ex_post, fit_sampler
from aegen.inference.sampling import sample, sample_alone

__all__ = [
    "METHODS",
    "Exported",
    "Model",
    "ex_post",
    "export",
    "fit_sampler",
    "import_model",
    "interpolate",
    "load",
    "reconstruct",
    "sample",
    "sample_alone",
    "trust_components",
]
