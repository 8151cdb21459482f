"""Measure trained models by a protocol that is written down. Looked up when first used: the protocols alone need no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from aegen.evaluation.protocol import PROTOCOLS, Protocol

if TYPE_CHECKING:
    from aegen.evaluation.evaluator import Evaluation, check_place, evaluate, save
    from aegen.evaluation.per_image import Number

__all__ = ["PROTOCOLS", "Evaluation", "Number", "Protocol", "check_place", "evaluate", "save"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{'per_image' if name == 'Number' else 'evaluator'}"), name)
    globals()[name] = found
    return found
