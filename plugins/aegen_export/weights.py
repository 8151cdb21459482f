"""The model's tensors and nothing of the training: an aegen checkpoint that every command reads, a fraction of the size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aegen import Autoencoder, Exporter, load, save_checkpoint


class Weights(Exporter):
    """The weights alone, in one safetensors file that every command reads."""

    suffix = ".safetensors"

    def export(self, model: Autoencoder, path: Path, header: Mapping[str, Any]) -> list[Path]:
        """Write `model.*`; fitted samplers stay with the run."""
        tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
        save_checkpoint(path, tensors, {**header, "samplers": {}})
        return [path]

    @torch.no_grad()
    def parity(self, model: Autoencoder, path: Path, x: Tensor) -> dict[str, float]:
        """Latents and images of the file read back."""
        again = load(path, device="cpu").model
        z = model.encode(x).mean
        return {
            "encoder": float((again.encode(x).mean - z).abs().max()),
            "decoder": float((again.decode(z).mean - model.decode(z).mean).abs().max()),
        }
