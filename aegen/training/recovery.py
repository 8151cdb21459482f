"""What `train.on_nan` means: when a run gives up, skips, or goes back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aegen.errors import RunError
from aegen.training.metrics import NotFinite, Recorder
from aegen.training.progress import Progress
from aegen.training.turns import TurnOptimizer

MOST_SKIPPED = 25  # in a row
MOST_ROLLBACKS = 3


def failure(what: str, last_good: Path | None) -> RunError:
    """What is no longer finite as advice, with the last good checkpoint."""
    good, start = "there is no checkpoint yet", ""
    if last_good:
        good, start = f"the last good checkpoint is {last_good}", f"--init-from {last_good} and "
    return RunError(f"{what}; {good}", hint=f"try {start}a lower --lr, --set train.clip=1 or --precision fp32")


def skipped(players: Sequence[TurnOptimizer], recorders: Sequence[Recorder], progress: Progress) -> str:
    """Count the steps since the last time that changed nothing; say how many, or nothing where there were none.

    Raises:
        NotFinite: the last `MOST_SKIPPED` steps did.
    """
    verdicts: dict[int, bool] = {}
    for player in players:
        for step, bad in player.guard.read() if player.guard is not None else ():
            verdicts[step] = verdicts.get(step, False) or bad
    for step in sorted(verdicts):
        progress.skipped_in_row = progress.skipped_in_row + 1 if verdicts[step] else 0
    dropped = [step for step, bad in verdicts.items() if bad]
    progress.skipped += len(dropped)
    if not dropped:
        return ""
    found = [recorder.found for recorder in recorders if recorder.found is not None]
    what = str(found[0]) if found else f"a gradient was not finite at step {min(dropped)}"
    if progress.skipped_in_row >= MOST_SKIPPED:
        raise NotFinite(f"the last {progress.skipped_in_row} steps were not finite, nothing changed ({what})")
    many = f"{len(dropped)} of {len(verdicts)} steps until step {progress.step} changed nothing"
    return f"{many}: {what}; {progress.skipped} in all"
