"""How much memory all threads together may use to decode images."""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache

MOST = 2**30
"""Bytes for all threads together; an image that needs more is decoded while no other is."""
LARGE = 2**26
"""Bytes of an encoded image, from which it is not even read beside others."""
_SMALL = 2**22  # bytes that are not worth counting
_KEPT = 2**25  # bytes that GNU's allocator may keep for a thread that gave them back


class Room:
    """Bytes that threads share: who finds too few waits, in the order of asking.

    A thread that holds some and asks for more is not made to wait: it took what it needs when it asked first.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._used = 0
        self._change, self._waiting = threading.Condition(), deque[object]()
        self._mine = threading.local()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """`size` bytes, or all of them where that is more than there are, until the block is left."""
        size = min(size, self.most)
        if size <= _SMALL or getattr(self._mine, "holds", False):
            yield
            return
        ticket = object()
        with self._change:
            self._waiting.append(ticket)
            try:
                self._change.wait_for(lambda: self._waiting[0] is ticket and self._used + size <= self.most)
                self._used += size
            finally:
                self._waiting.remove(ticket)
                self._change.notify_all()
        self._mine.holds = True
        try:
            yield
        finally:
            self._mine.holds = False
            if size >= _KEPT:
                for trim in _trim():
                    trim(0)
            with self._change:
                self._used -= size
                self._change.notify_all()


@cache
def _trim() -> list[Callable[[int], object]]:
    """GNU's `malloc_trim`: its allocator keeps what every thread gave back, so that many threads hold much that none of them uses."""
    found: list[Callable[[int], object]] = []
    with suppress(OSError, AttributeError, TypeError):
        found.append(ctypes.CDLL(None).malloc_trim)
    return found


ROOM = Room(MOST)
