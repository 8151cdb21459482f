"""How much memory this process could have at most: what needs more can only fail, after minutes or by the system's hand."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from aegen.errors import EnvironmentFault


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
