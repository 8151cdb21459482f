"""Settings of the process for arithmetic on a CPU. Made before the first parallel region: threads inherit them when they begin."""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch

_TRIM, _MAPPED, _ARENAS = -1, -4, -8  # names of mallopt's parameters, from malloc.h
_LARGE_PAGE = 2**21
_RESERVED = 4  # the part of the machine's memory that the heap may fill before it grows by small pages


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
            libc.mallopt(_TRIM, -1)
            libc.mallopt(_ARENAS, 1)


def use_large_pages() -> None:
    """Let the heap grow to what a run may need, which takes no memory yet, and ask for pages of 2 MB where it has grown.

    The processor has a short table of where pages lie: with fewer of them nets train 2 % faster. Where memory is in small pieces a large page
    takes the system four times as long to find as the small ones, so this is for what is used again and again, and is called when
    the images have been read.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt"):
        return
    with suppress(OSError, ValueError):
        if Path("/proc/sys/vm/overcommit_memory").read_text(encoding="ascii").strip() != "2":
            _grow_by_large_pages(libc)
        # else each process would be charged for what it may fill


def _grow_by_large_pages(libc: ctypes.CDLL) -> None:
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    before = _heap_end()
    libc.free(libc.malloc(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _RESERVED))
    end = _heap_end()  # nothing is trimmed, so it stays; where memory has a limit it may be as it was
    first = before + -before % _LARGE_PAGE
    if first < end:
        libc.madvise(first, end - first, mmap.MADV_HUGEPAGE)


def _heap_end() -> int:
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.endswith("[heap]"):
            return int(line.split()[0].partition("-")[2], 16)
    return 0
