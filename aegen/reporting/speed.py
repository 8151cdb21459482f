"""How long a run took, from the speeds that it logged."""

from __future__ import annotations

import statistics

from aegen.reporting.runs import Run

_CENTURY = 3.2e9  # seconds


def images_per_second(run: Run) -> float | None:
    """The median over the log, which forgets the slow first steps."""
    found = [line["images_per_second"] for line in _training(run)]
    return statistics.median(found) if found else None


def training_seconds(run: Run) -> float | None:
    """The time of all steps, without validation and pictures."""
    config = run.config
    images = config.get("train.batch_size", 0) * config.get("train.accumulate", 1)
    images *= run.environment.get("device", {}).get("processes", 1)
    seconds, before = 0.0, 0.0
    for line in _training(run):
        seconds += (line["step"] - before) * images / line["images_per_second"]
        before = line["step"]
    return seconds or None


def _training(run: Run) -> list[dict[str, float]]:
    speed = "images_per_second"
    return [
        line
        for line in run.lines
        if line["split"] == "train" and isinstance(line.get(speed), int | float) and line[speed] > 0
    ]


def duration(seconds: float) -> str:
    """`4.2 s`, `12 min 5 s`, `3 h 20 min`."""
    if not seconds < _CENTURY:
        return "a time that cannot be"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def file_size(size: int) -> str:
    """`1.4 MB`, in powers of ten, as disks are sold."""
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= least:
            return f"{size / least:.1f} {unit}"
    return f"{size} B"
