"""Checks of samplers: what they draw is held against what they were fitted to."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from aegen.autoencoder import Autoencoder, check_needs
from aegen.contract import outputs
from aegen.energy_distance import energy_distance
from aegen.errors import UsageError
from aegen.protocols import Sampler
from aegen.testing.models import check_options, labels, made, models

_COUNT = 600  # latents that it is fitted to, and that it draws
_ROUNDS, _STEPS, _BATCH, _LR = 8, 30, 128, 3e-3  # of the training of one that learns
_MEAN, _SPREAD, _CORRELATION = 0.25, 1.4, 0.25  # how far its moments may be off: in deviations, as a factor, in itself
_SHARE = 0.5  # of the energy distance of latents whose dimensions were shuffled, so that they are not correlated


def check_sampler(cls: type[Sampler], **options: Any) -> None:
    """Fitted on latents, saved and loaded, it draws the same latents for the same seed; a need unmet is refused.

    Of latents that are correlated, neither centred nor of unit scale, it draws ones with their means, deviations and correlations, and with
    an energy distance to others of their kind that no sampler has which knows nothing but each dimension by itself.
    """
    check_options(cls)
    drawn: list[Autoencoder] = []
    for model in models():
        try:
            check_needs("sampler", cls.needs, model.bottleneck)
            sampler, again = (made(cls, model, {}, options) for _ in range(2))
        except UsageError:
            continue
        latents = torch.randn(40, *model.latent_shape) * 2 + 1
        if cls.fitted:
            sampler.fit(latents, 0)
        if cls.learns:
            _check_loss(sampler, latents)
        again.load_state_dict(sampler.state_dict())
        draws = [s.sample(7, torch.Generator().manual_seed(3)) for s in (sampler, again)]
        assert draws[0].shape == (7, *model.latent_shape), f"sample gave {tuple(draws[0].shape)}"
        assert not draws[0].requires_grad, "a sample has a gradient"
        assert draws[0].isfinite().all(), "a sample is not finite"
        assert torch.equal(*draws), "a saved and loaded sampler draws other latents"
        other = again.sample(7, torch.Generator().manual_seed(4))
        assert not torch.equal(other, draws[0]), "another seed draws the same latents"
        drawn.append(model)
    assert drawn, "it draws for none of the models that it is checked on"
    several = [model for model in drawn if math.prod(model.latent_shape) > 1]
    if cls.fitted and several:
        _check_draws(cls, min(several, key=lambda model: math.prod(model.latent_shape)), options)


def _check_loss(sampler: Sampler, latents: Tensor) -> None:
    """An Outcome of one number an image, with and without classes, and gradients."""
    for told in (None, labels(len(latents))):
        found = sampler.loss(latents, told)
        outputs.outcome(found, latents, learns=True)
    torch.stack([term.mean() for term in found.terms.values()]).sum().backward()
    moved = [p for p in sampler.parameters() if p.grad is not None]
    assert moved, "no gradient of its loss reaches any of its parameters"
    assert all(p.grad.isfinite().all() for p in moved if p.grad is not None), "a gradient is not finite"
    sampler.zero_grad(set_to_none=True)


def _check_draws(cls: type[Sampler], model: Autoencoder, options: dict[str, Any]) -> None:
    """It is fitted to latents of a known kind; what it draws must be of that kind."""
    generator = torch.Generator().manual_seed(0)
    fitted, held_out = (_correlated(model.latent_shape, generator) for _ in range(2))
    shuffled = torch.stack([c[torch.randperm(_COUNT, generator=generator)] for c in fitted.flatten(1).T], 1)
    bound = _SHARE * energy_distance(shuffled.view_as(fitted), held_out)
    torch.manual_seed(0)
    sampler = made(cls, model, {}, options)
    sampler.fit(fitted, 0)
    wrong = _wrong(sampler, held_out, bound)
    for _ in range(_ROUNDS if cls.learns else 0):
        if not wrong:
            break
        _train(sampler, fitted, generator)
        wrong = _wrong(sampler, held_out, bound)
    assert not wrong, wrong


def _correlated(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Normal latents (N, *z) of mean 1 and deviation 2, with a correlation of 0.8 between any two dimensions."""
    common = torch.randn(_COUNT, 1, generator=generator)
    own = torch.randn(_COUNT, math.prod(shape), generator=generator)
    return (1 + 2 * (math.sqrt(0.8) * common + math.sqrt(0.2) * own)).view(_COUNT, *shape)


def _train(sampler: Sampler, latents: Tensor, generator: torch.Generator) -> None:
    optimizer = torch.optim.Adam(sampler.parameters(), _LR)
    sampler.train()
    for _ in range(_STEPS):
        batch = latents[torch.randint(_COUNT, (_BATCH,), generator=generator)]
        optimizer.zero_grad()
        terms = sampler.loss(batch, None).terms.values()
        torch.stack([term.mean() for term in terms]).sum().backward()
        optimizer.step()
    sampler.eval()


@torch.no_grad()
def _wrong(sampler: Sampler, held_out: Tensor, bound: float) -> str:
    """What is wrong with its draws, or nothing."""
    drawn = sampler.sample(_COUNT, torch.Generator().manual_seed(1))
    x, y = drawn.flatten(1), held_out.flatten(1)
    off = float(((x.mean(0) - y.mean(0)) / y.std(0)).abs().max())
    if off > _MEAN:
        return f"the mean of its draws is {off:.2f} deviations off that of the latents that it was fitted to"
    factor = x.std(0) / y.std(0)
    worst = float(torch.maximum(factor, 1 / factor).max())
    if not worst <= _SPREAD:
        return f"the deviation of its draws is {worst:.2f} times as large or small as that of the latents"
    off = float((torch.corrcoef(x.T) - torch.corrcoef(y.T)).abs().max())
    if not off <= _CORRELATION:
        return f"a correlation of its draws is {off:.2f} off that of the latents: it ignores how dimensions go together"
    apart = energy_distance(drawn, held_out)
    if apart > bound:
        return f"the energy distance of its draws to the latents is {apart:.3g}, more than {bound:.3g}"
    return ""
