"""Who trains a run: one process at a time, on any machine that sees its folder.

The holder writes its host and process into `training.lock` and touches that file every few seconds. Nothing is asked of the file system but
that a file is made once: the system's own locks do not reach other machines on many shared ones. Whoever only reads a run looks at none of this.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import SoftFileLease, Timeout

from aegen.errors import RunError, UsageError
from aegen.messages import Say, silent

NAME = "training.lock"
_LEASE, _BEAT = (
    60.0,
    5.0,
)  # seconds after which another machine's holder that was not seen to touch it is dead, and between its touches
_LOOK = 0.5  # seconds between two looks at it
_LOOKS = 10  # within that time, while it says nothing


_held: set[Path] = set()
"""The runs that this process trains."""


class Lock:
    """A run that this process trains, or wants to."""

    def __init__(self, home: Path) -> None:
        self.home, self.file = home, home / NAME
        self._lease = SoftFileLease(
            home / NAME, lease_duration=_LEASE, heartbeat_interval=_BEAT, thread_local=False, timeout=0
        )

    def take(self, say: Say = silent, *, waits: bool = True) -> None:
        """Hold it. What a process of this machine left that is no more is taken over; one of another machine is watched first.

        Args:
            waits: whether to watch, for up to a minute.

        Raises:
            UsageError: another process trains this run.
            OSError: the folder cannot be written.
        """
        self._acquire(say, waits)
        _held.add(self.home.resolve())

    def _acquire(self, say: Say, waits: bool) -> None:
        with suppress(Timeout):
            self._lease.acquire()
            return
        if (
            self._lease.is_lock_held_by_us and self.home.resolve() not in _held
        ):  # it could not be deleted when that ended
            self._lease.force_break()
            self._lease.acquire()
            return
        for _ in range(_LOOKS):  # who was faster by a moment has made the file, and not yet written who it is
            if self._lease.owner is not None:
                break
            time.sleep(_LOOK / _LOOKS)
            with suppress(Timeout):
                self._lease.acquire()
                return
        owner, seen = self._lease.owner, self._touched()
        if owner is None or not waits or not self._elsewhere():
            raise self._refusal()
        say(f"{self.home} was trained by {self._who()}; waiting up to {_LEASE:g} seconds to see whether it still is")
        deadline = time.monotonic() + _LEASE + _BEAT
        while time.monotonic() < deadline:
            with suppress(Timeout):
                self._lease.acquire(timeout=_LOOK)
                return
            if self._touched() != seen:
                break
        raise self._refusal()

    def give_back(self) -> None:
        """Let others train it."""
        _held.discard(self.home.resolve())
        with suppress(OSError):
            self._lease.release()

    def check(self, *, now: bool = False) -> None:
        """See that it is still held.

        Args:
            now: look at the file, and not only at what was last seen of it: a process that stood still has seen nothing.

        Raises:
            RunError: another process took it over, since this one had stood still for too long.
        """
        if self._lease.compromise is not None or (now and self._lost()):
            hint = f"nothing more is written by this one; see {self._who()}"
            raise RunError(f"another process took over the run {self.home}", hint=hint)

    def _lost(self) -> bool:
        try:
            Path(self._lease.lock_file).stat()
        except FileNotFoundError:
            return True
        except OSError:  # a shared disk that stutters says nothing of others
            return False
        return self._lease.owner is not None and not self._lease.is_lock_held_by_us

    def _touched(self) -> tuple[int, int] | None:
        try:
            told = Path(self._lease.lock_file).stat()
        except OSError:
            return None
        return told.st_ino, told.st_mtime_ns

    def _elsewhere(self) -> bool:
        """Whether the holder is of another machine, or of another container, whose processes cannot be seen from here."""
        owner = self._lease.owner
        # How a process here is called, which filelock tells of a holder alone: the host, and the container where there are several.
        with TemporaryDirectory() as folder:
            own = SoftFileLease(Path(folder) / NAME)
            with own:
                me = own.owner
        return owner is None or me is None or owner.hostname != me.hostname

    def _who(self) -> str:
        owner = self._lease.owner
        return f"process {owner.pid} on {owner.hostname.partition('?')[0]}" if owner is not None else "nobody"

    def _refusal(self) -> UsageError:
        if self._lease.owner is None:
            there = self.home / NAME
            return UsageError(f"{there} does not say who trains {self.home}", hint="delete it if nothing does")
        return UsageError(
            f"{self.home} is being trained by {self._who()}", hint="wait until that is done, or stop it, then resume"
        )


@contextmanager
def held(home: Path, say: Say = silent, *, waits: bool = True) -> Iterator[Lock]:
    """Hold the lock of a run; as `Lock.take`."""
    lock = Lock(home)
    lock.take(say, waits=waits)
    try:
        yield lock
    finally:
        lock.give_back()
