"""Signals that ask a program to end: which they are, who hears them, and when they may become an exception."""

from __future__ import annotations

import _thread
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""Those that end a program; the last two are not known everywhere."""

_PATIENCE = 1.0  # seconds
_LONGEST = 10.0  # seconds that an import is waited for
_LOOK = 0.02  # seconds

Handler = Callable[[int, FrameType | None], Any]

_listeners: list[list[int]] = []


def known() -> list[signal.Signals]:
    """Those of `NAMES` that this system has."""
    return [s for s in signal.Signals if s.name in NAMES]


def ignore() -> None:
    """Hear none of them any more: what is being said is said, what ends ends."""
    if threading.current_thread() is threading.main_thread():
        for number in known():
            signal.signal(number, signal.SIG_IGN)


def asked() -> bool:
    """Whether a signal came, as far as can be told: where nobody listens, as in a notebook, a KeyboardInterrupt must be one."""
    return not _listeners or any(_listeners)


@contextmanager
def caught(handler: Handler, after: Handler | None = None) -> Iterator[list[int]]:
    """Have `handler` called, in the main thread, where Python allows it; yields the signals that came.

    One that is ignored, as by `nohup`, stays so.

    Args:
        after: what hears them from then on; by default what did before.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def hear(number: int, frame: FrameType | None) -> None:
        came.append(number)
        try:
            handler(number, frame)
        except KeyboardInterrupt:
            for outer in _listeners:  # what a loop only notes, and ends by itself, is no matter of those around it
                if outer is not came:
                    outer.append(number)
            raise

    before = {s: signal.getsignal(s) for s in known()}
    before = {s: old for s, old in before.items() if old not in (signal.SIG_IGN, None)}
    _listeners.append(came)
    try:
        for number in before:
            signal.signal(number, hear)
        yield came
    finally:
        for number, old in before.items():
            signal.signal(number, after or old)
        _listeners[:] = [one for one in _listeners if one is not came]  # equal ones are others'


class Interrupt:
    """A handler that raises KeyboardInterrupt.

    A second signal within a second, as of an impatient finger, does not disturb the tidying up. One that comes in the middle of an
    import is raised when that is over: extension modules are made by code of other languages, which an exception of Python's aborts.

    Args:
        outermost: imports that it is part of itself do not count.
    """

    def __init__(self, outermost: FrameType) -> None:
        self._outermost: FrameType | None = outermost
        self._main = threading.get_ident()
        self._latest = -math.inf
        self._waits = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._waits or time.monotonic() - self._latest <= _PATIENCE:
            return
        if self._imports(frame):
            self.later(number)
            return
        self._latest = time.monotonic()
        raise KeyboardInterrupt

    def later(self, number: int) -> None:
        """As if the signal came once no import is in progress."""
        self._waits, self._latest = True, -math.inf
        # Unlike threading's, this takes no lock that the very moment of the signal may hold.
        _thread.start_new_thread(self._wait, (number,))

    def forget(self) -> None:
        """What still waits comes no more: nobody listens."""
        self._waits = False

    def _wait(self, number: int) -> None:
        until = time.monotonic() + _LONGEST
        while self._imports(sys._current_frames().get(self._main)):
            if time.monotonic() > until:
                self._outermost = None  # whatever comes of it
            time.sleep(_LOOK)
        if self._waits:
            self._waits = False
            _thread.interrupt_main(signal.Signals(number))

    def _imports(self, frame: FrameType | None) -> bool:
        while self._outermost is not None and frame is not None and frame is not self._outermost:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                return True
            frame = frame.f_back
        return False


@contextmanager
def raised(after: Handler | None = None) -> Iterator[list[int]]:
    """Signals become KeyboardInterrupt, so that nothing half-written is left; yields those that came.

    Args:
        after: what hears them from then on; by default what did before.
    """
    interrupt = Interrupt(sys._getframe(2))
    unraisable = sys.unraisablehook

    def lost(what: Any) -> None:
        # In a `__del__` and the like Python may raise nothing: it prints the exception and goes on.
        if isinstance(what.exc_value, KeyboardInterrupt) and came:
            interrupt.later(came[-1])
        else:
            unraisable(what)

    with caught(interrupt, after) as came:
        sys.unraisablehook = lost
        try:
            yield came
        finally:
            sys.unraisablehook = unraisable
            interrupt.forget()
