"""How much memory this process could have at most, since what needs more can only fail, after minutes or by the system's hand; and memory
that is used again."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

from aegen.errors import EnvironmentFault

# mallopt's names, from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_LARGE = (
    32 * 2**20
)  # bytes: the most that GNU's allocator itself makes the threshold, and twice that what it leaves at the top
_MOST_HOLES = 10_000
_holes: list[int] = []


@contextmanager
def reused() -> Iterator[None]:
    """Let large arrays that were given back be used again meanwhile, where GNU's allocator would give them to the system.

    A net that is shown one batch after another asks for the same tens of megabytes again and again, and the system clears each page of
    them each time: a quarter of the time of an evaluation. Afterwards what is not in use goes back.
    """
    try:
        libc = ctypes.CDLL(None)
        mallopt, trim = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError, TypeError):  # another system
        yield
        return
    _open_holes(libc)
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        # Where the allocator comes to by itself; once told anything, it learns no more.
        mallopt(_MMAP_MAX, 65_536)
        mallopt(_MMAP_THRESHOLD, _LARGE)
        mallopt(_TRIM_THRESHOLD, 2 * _LARGE)
        trim(0)
        _close_holes(libc)


def _close_holes(libc: ctypes.CDLL) -> None:
    """Take the large holes of the heap, without touching their pages.

    Where something small lies above them the heap cannot shrink, and the allocator would go on to fill holes before it asks the system:
    what is put there by others afterwards would not go back any more.
    """
    if not hasattr(libc, "mallinfo2"):  # older than 2.33
        return
    libc.mallinfo2.restype = _Counts
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    while len(_holes) < _MOST_HOLES:
        before = libc.mallinfo2().used
        block = libc.malloc(_LARGE)
        if not block:
            return
        if (
            libc.mallinfo2().used < before + _LARGE
        ):  # the system's own, or of another allocator that stands before GNU's
            _give_back(libc, block)
            return
        _holes.append(block)


class _Counts(ctypes.Structure):
    """GNU's mallinfo2; what is used is that of heaps, without what the system gave for itself."""

    _fields_: ClassVar = [(name, ctypes.c_size_t) for name in (*"abcdefg", "used", "free", "top")]


def _open_holes(libc: ctypes.CDLL) -> None:
    while _holes:
        _give_back(libc, _holes.pop())


def _give_back(libc: ctypes.CDLL, block: int) -> None:
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.free(block)


def most() -> int | None:
    """Bytes of memory and swap that the machine, its container and its limits leave this process; None where that is not known."""
    found = []
    with suppress(OSError, ValueError, LookupError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        told = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        found.append(told["MemTotal"] + told.get("SwapTotal", 0))
    with suppress(OSError, ValueError):
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            found.append(int(limit))
    with suppress(ImportError, OSError, ValueError):  # none on Windows
        import resource

        limit_as, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit_as != resource.RLIM_INFINITY:
            found.append(limit_as)
    return min(found, default=None)


def require(size: int, what: str, hint: str, have: int | None = None) -> None:
    """Refuse at once what can only fail.

    Args:
        size: bytes that it takes at least.
        have: bytes that there are; this process's `most()` by default.

    Raises:
        EnvironmentFault: there can never be so many.
    """
    limit = most() if have is None else have
    if limit is not None and size > limit:
        message = f"{what} takes at least {size / 1e9:,.1f} GB, and there are {limit / 1e9:,.1f} GB of memory"
        raise EnvironmentFault(message, hint=hint)


ADVICE = "use smaller images, a smaller model or batch, or fewer at once"
NONE_LEFT = f"there is not enough memory for this; {ADVICE}"
"""What an error says where memory ran out."""
_STARVED = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "Cannot allocate memory",
    "bad_alloc",
    "can't start new thread",
    "storage of size 0",  # what torch says of an allocation whose size does not fit 63 bits
    "torage size calculation overflowed",
    "numel: integer multiplication overflow",
    "invalid sizes, only one dimension",
)


def lacks_memory(error: BaseException | None) -> bool:
    """Whether an exception, of whatever library, means that memory ran out."""
    if error is None:
        return False
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _STARVED)
