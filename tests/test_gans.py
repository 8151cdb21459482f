"""Games without an encoder and with one: every turn's value, who is moved by it and which way, and the critic's rules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from aegen_builtin.adversarial.adversarial import Adversarial, decoder_outputs, gradient_ratio
from aegen_builtin.adversarial.ae_gan import AEGAN
from aegen_builtin.adversarial.began import BEGAN
from aegen_builtin.adversarial.critic import ImageCritic
from aegen_builtin.adversarial.ebgan import EBGAN
from aegen_builtin.adversarial.game import squared_slope, unit_slope
from aegen_builtin.adversarial.gan import GAN
from aegen_builtin.adversarial.gan_losses import critic_loss, fooling_loss
from aegen_builtin.adversarial.soft_intro_vae import SoftIntroVAE
from aegen_builtin.adversarial.wgan import WGAN
from aegen_builtin.adversarial.wgan_gp import WGANGP
from torch import Tensor, nn

from aegen.autoencoder import Autoencoder, build_model, build_objective, check_needs
from aegen.errors import UsageError
from aegen.protocols import ImageShape, Objective, Outcome, Turn
from aegen.settings import TrainSettings
from aegen.spec import Spec, check_options, options_of
from aegen.testing import check_objective
from aegen.training.distributed import World
from aegen.training.turns import TurnOptimizer, reduce

IMAGE = ImageShape(2, 9, 10)
FORMS = ["hinge", "non-saturating", "least-squares", "wasserstein"]
RULES: dict[str, Any] = {"spectral_norm": True, "r1": 0.7, "lecam": 0.3}


@pytest.fixture(autouse=True)
def _double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def close(ours: Tensor, reference: Tensor | float) -> None:
    torch.testing.assert_close(ours, torch.as_tensor(reference, dtype=ours.dtype), rtol=1e-6, atol=1e-9)


def model() -> Autoencoder:
    spec = Spec("mlp", {"hidden": [24]})
    return build_model(spec, Spec("gaussian", {"dim": 4}), Spec("gaussian"), IMAGE).double()


def images(count: int = 6) -> Tensor:
    return torch.rand(count, *IMAGE) * 2 - 1


def wrapped(**options: Any) -> Adversarial:
    return Adversarial(build_objective(Spec("vae"), model()), IMAGE, **options)


MAKERS: dict[str, Callable[[], Any]] = {
    "gan": lambda: GAN(IMAGE, width=4),
    "gan with every rule": lambda: GAN(IMAGE, width=4, gradient_penalty=2.0, r1_every=4, **RULES),
    "wgan": lambda: WGAN(IMAGE, width=4),
    "wgan-gp": lambda: WGANGP(IMAGE, width=4),
    "ae-gan": lambda: AEGAN(IMAGE, width=4),
    "ae-gan with every rule": lambda: AEGAN(IMAGE, width=4, gradient_penalty=2.0, r1_every=4, **RULES),
    "adversarial with every rule": lambda: wrapped(width=4, adaptive=True, r1_every=4, **RULES),
}


def turns_of(game: Objective) -> dict[str, Turn]:
    return {turn.name: turn for turn in game.turns()}


def judge_of(game: Objective) -> Turn:
    return next(turn for turn in game.turns() if turn.name.startswith("judge"))


def drawn(net: Autoencoder, count: int) -> Tensor:
    """Fakes by hand: noise, the decoder, the likelihood's mean."""
    return net.likelihood(net.decoder(torch.randn(count, 4))).mean


def play(form: str, real: list[float], fake: list[float]) -> tuple[float, float]:
    """Critic's and generator's loss from the definitions, a verdict at a time."""
    critic = fool = 0.0
    for a, b in zip(real, fake, strict=True):
        if form == "hinge":
            critic += 0.5 * (max(0.0, 1 - a) + max(0.0, 1 + b))
            fool -= b
        elif form == "non-saturating":
            critic -= math.log(1 / (1 + math.exp(-a))) + math.log(1 - 1 / (1 + math.exp(-b)))
            fool -= math.log(1 / (1 + math.exp(-b)))
        elif form == "least-squares":
            critic += 0.5 * ((a - 1) ** 2 + b**2)
            fool += 0.5 * (b - 1) ** 2
        else:
            critic += b - a
            fool -= b
    return critic / len(real), fool / len(real)


# ------------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize("form", FORMS)
def test_both_turns_of_a_gan_are_the_game_s_definition(form: Any) -> None:
    net, game, x = model(), GAN(IMAGE, form=form, width=4, r1=0.0), images()
    turns = turns_of(game)
    torch.manual_seed(3)
    ours = [reduce(turns[name].loss(net, x))[0] for name in ("generator", "judge")]
    torch.manual_seed(3)
    for turn, value in zip((1, 0), ours, strict=True):
        fake = drawn(net, len(x))
        reference = play(form, game.critic(x).flatten().tolist(), game.critic(fake).flatten().tolist())
        close(value, reference[turn])


@pytest.mark.parametrize(
    ("cls", "rules"), [(GAN, {"r1"}), (AEGAN, {"r1"}), (WGAN, set()), (WGANGP, {"gradient_penalty"})]
)
def test_each_game_has_one_rule_that_keeps_its_critic_in_bounds(cls: Any, rules: set[str]) -> None:
    """A box is the rule of the one without a term."""
    assert set(judge_of(cls(IMAGE, width=4)).loss(model(), images()).terms) == {"critic"} | rules


def test_the_images_of_a_gan_are_only_counted() -> None:
    net, game = model(), GAN(IMAGE, width=4)
    torch.manual_seed(3)
    ours = game.loss(net, images()).terms["verdict"]
    torch.manual_seed(3)
    assert torch.equal(ours, game.loss(net, images()).terms["verdict"])


def test_an_ae_gan_is_a_vae_and_a_verdict_on_prior_draws() -> None:
    net, x = model(), images()
    game = AEGAN(IMAGE, weight=0.2, beta=3.0, width=4)
    torch.manual_seed(5)
    terms = turns_of(game)["autoencoder"].loss(net, x).terms
    torch.manual_seed(5)
    fake = game.critic(drawn(net, len(x)))
    plain = build_objective(Spec("vae", {"beta": 3.0}), net).loss(net, x).terms
    close(
        terms["verdict"].mean(), 0.2 * math.prod(IMAGE) * play("non-saturating", [0.0] * 6, fake.flatten().tolist())[1]
    )
    close(terms["error"], plain["error"])
    close(terms["penalty"], plain["penalty"])


def test_validation_of_an_ae_gan_leaves_the_critic_out() -> None:
    net, x, game = model(), images(), AEGAN(IMAGE, width=4).eval()
    torch.manual_seed(5)
    outcome = game.loss(net, x)
    torch.manual_seed(5)
    close(reduce(outcome)[0], reduce(build_objective(Spec("vae"), net).loss(net, x))[0])
    assert {"real", "fake"} <= outcome.watch.keys()


def test_losses_of_a_game_without_reconstruction_are_never_compared() -> None:
    """Each epoch has another critic: the checkpoint with the lowest loss is that of the weakest critic."""
    assert not GAN(IMAGE).settled(10**9)
    assert AEGAN(IMAGE).settled(0)


@pytest.mark.parametrize("name", ["gan", "wgan", "ae-gan"])
def test_terms_do_not_depend_on_how_a_batch_is_split(name: str) -> None:
    net, game, x = model(), MAKERS[name](), images()
    game.fakes = lambda model, x: -x
    together = judge_of(game).loss(net, x).terms["critic"]
    apart = torch.cat([judge_of(game).loss(net, part).terms["critic"] for part in (x[:2], x[2:])])
    close(together, apart)


# ------------------------------------------------------------------------------------------------ the critic's rules


def by_differences(critic: nn.Module, x: Tensor, step: float = 1e-6) -> Tensor:
    """The gradient of the mean verdict on one image (C, H, W), pixel by pixel."""
    slopes = torch.zeros(x.numel())
    for i in range(x.numel()):
        away = torch.zeros(x.numel())
        away[i] = step
        up, down = critic(torch.stack([x + away.view_as(x), x - away.view_as(x)])).flatten(1).mean(1)
        slopes[i] = (up - down) / (2 * step)
    return slopes


def test_r1_is_half_the_squared_slope_at_images() -> None:
    net, x = model(), images(3)
    game = GAN(IMAGE, width=4, r1=0.7)
    reference = [0.35 * by_differences(game.critic, image).square().sum().item() for image in x]
    close(judge_of(game).loss(net, x).terms["r1"].detach(), torch.tensor(reference))


def test_r1_of_a_patch_critic_is_that_of_its_mean_verdict() -> None:
    game, x = wrapped(width=4, r1=0.7), images(2)
    reference = [0.35 * by_differences(game.critic, image).square().sum().item() for image in x]
    close(judge_of(game).loss(model(), x).terms["r1"].detach(), torch.tensor(reference))


def test_r1_s_gradient_reaches_the_critic_s_weights_and_is_right() -> None:
    """It needs a second derivative: without create_graph it would be 0, or an error."""
    critic, x = nn.Sequential(nn.Flatten(), nn.Linear(180, 5), nn.Tanh(), nn.Linear(5, 1)), images(2)
    weight = critic[1].weight
    (ours,) = torch.autograd.grad(squared_slope(critic, x).mean(), weight)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[1, 7] += sign * 1e-5
            values.append(squared_slope(critic, x).mean())
            weight[1, 7] -= sign * 1e-5
    close(ours[1, 7], (values[0] - values[1]) / 2e-5)
    assert ours.any()


def test_lazy_r1_is_a_turn_of_its_own_that_weighs_as_much_more() -> None:
    net, x, game = model(), images(), GAN(IMAGE, width=4, r1=0.7, r1_every=16)
    turns = turns_of(game)
    assert list(turns) == ["generator", "judge", "judge-r1"]
    assert (turns["judge-r1"].every, list(turns["judge-r1"].trains)) == (16, [game.critic])
    close(turns["judge-r1"].loss(net, x).terms["r1"], 16 * 0.7 * squared_slope(game.critic, x))
    assert "r1" not in turns["judge"].loss(net, x).terms


def test_the_gradient_penalty_asks_for_slope_one_between_image_and_fake() -> None:
    critic, real, fake = ImageCritic(IMAGE, 4), images(3), images(3)
    torch.manual_seed(2)
    ours = unit_slope(critic, real, fake)
    torch.manual_seed(2)
    share = torch.rand(3, 1, 1, 1)
    between = share * real + (1 - share) * fake
    reference = [(by_differences(critic, image).norm().item() - 1) ** 2 for image in between]
    close(ours.detach(), torch.tensor(reference))


def test_the_gradient_penalty_s_gradient_is_finite_where_the_critic_is_flat() -> None:
    """Named error of tokenizers.md 4.12: the root of 0 gives NaN gradients."""
    critic = ImageCritic(IMAGE, 4)
    nn.init.zeros_(critic.net[-1].weight)
    loss = unit_slope(critic, images(), images()).sum()
    gradients = torch.autograd.grad(loss, list(critic.parameters()), allow_unused=True)
    assert all(g.isfinite().all() for g in gradients if g is not None)


def test_slopes_are_measured_where_gradients_are_off() -> None:
    net, x, game = model(), images(), GAN(IMAGE, width=4, r1=1.0, gradient_penalty=1.0)
    torch.manual_seed(1)
    expected = judge_of(game).loss(net, x).terms
    torch.manual_seed(1)
    with torch.no_grad():
        found = judge_of(game).loss(net, x).terms
    assert not any(term.requires_grad for term in found.values())
    for name, term in expected.items():
        close(found[name], term.detach())


def test_slopes_are_measured_in_full_precision() -> None:
    torch.set_default_dtype(torch.float32)
    critic, x = ImageCritic(IMAGE, 4), images()
    plain = squared_slope(critic, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(squared_slope(critic, x), plain)


def test_lecam_is_its_formula_and_remembers_with_gradients_only() -> None:
    net, game = model(), GAN(IMAGE, width=4, lecam=0.3)
    usual = torch.zeros(2)
    for step in range(3):
        with torch.no_grad():
            game.critic.net[-1].bias.fill_([0.5, -2.0, 1.0][step])
        x = images()
        torch.manual_seed(step)
        ours = judge_of(game).loss(net, x).terms["lecam"]
        torch.manual_seed(step)
        real, fake = game.critic(x), game.critic(drawn(net, len(x)))
        beyond = [
            max(0.0, r.item() - usual[1].item()) ** 2 for r in real
        ]  # Tseng et al., 2021, eq. 4: means of squares
        beyond_fake = [max(0.0, usual[0].item() - f.item()) ** 2 for f in fake]
        close(ours.detach(), 0.3 * (sum(beyond) / len(x) + sum(beyond_fake) / len(x)))
        usual = 0.999 * usual + 0.001 * torch.tensor([real.mean().item(), fake.mean().item()])
        close(game.usual, usual)
        before = game.usual.clone()
        with torch.no_grad():
            judge_of(game).loss(net, x)
        game.eval()
        judge_of(game).loss(net, x)
        game.train()
        assert torch.equal(game.usual, before)


def test_spectral_norm_leaves_no_layer_a_singular_value_above_one() -> None:
    net, game = model(), GAN(IMAGE, width=4, spectral_norm=True)
    layers = [layer for layer in game.critic.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for layer in layers:
        with torch.no_grad():
            layer.parametrizations.weight.original.mul_(7.0)
    for _ in range(100):
        judge_of(game).loss(net, images())
    for layer in layers:
        top = torch.linalg.svdvals(layer.weight.detach().flatten(1))[0]
        torch.testing.assert_close(top, torch.ones(()), rtol=1e-3, atol=0)
    before = {key: value.clone() for key, value in game.state_dict().items()}
    game.eval().loss(net, images())
    assert all(torch.equal(value, before[key]) for key, value in game.state_dict().items())


def test_a_wgan_s_critic_is_never_heard_outside_its_box() -> None:
    net, x, game = model(), images(), WGAN(IMAGE, width=4, clip=0.05)
    box = ImageCritic(IMAGE, 4)
    box.load_state_dict({key: value.clamp(-0.05, 0.05) for key, value in game.critic.state_dict().items()})
    assert any(weight.abs().max() > 0.05 for weight in game.critic.parameters())
    close(game.verdicts(x), box(x))
    with torch.no_grad():  # measuring moves nothing
        judge_of(game).loss(net, x)
    assert any(weight.abs().max() > 0.05 for weight in game.critic.parameters())
    judge_of(game).loss(net, x)
    assert all(weight.abs().max() <= 0.05 for weight in game.critic.parameters())


def test_a_wgan_s_weights_can_come_back_from_the_edge() -> None:
    """Algorithm 1 has the gradient by the clipped weight; a clamp's is 0 outside, and at the edge with torch 2.15."""
    net, x, game = model(), images(), WGAN(IMAGE, width=4, clip=0.05)
    weights = list(game.critic.parameters())
    torch.manual_seed(1)
    ours = torch.autograd.grad(reduce(judge_of(game).loss(net, x))[0], weights)
    assert sum((weight.abs() == 0.05).sum() for weight in weights) > 10
    torch.manual_seed(1)
    plain = game.critic(drawn(net, len(x)).detach()).mean() - game.critic(x).mean()
    for gradient, reference in zip(ours, torch.autograd.grad(plain, weights), strict=True):
        close(gradient, reference)


def test_wgan_gp_is_the_paper_s() -> None:
    net, x, game = model(), images(), WGANGP(IMAGE, width=4)
    turns = turns_of(game)
    assert (turns["generator"].every, turns["judge"].every) == (5, 1)
    torch.manual_seed(4)
    ours = reduce(turns["judge"].loss(net, x))[0]
    torch.manual_seed(4)
    fake = drawn(net, len(x)).detach()
    share = torch.rand(len(x), 1, 1, 1)
    slopes = [by_differences(game.critic, image).norm() for image in share * x + (1 - share) * fake]
    penalty = 10 * sum((s - 1) ** 2 for s in slopes) / len(x)
    close(ours.detach(), (game.critic(fake).mean() - game.critic(x).mean() + penalty).item())


def test_one_verdict_an_image_that_depends_on_every_pixel() -> None:
    for shape in (ImageShape(1, 28, 28), ImageShape(3, 32, 48), ImageShape(1, 4, 3), ImageShape(2, 9, 70)):
        critic, x = ImageCritic(shape, 4), torch.rand(2, *shape, requires_grad=True)
        assert critic(x).shape == (2, 1)
        (gradient,) = torch.autograd.grad(critic(x)[0].sum(), x)
        assert gradient[0].ne(0).all() and not gradient[1].any()


# ------------------------------------------------------------------------------------------------ the adaptive weight


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_the_adaptive_weight_is_the_ratio_of_gradients_at_the_reconstruction(likelihood: str) -> None:
    net = build_model(Spec("mlp"), Spec("gaussian", {"dim": 4}), Spec(likelihood), IMAGE).double()
    game, x = wrapped(weight=0.4, width=4, adaptive=True), images()
    torch.manual_seed(6)
    outcome = turns_of(game)["autoencoder"].loss(net, x)
    torch.manual_seed(6)
    at = net.decoder(net.encode(x).z).detach().requires_grad_()
    pixels = net.likelihood(at)
    verdict = fooling_loss("hinge", game.critic(pixels.mean)) * math.prod(IMAGE)
    lengths = [
        torch.autograd.grad(loss.sum(), at, retain_graph=True)[0].flatten(1).norm(dim=1).square().mean().sqrt()
        for loss in (pixels.nll(x), verdict)
    ]
    balance = (lengths[0] / (lengths[1] + 1e-4)).clamp(0, 1e4)
    close(outcome.watch["balance"], balance)
    close(outcome.terms["verdict"], (0.4 * balance * verdict).detach())
    assert not outcome.watch["balance"].requires_grad


def test_the_adaptive_weight_makes_the_verdict_pull_as_hard_as_it_says() -> None:
    net, game, x = model(), wrapped(weight=0.25, width=4, adaptive=True), images()
    with decoder_outputs(net) as outputs:
        terms = turns_of(game)["autoencoder"].loss(net, x).terms
    lengths = [
        torch.autograd.grad(terms[name].mean(), outputs, retain_graph=True)[0].norm() for name in ("verdict", "error")
    ]
    torch.testing.assert_close(lengths[0] / lengths[1], torch.tensor(0.25), rtol=1e-2, atol=0)


def test_the_adaptive_weight_is_finite_where_the_critic_is_flat() -> None:
    recon = images().requires_grad_()
    ratio = gradient_ratio({"error": recon.square().flatten(1).sum(1)}, 0 * recon.flatten(1).sum(1), [recon])
    assert ratio == 1e4


def test_the_adaptive_weight_is_silent_before_the_critic_is_on() -> None:
    net, game, x = model(), wrapped(width=4, adaptive=True, after=5), images()
    for step, heard in ((0, False), (4, False), (5, True)):
        game.at(step)
        assert bool(turns_of(game)["autoencoder"].loss(net, x).terms["verdict"].any()) is heard


def test_a_wrapper_keeps_what_other_wrappers_added() -> None:
    """Its turn is the inner first turn and a verdict, not the inner loss: ae-gan+adversarial has both verdicts."""
    net, x = model(), images()
    game = Adversarial(AEGAN(IMAGE, width=4, weight=0.0), IMAGE, width=4)
    assert [turn.name for turn in game.turns()] == ["autoencoder", "judge-samples", "judge"]
    inner = Adversarial(Bonus(), IMAGE, width=4)
    assert turns_of(inner)["autoencoder"].loss(net, x).terms.keys() == {"bonus", "verdict"}


class Bonus(Objective):
    """Trained on another loss than validation measures."""

    def loss(self, model: Autoencoder, x: Tensor) -> Outcome:
        pixels = model.decode(model.encode(x).z)
        return Outcome({"error": pixels.nll(x)}, pixels)

    def bonus(self, model: Autoencoder, x: Tensor) -> Outcome:
        pixels = model.decode(model.encode(x).z)
        return Outcome({"bonus": pixels.nll(x)}, pixels)

    def turns(self) -> list[Turn]:
        return [Turn("autoencoder", self.bonus)]


def test_a_game_without_reconstructions_is_not_wrapped() -> None:
    with pytest.raises(UsageError, match="judges reconstructions"):
        Adversarial(GAN(IMAGE), IMAGE)


# ------------------------------------------------------------------------------------------------ who is moved, which way


@pytest.mark.parametrize("name", MAKERS)
def test_no_gradient_leaks_between_the_players(name: str) -> None:
    """Named errors: the critic's loss leaks into the decoder (pythae VAE-GAN); fakes are not detached (tokenizers 4.3).

    Every parameter requires a gradient here, so what keeps the players apart is the loss itself.
    """
    net, game, x = model(), MAKERS[name](), images()
    for turn in game.turns()[1:]:
        assert list(turn.trains) == [game.critic]
        reduce(turn.loss(net, x))[0].backward()
        assert all(p.grad is None for p in net.parameters())
        assert all(p.grad is not None for p in game.critic.parameters()), turn.name
        game.zero_grad()


@pytest.mark.parametrize("name", MAKERS)
def test_the_first_turn_moves_all_that_it_trains_and_not_the_critic(name: str) -> None:
    net, game, x = model(), MAKERS[name](), images()
    first = game.turns()[0]
    mine = {p for part in first.trains for p in getattr(net, str(part)).parameters()}
    for parameter in (*net.parameters(), *game.parameters()):
        parameter.requires_grad_(parameter in mine)
    reduce(first.loss(net, x))[0].backward()
    assert all((p.grad is not None) == (p in mine) for p in (*net.parameters(), *game.parameters()))
    assert all(p.grad.any() for p in net.decoder.parameters())


GAMES = [(GAN, {"form": form}) for form in FORMS] + [(AEGAN, {"form": form}) for form in FORMS[:3]]


@pytest.mark.parametrize(
    ("kind", "options"), [*GAMES, (WGAN, {"clip": 1.0}), (WGANGP, {"gradient_penalty": 0.1})], ids=str
)
def test_each_turn_pulls_in_its_own_direction(kind: Any, options: dict[str, Any]) -> None:
    """One step of the critic raises its ability to tell; one step of the generator on the verdict lowers it."""
    net, x, game = model(), images(32), kind(IMAGE, width=4, **options)

    def margin() -> float:
        torch.manual_seed(1)
        with torch.no_grad():
            return float(game.verdicts(x).mean() - game.verdicts(drawn(net, len(x))).mean())

    def step(parameters: Any, loss: Tensor, rate: float) -> None:
        parameters = list(parameters)
        gradients = torch.autograd.grad(loss, parameters)
        size = sum(g.square().sum() for g in gradients).sqrt()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.data -= rate * gradient / size

    before = margin()
    torch.manual_seed(1)
    step(game.critic.parameters(), reduce(judge_of(game).loss(net, x))[0], 1e-2)
    judged = margin()
    assert judged > before
    torch.manual_seed(1)
    step(net.decoder.parameters(), game.turns()[0].loss(net, x).terms["verdict"].mean(), 1e-2)
    assert margin() < judged


def test_verdict_and_label_are_not_swapped() -> None:
    """Named error of tokenizers.md 4.8: BCEWithLogits(target, logits). Sure and right costs nothing, sure and wrong a lot."""
    high, low = torch.full((1, 1), 30.0), torch.full((1, 1), -30.0)
    assert critic_loss("non-saturating", high, low) < 1e-9
    close(critic_loss("non-saturating", low, high), torch.tensor([60.0]))
    real, fake = torch.randn(5, 1), torch.randn(5, 1)
    cross = nn.functional.binary_cross_entropy_with_logits
    reference = cross(real, torch.ones(5, 1)) + cross(fake, torch.zeros(5, 1))
    close(critic_loss("non-saturating", real, fake).mean(), reference)


@pytest.mark.parametrize("make", [lambda o: AEGAN(IMAGE, width=4, **o), lambda o: wrapped(width=4, **o)])
def test_a_late_start_is_counted_in_steps_of_the_run(make: Any) -> None:
    """Named error of tokenizers.md 4.11: disc_start counted in optimizer steps of both players fires at half the time."""
    net, game, x = model(), make({"after": 4, "r1": 1.0, "r1_every": 2}), images()
    named = [("model", net), ("objective", game)]
    names = {p: f"{kind}.{n}" for kind, module in named for n, p in module.named_parameters()}
    players = [
        TurnOptimizer(net, game, turn, TrainSettings(), World(torch.device("cpu")), names) for turn in game.turns()
    ]
    taken: dict[str, list[int]] = {player.turn.name: [] for player in players}
    heard = []
    for step in range(8):
        game.at(step)
        for player in players:
            if player.due(step):
                player.seats()
                terms = player.accumulate(x, None, share=1.0, last=True)
                player.step(1e-3)
                taken[player.turn.name].append(step)
                if player is players[0] and terms["verdict"].any():
                    heard.append(step)
    first, judge, r1 = taken.values()
    assert first == list(range(8))
    assert judge == heard == [4, 5, 6, 7]
    assert r1 == [4, 6]


def test_critic_steps_and_critic_every_are_the_ratio_of_the_players() -> None:
    turns = turns_of(GAN(IMAGE, critic_steps=3, critic_every=2))
    assert (turns["generator"].every, turns["judge"].every) == (3, 2)


def test_a_step_of_a_gan_leaves_encoder_bottleneck_and_likelihood_alone() -> None:
    net, game = model(), GAN(IMAGE)
    assert list(game.turns()[0].trains) == ["decoder"]
    assert not game.encodes
    reduce(game.loss(net, images()))[0].backward()
    assert all(p.grad is None for part in (net.encoder, net.likelihood) for p in part.parameters())


def test_a_gan_learns_what_only_the_critic_tells_it() -> None:
    """The whole game: the decoder comes to draw images that are all -0.5."""
    torch.manual_seed(0)
    net, game = model(), GAN(IMAGE, width=4, r1=1.0)
    settings, names = TrainSettings(betas=[0.0, 0.9]), {}
    for kind, module in (("model", net), ("objective", game)):
        names |= {p: f"{kind}.{n}" for n, p in module.named_parameters()}
    players = [TurnOptimizer(net, game, turn, settings, World(torch.device("cpu")), names) for turn in game.turns()]
    x = torch.full((16, *IMAGE), -0.5)
    for _ in range(250):
        for player in players:
            player.seats()
            player.accumulate(x, None, share=1.0, last=True)
            player.step(2e-3)
    with torch.no_grad():
        assert (drawn(net, 64).mean() + 0.5).abs() < 0.1


# ------------------------------------------------------------------------------------------------ the contract

CONTRACT = [
    (GAN, {}),
    (GAN, {"form": "hinge", "critic_steps": 2, "gradient_penalty": 1.0, "r1_every": 4, **RULES}),
    (GAN, {"form": "wasserstein", "r1": 1.0}),
    (WGAN, {}),
    (WGANGP, {}),
    (AEGAN, {}),
    (AEGAN, {"after": 3, "gradient_penalty": 1.0, "r1_every": 4, **RULES}),
    (Adversarial, {"adaptive": True}),
    (Adversarial, {"after": 2, "r1_every": 4, **RULES}),
]


@pytest.mark.parametrize(("cls", "options"), CONTRACT, ids=str)
def test_contract(cls: Any, options: dict[str, Any]) -> None:
    torch.set_default_dtype(torch.float32)
    check_objective(cls, **options)


@pytest.mark.parametrize("cls", [GAN, WGAN, WGANGP, AEGAN, Adversarial])
def test_every_option_has_help(cls: Any) -> None:
    assert all(option.help for option in options_of(cls).values())


@pytest.mark.parametrize("cls", [GAN, WGAN, WGANGP, AEGAN, BEGAN, EBGAN, SoftIntroVAE])
def test_what_a_game_suggests_is_a_setting_of_training(cls: Any) -> None:
    given = dict(cls.suggests)
    assert given
    assert check_options(options_of(TrainSettings), given, "train.", "train").items() >= given.items()


def test_a_game_needs_a_prior() -> None:
    torch.set_default_dtype(torch.float32)
    net = build_model(Spec("mlp"), Spec("deterministic"), Spec("gaussian"), IMAGE)
    with pytest.raises(UsageError, match=r"needs a prior"):
        check_needs("objective 'gan'", GAN.needs, net.bottleneck)
