"""Settings of the process for arithmetic on a CPU. Made before the first parallel region: threads inherit them when they begin."""

from __future__ import annotations

import ctypes
import logging
import sys

import torch

_TRIM, _MAPPED, _ARENAS = -1, -4, -8  # names of mallopt's parameters, from malloc.h


def prepare() -> None:
    """Flush denormal numbers to zero, and keep freed memory.

    The moments of units that have died decay into denormals, on which processors are ten times slower. Activations are
    allocated and freed at each step; given back to the system each time, their pages must be cleared and mapped anew. So glibc
    is to map no block by itself, to trim nothing, and to have one heap for all threads: those of others hold 64 MB at most.
    """
    torch.set_flush_denormal(True)
    # The compiler remarks that there is no CUDA, which a run on a CPU need not be told.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # glibc has it, musl has not
            libc.mallopt(_MAPPED, 0)
            libc.mallopt(_TRIM, -1)  # never
            libc.mallopt(_ARENAS, 1)
