"""Curves and pictures for TensorBoard, in the folder `tensorboard` of the run; `--track tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aegen import EnvironmentFault, hookimpl


class TensorBoard:
    """Curves and pictures for TensorBoard."""

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise EnvironmentFault(
                "--track tensorboard needs tensorboard, which is not installed",
                hint="pip install 'aegen[tensorboard]'",
            ) from error
        self._open: Any = SummaryWriter
        self._writer: Any = None

    @hookimpl
    def aegen_run_start(self, run: Path, step: int) -> None:
        """A resumed run hides the events of the steps that it takes again."""
        self._writer = self._open(str(run / "tensorboard"), purge_step=step or None)

    @hookimpl
    def aegen_step_end(self, step: int, metrics: Mapping[str, float]) -> None:
        """Training curves."""
        for name, value in metrics.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    @hookimpl
    def aegen_epoch_end(self, step: int, metrics: Mapping[str, float]) -> None:
        """Validation curves."""
        for name, value in metrics.items():
            self._writer.add_scalar(f"validation/{name}", value, step)

    @hookimpl
    def aegen_images_logged(self, name: str, path: Path, step: int) -> None:
        """The picture as it was written."""
        with Image.open(path) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    @hookimpl
    def aegen_run_end(self) -> None:
        """Flush and close."""
        if self._writer is not None:
            self._writer.close()
