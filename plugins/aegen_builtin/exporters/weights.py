"""The model's tensors, those of its fitted samplers, and nothing of the training: an aegen checkpoint that every command reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aegen import Autoencoder, Exporter, load, save_checkpoint


class Weights(Exporter):
    """The weights alone, with fitted samplers, in one safetensors file that every command reads."""

    suffix = ".safetensors"
    carries = frozenset({"samplers", "preprocessing", "classes"})

    def export(self, model: Autoencoder, path: Path, header: Mapping[str, Any]) -> list[Path]:
        """Write `model.*` and `sampler.*`; the header, which has all else, stays as it is."""
        save_checkpoint(path, {f"model.{k}": v for k, v in model.state_dict().items()} | self._fitted(), header)
        return [path]

    @torch.no_grad()
    def parity(self, model: Autoencoder, path: Path, x: Tensor) -> dict[str, float]:
        """Latents, images and samplers of the file read back."""
        loaded = load(path, device="cpu")
        again, mine = loaded.model, self._fitted()
        z = model.encode(x).mean
        found = {
            "encoder": float((again.encode(x).mean - z).abs().max()),
            "decoder": float((again.decode(z).mean - model.decode(z).mean).abs().max()),
        }
        if mine:
            kept = loaded.file.tensors("sampler.")
            found["samplers"] = max(
                float((kept[key.removeprefix("sampler.")] - value).abs().max()) for key, value in mine.items()
            )
        return found

    def _fitted(self) -> dict[str, Tensor]:
        return {f"sampler.{name}.{key}": value for name, state in self.samplers.items() for key, value in state.items()}
