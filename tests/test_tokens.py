"""Latents that are tokens in a row, (D, n), from training to codes and back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import aegen
from aegen import registry

TOKENS = '''
import math
from torch import nn
from aegen import Architecture, ImageShape

class Tokens(Architecture):
    """An image as six tokens in a row."""

    def __init__(self, image: ImageShape, fan_in: int) -> None:
        self.image, self.fan_in = image, fan_in

    def encoder(self) -> nn.Module:
        size = math.prod(self.image)
        return nn.Sequential(nn.Flatten(), nn.Linear(size, 6 * self.fan_in), nn.Unflatten(1, (self.fan_in, 6)))

    def decoder(self, latent: tuple[int, ...], fan_out: int) -> nn.Module:
        _, height, width = self.image
        net = nn.Linear(math.prod(latent), fan_out * height * width)
        return nn.Sequential(nn.Flatten(), net, nn.Unflatten(1, (fan_out, height, width)))
'''


@pytest.mark.parametrize(
    ("objective", "options", "codes"),
    [
        ("vae", {"bottleneck.dim": 3}, None),
        ("ae", {"bottleneck.dim": 3}, None),
        ("vq-vae", {"bottleneck.dim": 4, "bottleneck.codes": 16}, (6,)),
        ("vq-vae", {"bottleneck.name": "residual-vq", "bottleneck.dim": 4, "bottleneck.codes": 16}, "books"),
        ("fsq-vae", {}, (6,)),
    ],
)
def test_tokens_are_trained_encoded_looked_up_and_drawn(
    objective: str, options: dict[str, Any], codes: Any, tmp_path: Path
) -> None:
    (tmp_path / "tokens.py").write_text(TOKENS)
    name = f"{tmp_path / 'tokens.py'}:Tokens"
    registry.trust(name)
    run = tmp_path / "run"
    aegen.train(arch=name, objective=objective, data="digits", size=8, steps=12, device="cpu", run_dir=run, **options)
    model = aegen.load(run, device="cpu")
    x = torch.rand(3, 1, 8, 8) * 2 - 1
    latent = model.encode(x)
    assert len(model.latent_shape) == 2 and model.latent_shape[1] == 6
    assert latent.mean.shape == (3, *model.latent_shape) and model.decode(latent.mean).shape == x.shape
    assert model.sample(2).shape == (2, 1, 8, 8)
    assert len(model.latent_statistics.mean) == model.latent_shape[0]
    if codes is None:
        assert latent.codes is None
        return
    assert latent.codes is not None
    books = len(model.model.bottleneck.codebooks)
    assert latent.codes.shape == (3, *([books] * (books > 1)), 6)
    torch.testing.assert_close(model.lookup(latent.codes), latent.mean, rtol=1e-5, atol=1e-5)
    if objective == "fsq-vae":
        done = aegen.export(run, format="onnx", out=tmp_path / "onnx")
        assert math.isfinite(max(done.parity.values())) and max(done.parity.values()) < 1e-4
