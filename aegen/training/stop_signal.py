"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from aegen import signals


class Stop:
    """A signal asks the loop to save and stop; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self._asked = False
        self._interrupt = signals.Interrupt(sys._getframe(1))

    def __call__(self) -> bool:
        return self._asked

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals, in the main thread, where Python allows it."""
        with signals.caught(self._catch):
            try:
                yield
            finally:
                self._interrupt.forget()

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            self._interrupt(number, frame)
        self._asked = True
