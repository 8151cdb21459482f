"""Work for a loop that takes its results in order, done some steps before it asks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from aegen import threads

T = TypeVar("T")


class Ahead(Generic[T]):
    """`make(n)` in background threads, for the next numbers after the last one taken.

    What is made depends on its number alone, so it does not matter who asks, or in what order; an error is raised where its result is
    taken. Idle threads end when the object is gone.

    Args:
        make: safe in several threads.
        depth: how many are made ahead.
        count: of the threads that make them.
    """

    def __init__(self, make: Callable[[int], T], depth: int, count: int = 1) -> None:
        self._make, self._depth = make, depth
        self._coming: dict[int, Future[T]] = {}
        self._pool = threads.pool(count, "aegen-data")

    def take(self, number: int) -> T:
        """What `make(number)` gives; waits if it is not ready."""
        for passed in [n for n in self._coming if not number <= n <= number + self._depth]:
            self._coming.pop(passed).cancel()
        for n in range(number, number + self._depth + 1):
            if n not in self._coming:
                self._coming[n] = self._pool.submit(self._make, n)
        return self._coming.pop(number).result()
