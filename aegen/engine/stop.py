"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 ask the loop to save and stop; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self) -> bool:
        return self._asked

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals, in the main thread, where Python allows it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        named = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # the last two are not known everywhere
        heard = [s for s in signal.Signals if s.name in named]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            heard.remove(signal.SIGHUP)  # that is what nohup is for
        before = {s: signal.signal(s, self._catch) for s in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True
