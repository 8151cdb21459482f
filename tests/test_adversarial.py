"""Two players, one loop: values, gradient isolation, and the direction in which each one pulls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from aegen import registry
from aegen.autoencoder import Autoencoder, build_model, build_objective
from aegen.objective_name import ObjectiveName
from aegen.protocols import ImageShape, Objective, Turn
from aegen.spec import Spec
from aegen.training.turns import reduce

FORMS = ["hinge", "non-saturating", "least-squares"]
IMAGE = ImageShape(1, 12, 12)


def players(form: str, **options: Any) -> tuple[Autoencoder, Any, dict[str, Turn], Tensor]:
    torch.manual_seed(0)
    model = build_model(Spec("mlp", {"hidden": [32]}), Spec("gaussian", {"dim": 4}), Spec("gaussian"), IMAGE)
    spec = Spec("vae+adversarial", {"adversarial": {"form": form, "width": 8, **options}})
    objective = build_objective(spec, model)
    x = torch.rand(8, *IMAGE) * 2 - 1
    return model, objective, {turn.name: turn for turn in objective.turns()}, x


def reference(form: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Critic's and autoencoder's loss, from the definitions, one verdict at a time."""
    critic = fool = torch.zeros((), dtype=torch.float64)
    for r, f in zip(real.flatten().tolist(), fake.flatten().tolist(), strict=True):
        a, b = torch.tensor(r, dtype=torch.float64), torch.tensor(f, dtype=torch.float64)
        if form == "hinge":
            critic = critic + 0.5 * (max(0, 1 - a) + max(0, 1 + b))
            fool = fool - b
        elif form == "non-saturating":
            critic = critic - torch.log(torch.sigmoid(a)) - torch.log(1 - torch.sigmoid(b))
            fool = fool - torch.log(torch.sigmoid(b))
        else:
            critic = critic + 0.5 * ((a - 1) ** 2 + b**2)
            fool = fool + 0.5 * (b - 1) ** 2
    return critic / real.numel(), fool / real.numel()


@pytest.mark.parametrize("form", FORMS)
def test_values(form: str) -> None:
    from aegen_builtin.adversarial.gan_losses import critic_loss, fooling_loss

    real, fake = torch.randn(5, 1, 3, 3, dtype=torch.float64), torch.randn(5, 1, 3, 3, dtype=torch.float64)
    critic, fool = reference(form, real, fake)
    torch.testing.assert_close(critic_loss(form, real, fake).mean(), critic, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(fooling_loss(form, fake).mean(), fool, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_no_gradient_leaks_between_the_players(form: str) -> None:
    """Named errors: the critic's loss leaks into the decoder (pythae VAE-GAN); fakes are not detached (tokenizers 4.3).

    Every parameter requires a gradient here, so what keeps the players apart is the loss itself.
    """
    model, objective, turns, x = players(form)
    reduce(turns["judge"].loss(model, x))[0].backward()
    assert all(p.grad is None for p in model.parameters())
    gradients = [p.grad for p in objective.critic.parameters()]
    assert all(g is not None for g in gradients)
    assert any(g.any() for g in gradients)


@pytest.mark.parametrize("form", FORMS)
def test_the_engine_keeps_the_critic_out_of_the_autoencoders_turn(form: str) -> None:
    model, objective, turns, x = players(form)
    critic = [p.requires_grad_(False) for p in objective.critic.parameters()]
    reduce(turns["autoencoder"].loss(model, x))[0].backward()
    assert all(p.grad is None for p in critic)
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("form", FORMS)
def test_each_turn_pulls_in_its_own_direction(form: str) -> None:
    """One step of the critic raises its ability to tell; one step of the autoencoder on the verdict lowers it."""
    model, objective, turns, x = players(form, weight=1.0)

    def margin() -> float:
        with torch.no_grad():
            torch.manual_seed(1)
            fake = model.decode(model.encode(x).z).mean
            return float(objective.critic(x).mean() - objective.critic(fake).mean())

    def step(parameters: Any, loss: Tensor, rate: float) -> None:
        parameters = list(parameters)
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True
        ):
            if gradient is not None:
                parameter.data -= rate * gradient

    before = margin()
    torch.manual_seed(1)
    step(objective.critic.parameters(), reduce(turns["judge"].loss(model, x))[0], 1e-2)
    judged = margin()
    assert judged > before
    torch.manual_seed(1)
    verdict = turns["autoencoder"].loss(model, x).terms["verdict"].mean()
    step(model.parameters(), verdict, 1e-4)
    assert margin() < judged


def test_validation_measures_the_inner_loss() -> None:
    model, objective, _, x = players("hinge")
    torch.manual_seed(3)
    ours = reduce(objective.loss(model, x))[1]
    torch.manual_seed(3)
    inner = reduce(build_objective(Spec("vae"), model).loss(model, x))[1]
    assert ours.keys() == inner.keys()
    assert all(torch.equal(ours[k], inner[k]) for k in ours)


def test_the_verdict_is_silent_before_its_time() -> None:
    model, objective, turns, x = players("hinge", after=5)
    assert turns["judge"].after == 5
    for step, heard in ((0, False), (4, False), (5, True)):
        objective.at(step)
        assert bool(turns["autoencoder"].loss(model, x).terms["verdict"].any()) is heard


def test_a_wrapper_cannot_stand_first_nor_a_plain_objective_later() -> None:
    from aegen.autoencoder import objective_classes
    from aegen.errors import UsageError

    with pytest.raises(UsageError, match="wraps another"):
        objective_classes(ObjectiveName.parse("adversarial"))
    with pytest.raises(UsageError, match="wraps nothing"):
        objective_classes(ObjectiveName.parse("vae+ae"))
    with pytest.raises(UsageError, match="twice"):
        objective_classes(ObjectiveName.parse("vae+adversarial+adversarial"))


def test_the_critic_is_one_of_the_objectives_own_parts() -> None:
    _, objective, turns, _ = players("hinge")
    assert isinstance(objective, Objective)
    assert list(turns["judge"].trains) == [objective.critic]
    assert registry.find("objective", "adversarial").builtin
