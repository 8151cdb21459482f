"""Threads beside the one that trains, and those of libraries that it calls."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import torch

_ARENA_MAX, _ARENAS = -8, 4  # the first one is mallopt's M_ARENA_MAX
_OPENMP = re.compile(r"/lib(gomp|iomp5|omp)[-.\w]*\.so[.\d]*$")


def pool(count: int, name: str) -> ThreadPoolExecutor:
    """Threads that each compute alone."""
    _few_arenas()
    return ThreadPoolExecutor(count, name, initializer=compute_alone)


def workers() -> int:
    """Threads for decoding: one for each core that this process may use, and no more than 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, cores)


def compute_alone() -> None:
    """Let the arithmetic of the calling thread be done by itself, and by no team of threads.

    OpenMP gives every thread that computes a team of its own. As soon as there are more threads in teams than cores, GNU's lets all of
    them sleep while they wait for each other, those of the training loop too, and a small net trains at two thirds of its speed.
    torch.set_num_threads would say it for threads that begin later, too.
    """
    torch.get_num_threads()  # or torch would set it anew at this thread's first operation
    for set_threads in _openmp():
        set_threads(1)


@contextmanager
def one_blas() -> Iterator[None]:
    """Let the matrix products of numpy, scipy and scikit-learn be done by one thread meanwhile.

    Those of OpenBLAS wait for each other by spinning, however long: a mixture of ten Gaussians on 10,000 latents of 64 numbers took ten
    times as long with two threads as with one while other processes computed. What is asked of scikit-learn here is many small products,
    of which more threads make little. torch has its own threads and its own BLAS, which this leaves alone.
    """
    from threadpoolctl import threadpool_limits  # comes with scikit-learn; not where help is asked for

    with threadpool_limits(1, user_api="blas"):
        yield


@cache
def _few_arenas() -> None:
    """Let GNU's allocator give threads a few arenas together, and not one each, up to eight times the cores.

    It keeps up to 64 MB that were given back in every arena, which sixteen threads that decode one large image after another fill all.
    """
    with suppress(OSError, AttributeError, TypeError):  # another system, which has no such function
        ctypes.CDLL(None).mallopt(_ARENA_MAX, _ARENAS)


@cache
def _openmp() -> list[Callable[[int], object]]:
    """`omp_set_num_threads` of the libraries that this process has loaded; none where that is not known."""
    found: list[Callable[[int], object]] = []
    with suppress(OSError):
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
        for path in sorted({line.partition("/")[1] + line.partition("/")[2] for line in maps.splitlines()}):
            if _OPENMP.search(path):
                with suppress(OSError, AttributeError):
                    found.append(ctypes.CDLL(path).omp_set_num_threads)
    return found
