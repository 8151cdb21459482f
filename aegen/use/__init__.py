"""Use a trained model: load, sample, reconstruct, interpolate, export."""

from aegen.use.exporting import Exported, export
from aegen.use.interpolation import interpolate
from aegen.use.latents import METHODS
from aegen.use.loading import trust_components
from aegen.use.model import Model, load
from aegen.use.reconstruction import reconstruct
from aegen.use.samplers import ex_post, fit_sampler, save_sampler
from aegen.use.sampling import sample, sample_alone

__all__ = [
    "METHODS",
    "Exported",
    "Model",
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
