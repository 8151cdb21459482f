"""Schedules are values: a number that is a function of the training step.

Written where a number may stand, `--objective.beta "linear(0,1,2000)"`. Being functions of the step alone they
keep no counter, so neither validation nor a resumed run can disturb them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from aegen.errors import UsageError, did_you_mean

_FORMS = {
    "linear": "linear(FROM, TO, STEPS)",
    "cosine": "cosine(FROM, TO, STEPS)",
    "step": "step(BEFORE, AFTER, STEP)",
    "cyclic": "cyclic(LOW, HIGH, PERIOD, CYCLES)",
}
_CALL = re.compile(r"^\s*([a-z]+)\s*\(([^()]*)\)\s*$")


@dataclass(frozen=True)
class Schedule:
    """A number that depends on the training step.

    `linear` and `cosine` go FROM → TO over STEPS and stay; `step` jumps at STEP; `cyclic` rises from LOW to HIGH in
    the first half of each PERIOD and stays HIGH in the second, CYCLES times, then stays HIGH (Fu et al., Cyclical
    Annealing Schedule, 2019).
    """

    form: str
    low: float
    high: float
    steps: int
    cycles: int = 1

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read `"linear(0, 1, 2000)"`.

        Raises:
            UsageError: the form is unknown or its numbers do not fit.
        """
        match = _CALL.match(text)
        accepted = ", ".join(_FORMS.values())
        if not match:
            raise UsageError(f"{text!r} is neither a number nor a schedule", hint=f"schedules are {accepted}")
        form, inside = match.groups()
        if form not in _FORMS:
            hint = did_you_mean(form, _FORMS) or f"schedules are {accepted}"
            raise UsageError(f"unknown schedule {form!r} in {text!r}", hint=hint)
        try:
            numbers = [float(part) for part in inside.split(",")]
        except ValueError:
            numbers = []
        wanted = 4 if form == "cyclic" else 3
        whole = all(math.isfinite(n) for n in numbers) and all(n == int(n) and n >= 1 for n in numbers[2:])
        if len(numbers) != wanted or not whole:
            raise UsageError(f"{text!r} does not fit {_FORMS[form]}", hint="steps and cycles are whole numbers ≥ 1")
        low, high, *rest = numbers
        return cls(form, low, high, *(int(n) for n in rest))

    def __call__(self, step: int) -> float:
        """The value at `step` (0 is the first step)."""
        t = step / self.steps
        if self.form == "step":
            t = float(step >= self.steps)
        elif self.form == "cyclic":
            t = 1.0 if step >= self.end else min(1.0, 2 * (t % 1))
        t = min(1.0, t)
        if self.form == "cosine":
            t = (1 - math.cos(math.pi * t)) / 2
        return self.low + (self.high - self.low) * t

    @property
    def end(self) -> int:
        """The first step from which the value no longer changes."""
        return self.steps * self.cycles

    def __str__(self) -> str:
        numbers = [f"{self.low:g}", f"{self.high:g}", str(self.steps)]
        if self.form == "cyclic":
            numbers.append(str(self.cycles))
        return f"{self.form}({','.join(numbers)})"
