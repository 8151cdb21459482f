"""Measure trained models by a protocol that is written down."""

from aegen.evaluation.examination import Evaluation, check_place, evaluate, save
from aegen.evaluation.protocol import PROTOCOLS, Protocol
from aegen.evaluation.rows import Number

__all__ = ["PROTOCOLS", "Evaluation", "Number", "Protocol", "check_place", "evaluate", "save"]
