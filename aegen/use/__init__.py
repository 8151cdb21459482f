"""Use a trained model: load, sample, reconstruct, interpolate, export."""

from aegen.use.exporting import Exported, export
from aegen.use.interpolation import METHODS, interpolate
from aegen.use.loading import Loaded, load, trust_components
from aegen.use.reconstruction import reconstruct
from aegen.use.sampling import draw, ex_post, fit_sampler, sample, sample_alone, save_sampler

__all__ = [
    "METHODS",
    "Exported",
    "Loaded",
    "draw",
    "ex_post",
    "export",
    "fit_sampler",
    "interpolate",
    "load",
    "reconstruct",
    "sample",
    "sample_alone",
    "save_sampler",
    "trust_components",
]
