"""Games of an autoencoder with a critic of latents, of features, of energies, or with itself: every turn of each.

Values against float64 references made of the definitions; who learns and who does not; and in which direction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from aegen_builtin.adversarial.aae import AAE
from aegen_builtin.adversarial.began import BEGAN
from aegen_builtin.adversarial.ebgan import EBGAN, pulling_away
from aegen_builtin.adversarial.energy import EnergyCritic
from aegen_builtin.adversarial.factor_vae import FactorVAE, shuffle_dimensions
from aegen_builtin.adversarial.latent_critic import LatentCritic, draw_prior
from aegen_builtin.adversarial.soft_intro_vae import SoftIntroVAE, encode_generated
from aegen_builtin.adversarial.vae_gan import VAEGAN
from aegen_builtin.adversarial.wae_gan import WAEGAN
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from aegen.autoencoder import Autoencoder, build_model, build_objective
from aegen.errors import UsageError
from aegen.protocols import AUTOENCODER, Bottleneck, ImageShape, Latent, Objective, Turn
from aegen.spec import Spec
from aegen.testing import check_objective
from aegen.training.turns import reduce

IMAGE = ImageShape(2, 8, 9)
PIXELS = math.prod(IMAGE)
DIM = 4


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def close(ours: Tensor, reference: Tensor) -> None:
    torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-9)


def images(count: int = 6) -> Tensor:
    return torch.rand(count, *IMAGE) * 2 - 1


def model(bottleneck: str = "gaussian", classes: int = 0) -> Autoencoder:
    mlp = Spec("mlp", {"hidden": [16]})
    return build_model(mlp, Spec(bottleneck, {"dim": DIM}), Spec("gaussian"), IMAGE, classes=classes).double()


def make(cls: Any, **options: Any) -> Any:
    known = (IMAGE,) if cls in (VAEGAN, SoftIntroVAE, EBGAN, BEGAN) else ((DIM,),)
    return cls(*known, **options).double()


def turns(objective: Objective) -> dict[str, Turn]:
    return {turn.name: turn for turn in objective.turns()}


def seeded(call: Callable[[], Any], seed: int = 7) -> Any:
    torch.manual_seed(seed)
    return call()


def log_odds(critic: nn.Module, z: Tensor) -> list[float]:
    """One latent at a time through the critic's layers."""
    found: list[float] = critic.net(z).flatten().tolist()  # type: ignore[operator, union-attr]
    return found


def cross_entropy(real: list[float], fake: list[float]) -> Tensor:
    """-log D(real) - log (1 - D(fake)), D the sigmoid, pair by pair."""
    return torch.tensor(
        [
            -math.log(1 / (1 + math.exp(-r))) - math.log(1 - 1 / (1 + math.exp(-f)))
            for r, f in zip(real, fake, strict=True)
        ]
    )


def deceit(fake: list[float]) -> Tensor:
    return torch.tensor([-math.log(1 / (1 + math.exp(-f))) for f in fake])


def location(net: Autoencoder, z: Tensor) -> Tensor:
    """Where the normal of a pixel stands: the decoder's number, moving at a twentieth beyond [-1, 1]."""
    p = net.decoder(z)
    return torch.where(p.abs() > 1, p.sign() * (1 + 0.05 * (p.abs() - 1)), p)


def picture(net: Autoencoder, z: Tensor) -> Tensor:
    return location(net, z).clamp(-1, 1)


def nll(net: Autoencoder, x: Tensor, z: Tensor) -> Tensor:
    scale: Any = net.likelihood.scale
    return -Normal(location(net, z), scale().exp()).log_prob(x).flatten(1).sum(1)


def posterior(net: Autoencoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance."""
    mean, logvar = net.encoder(x).chunk(2, 1)
    return mean, logvar


def gaussian_draw(net: Autoencoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """A draw and its KL, (B,)."""
    mean, logvar = posterior(net, x)
    std = (logvar / 2).exp()
    z = mean + std * torch.randn(mean.shape)
    return z, kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum(1)


# ---------------------------------------------------------------------------------------------------- all games

GAMES: list[tuple[Any, str]] = [
    (AAE, "matched-prior"),
    (AAE, "gaussian"),
    (WAEGAN, "matched-prior"),
    (FactorVAE, "gaussian"),
    (VAEGAN, "gaussian"),
    (SoftIntroVAE, "gaussian"),
    (EBGAN, "matched-prior"),
    (BEGAN, "matched-prior"),
]
games = pytest.mark.parametrize(("cls", "neck"), GAMES, ids=lambda v: getattr(v, "__name__", v))


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (AAE, {}),
        (AAE, {"width": 5, "depth": 1}),
        (WAEGAN, {"weight": 3.0}),
        (FactorVAE, {"gamma": 2.0}),
        (VAEGAN, {}),
        (VAEGAN, {"gamma": 0.1, "width": 4, "depth": 2, "layer": 1}),
        (SoftIntroVAE, {}),
        (SoftIntroVAE, {"alpha": 1.0, "beta_neg": 8.0, "gamma": 1.0}),
        (EBGAN, {}),
        (EBGAN, {"pull_away": 0.0, "depth": 1, "code": 3}),
        (BEGAN, {"gamma": 0.7, "lambda_k": 0.1, "norm": 1, "pull_away": 0.0}),
    ],
    ids=str,
)
def test_contract(cls: Any, options: dict[str, Any]) -> None:
    torch.set_default_dtype(torch.float32)
    check_objective(cls, **options)


@games
def test_each_turn_reaches_all_that_it_trains_and_nothing_else(cls: Any, neck: str) -> None:
    net, objective, x = model(neck), make(cls), images()
    players = nn.ModuleDict({"model": net, "objective": objective})
    for turn in objective.turns():
        parts = [getattr(net, part) if isinstance(part, str) else part for part in turn.trains]
        mine = {p for part in parts for p in part.parameters()}
        for parameter in players.parameters():
            parameter.grad = None
            parameter.requires_grad_(parameter in mine)
        reduce(turn.loss(net, x))[0].backward()
        for name, parameter in players.named_parameters():
            assert (parameter.grad is not None) == (parameter in mine), f"{turn.name}: {name}"
        assert any(p.grad is not None and p.grad.any() for p in mine), turn.name


@games
def test_a_critics_turn_leaves_the_autoencoder_alone(cls: Any, neck: str) -> None:
    """Named errors of pythae VAE-GAN (the discriminator's loss leaks into the decoder) and of pythae FactorVAE and
    disentangling-vae #77 (D(z) is not detached in the discriminator's loss, so the encoder is trained to raise the total
    correlation). Every parameter requires a gradient here: what keeps the players apart is the loss itself.
    """
    net, objective, x = model(neck), make(cls), images()
    found = [turn for turn in objective.turns() if all(isinstance(part, nn.Module) for part in turn.trains)]
    assert len(found) == (cls is not SoftIntroVAE)
    for turn in found:
        reduce(turn.loss(net, x))[0].backward()
        assert all(p.grad is None for p in net.parameters())
        assert all(p.grad is not None for p in objective.critic.parameters())
        assert any(p.grad.any() for p in objective.critic.parameters())


def step(parameters: Any, loss: Tensor, rate: float) -> None:
    parameters = list(parameters)
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
        if gradient is not None:
            parameter.data -= rate * gradient


def tells_codes(objective: Any, net: Autoencoder, x: Tensor) -> Tensor:
    z = net.encode(x).z
    return (objective.critic(draw_prior(net, z)) - objective.critic(z)).mean()


def tells_shuffled(objective: Any, net: Autoencoder, x: Tensor) -> Tensor:
    z = net.encode(x).z
    return (objective.critic(z) - objective.critic(shuffle_dimensions(z))).mean()


def correlation(objective: Any, net: Autoencoder, x: Tensor) -> Tensor:
    total: Tensor = objective.critic(net.encode(x).z).mean()
    return total


def tells_pictures(objective: Any, net: Autoencoder, x: Tensor) -> Tensor:
    z = net.encode(x).z
    fakes = net.decode(z).mean, net.decode(draw_prior(net, z)).mean
    total: Tensor = 2 * objective.critic(x)[1].mean() - sum(objective.critic(fake)[1].mean() for fake in fakes)
    return total


def tells_features(objective: Any, net: Autoencoder, x: Tensor) -> Tensor:
    fake = net.decode(net.encode(x).z).mean
    distance: Tensor = (objective.critic(x)[0] - objective.critic(fake)[0]).square().sum()
    return distance


def tells_energies(objective: Any, net: Autoencoder, x: Tensor) -> Tensor:
    difference: Tensor = (objective.energy(objective.generated(net, x))[0] - objective.energy(x)[0]).mean()
    return difference


def tells_generated(objective: Any, net: Autoencoder, x: Tensor) -> Tensor:
    """The encoder's own verdict, the KL of generated images."""
    gaussian_draw(net, x)
    fake = net.decode(draw_prior(net, x)).mean
    return net.encode(fake).penalty.mean()


@pytest.mark.parametrize(
    ("cls", "turn", "term", "measure", "sign"),
    [
        (AAE, "judge", "critic", tells_codes, 1),
        (AAE, "fool", "verdict", tells_codes, -1),
        (WAEGAN, "judge", "critic", tells_codes, 1),
        (WAEGAN, "autoencoder", "verdict", tells_codes, -1),
        (FactorVAE, "judge", "critic", tells_shuffled, 1),
        (FactorVAE, "autoencoder", "correlation", correlation, -1),
        (VAEGAN, "judge", "critic", tells_pictures, 1),
        (VAEGAN, "decoder", "verdict", tells_pictures, -1),
        (VAEGAN, "decoder", "features", tells_features, -1),
        (VAEGAN, "encoder", "features", tells_features, -1),
        (EBGAN, "judge", "", tells_energies, 1),
        (EBGAN, "generator", "generated_energy", tells_energies, -1),
        (BEGAN, "judge", "critic", tells_energies, 1),
        (BEGAN, "generator", "generated_energy", tells_energies, -1),
        (SoftIntroVAE, "encoder", "generated", tells_generated, 1),
        (SoftIntroVAE, "decoder", "generated_penalty", tells_generated, -1),
    ],
)
def test_each_turn_pulls_in_its_own_direction(cls: Any, turn: str, term: str, measure: Any, sign: int) -> None:
    """A critic's step raises its ability to tell, the other side's lowers it (named error of pythae VAE-GAN: the
    adversarial term ends with the wrong sign)."""
    torch.manual_seed(3)
    neck = "gaussian" if cls in (FactorVAE, VAEGAN, SoftIntroVAE) else "matched-prior"
    options = {"margin": 10.0} if cls is EBGAN else {}  # an untrained critic's energy is beyond the usual one
    net, objective, x = model(neck), make(cls, **options), images(16)
    if cls is BEGAN:
        objective.k.fill_(1.0)
    player = turns(objective)[turn]
    with torch.no_grad():
        before = seeded(lambda: measure(objective, net, x))
    outcome = seeded(lambda: player.loss(net, x))
    total = outcome.terms[term].mean() if term else reduce(outcome)[0]
    parts = [getattr(net, part) if isinstance(part, str) else part for part in player.trains]
    step([p for part in parts for p in part.parameters()], total, 1e-5)
    with torch.no_grad():
        after = seeded(lambda: measure(objective, net, x))
    assert sign * (after - before) > 0


@pytest.mark.parametrize(("cls", "neck"), [g for g in GAMES if g[0] not in (EBGAN, BEGAN)])
def test_numbers_do_not_depend_on_how_a_batch_is_split(cls: Any, neck: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    net, objective, x = model(neck), make(cls), images(6)
    monkeypatch.setattr(net, "prior", lambda n, device=None: torch.ones(n, DIM))
    for turn in objective.turns():
        if cls is FactorVAE and turn.name == "judge":
            continue  # a shuffled batch is another one than two shuffled halves
        whole = turn.loss(net, x).terms
        halves = [turn.loss(net, part).terms for part in (x[:3], x[3:])]
        for name, term in whole.items():
            assert term.shape == (6,)
            close(term, torch.cat([half[name] for half in halves]))


@pytest.mark.parametrize("cls", [FactorVAE, VAEGAN, SoftIntroVAE])
def test_validation_has_the_bound_and_names_it_as_a_vae_does(cls: Any) -> None:
    net, objective, x = model(), make(cls).eval(), images()
    ours = seeded(lambda: objective.loss(net, x))
    vae = build_objective(Spec("vae"), net).eval()
    theirs = seeded(lambda: vae.loss(net, x))
    for name in ("error", "penalty"):
        close(ours.terms[name], theirs.terms[name])
    for name in ("negative_elbo", "kl"):
        close(ours.watch[name], theirs.watch[name])
    z, kl = seeded(lambda: gaussian_draw(net, x))
    close(ours.terms["error"], nll(net, x, z))
    close(ours.terms["penalty"], kl)
    if cls is not FactorVAE:
        assert set(ours.terms) == {"error", "penalty"}


# ---------------------------------------------------------------------------------------------------- critics of latents


@pytest.mark.parametrize("shape", [(5,), (3, 2, 4)])
def test_a_latent_critic_judges_each_latent_by_itself(shape: tuple[int, ...]) -> None:
    critic, z = LatentCritic(shape, 7, 2), torch.randn(4, *shape)
    verdicts = critic(z)
    assert verdicts.shape == (4, 1)
    first, second, last = (m for m in critic.net if isinstance(m, nn.Linear))
    for row, verdict in zip(z, verdicts, strict=True):
        h = row.flatten()
        for layer in (first, second):
            h = layer.weight @ h + layer.bias
            h = torch.where(h > 0, h, 0.2 * h)
        close(verdict, last.weight @ h + last.bias)


@pytest.mark.parametrize("neck", ["matched-prior", "gaussian"])
@pytest.mark.parametrize("cls", [AAE, WAEGAN])
def test_values_of_the_adversarial_autoencoder(cls: Any, neck: str) -> None:
    net, x = model(neck), images()
    options = {"weight": 3.0} if cls is WAEGAN else {}
    objective = make(cls, **options)
    found = turns(objective)

    def codes() -> Tensor:
        return gaussian_draw(net, x)[0] if neck == "gaussian" else net.encoder(x)

    error = seeded(lambda: found["autoencoder"].loss(net, x)).terms["error"]
    close(error, nll(net, x, seeded(codes)))
    judged = seeded(lambda: found["judge"].loss(net, x)).terms["critic"]
    z, prior = seeded(lambda: (codes(), torch.randn(6, DIM)))
    close(judged, cross_entropy(log_odds(objective.critic, prior), log_odds(objective.critic, z)))
    if cls is AAE:
        assert list(found) == ["autoencoder", "judge", "fool"]
        assert found["fool"].trains == ("encoder", "bottleneck")
        verdict, weight = seeded(lambda: found["fool"].loss(net, x)).terms["verdict"], 1.0
    else:
        verdict, weight = seeded(lambda: found["autoencoder"].loss(net, x)).terms["verdict"], 3.0
    close(verdict, weight * deceit(log_odds(objective.critic, seeded(codes))))
    close(reduce(seeded(lambda: objective.loss(net, x)))[0], error.mean())  # validation asks no critic


class Projected(Bottleneck):
    """A bottleneck with weights of its own between features and latent."""

    offers = frozenset({"prior"})

    def __init__(self) -> None:
        super().__init__()
        self.fan_in = 3
        self.project = nn.Linear(3, DIM)

    def forward(self, features: Tensor) -> Latent:
        return Latent(self.project(features), features.new_zeros(len(features)))

    def prior(self, n: int, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(n, *shape, generator=generator)


@pytest.mark.parametrize("cls", [AAE, WAEGAN])
def test_the_projection_to_the_latent_is_trained_by_both_sides_of_the_autoencoder(cls: Any) -> None:
    """Named error of `autoencoders` AAE: it optimises encoder and decoder but never the latent projections."""
    base = model("matched-prior")
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 3))
    net = Autoencoder(IMAGE, encoder, Projected(), base.decoder, base.likelihood, (DIM,))
    objective, x = make(cls), images()
    for name, term in {"autoencoder": "error", "fool" if cls is AAE else "autoencoder": "verdict"}.items():
        turn = turns(objective)[name]
        assert "bottleneck" in turn.trains
        for gradient in torch.autograd.grad(turn.loss(net, x).terms[term].mean(), list(net.bottleneck.parameters())):
            assert gradient.any()


# ---------------------------------------------------------------------------------------------------- total correlation


def test_values_of_factor_vae() -> None:
    net, x = model(), images()
    objective = make(FactorVAE, gamma=2.5)
    found = turns(objective)
    outcome = seeded(lambda: found["autoencoder"].loss(net, x))
    z, kl = seeded(lambda: gaussian_draw(net, x))
    odds = log_odds(objective.critic, z)
    probability = [1 / (1 + math.exp(-o)) for o in odds]
    ratio = torch.tensor([math.log(p) - math.log(1 - p) for p in probability])
    close(outcome.terms["correlation"], 2.5 * ratio)
    close(reduce(outcome)[0], (nll(net, x, z) + kl + 2.5 * ratio).mean())
    judged = seeded(lambda: found["judge"].loss(net, x)).terms["critic"]
    z, order = seeded(lambda: (gaussian_draw(net, x)[0], torch.rand(6, DIM).argsort(0).tolist()))
    mixed = torch.stack([torch.stack([z[order[i][d], d] for d in range(DIM)]) for i in range(6)])
    close(judged, cross_entropy(log_odds(objective.critic, z), log_odds(objective.critic, mixed)))


@pytest.mark.parametrize("shape", [(5,), (2, 3, 2)])
def test_each_dimension_is_shuffled_over_the_batch_by_itself(shape: tuple[int, ...]) -> None:
    """Named error of PyTorch-VAE FactorVAE: it permutes dimensions within a sample, not each dimension over the batch."""
    z = torch.randn(50, *shape)
    mixed = shuffle_dimensions(z)
    assert mixed.shape == z.shape
    flat, other = z.flatten(1), mixed.flatten(1)
    orders = []
    for before, after in zip(flat.T, other.T, strict=True):
        assert torch.equal(before.sort().values, after.sort().values)  # the marginal is what it was
        orders.append([before.tolist().index(value) for value in after.tolist()])
    assert len({tuple(order) for order in orders}) == len(orders)  # and the joint is not
    torch.manual_seed(0)
    a = torch.randn(20_000)
    pair = torch.stack([a, a], 1)
    assert shuffle_dimensions(pair).T.corrcoef()[0, 1].abs() < 0.03


def test_a_trained_critics_mean_is_the_total_correlation() -> None:
    torch.manual_seed(1)
    rho = 0.8
    objective = FactorVAE((2,), width=32, depth=2).double()
    mixing = torch.linalg.cholesky(torch.tensor([[1.0, rho], [rho, 1.0]]))

    def encode(x: Tensor) -> Latent:
        return Latent(torch.randn(len(x), 2) @ mixing.T, torch.zeros(len(x)))

    net: Any = SimpleNamespace(encode=encode)
    optimizer = torch.optim.Adam(objective.critic.parameters())
    for i in range(500):
        optimizer.zero_grad()
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - i / 500)
        objective.judge(net, torch.zeros(512, 1)).terms["critic"].mean().backward()
        optimizer.step()
    with torch.no_grad():
        estimate = objective.critic(encode(torch.zeros(50_000, 1)).z).mean()
    torch.testing.assert_close(estimate, torch.tensor(-0.5 * math.log(1 - rho**2)), atol=0.05, rtol=0)


# ---------------------------------------------------------------------------------------------------- features


def test_values_of_vae_gan() -> None:
    net, x = model(), images()
    objective = make(VAEGAN, gamma=0.3, width=4, depth=2, layer=1)
    found = turns(objective)
    assert list(found) == ["encoder", "decoder", "judge"]
    convolution, _, _, _, _, _ = objective.critic.net

    def features(images: Tensor) -> Tensor:
        h = torch.nn.functional.conv2d(images, convolution.weight, convolution.bias, 2, 1)
        return torch.where(h > 0, h, 0.2 * h)

    def likeness(fake: Tensor) -> Tensor:
        """-log N(features of x; features of the fake, 1) without its constant."""
        normal = Normal(features(fake), 1.0)
        constant = 0.5 * math.log(2 * math.pi) * features(x)[0].numel()
        return -normal.log_prob(features(x)).flatten(1).sum(1) - constant

    encoder = seeded(lambda: found["encoder"].loss(net, x))
    z, kl = seeded(lambda: gaussian_draw(net, x))
    recon = picture(net, z)
    close(encoder.terms["features"], likeness(recon))
    close(encoder.terms["penalty"], kl)
    decoder = seeded(lambda: found["decoder"].loss(net, x))
    z, prior = seeded(lambda: (gaussian_draw(net, x)[0], torch.randn(6, DIM)))
    drawn = picture(net, prior)
    verdicts = [log_odds(objective.critic, each) for each in (x, recon, drawn)]
    close(decoder.terms["features"], 0.3 * likeness(recon))
    close(decoder.terms["verdict"], deceit(verdicts[1]) + deceit(verdicts[2]))
    close(decoder.terms["error"], nll(net, x, z))
    judged = seeded(lambda: found["judge"].loss(net, x)).terms["critic"]
    on_drawn = torch.tensor([-math.log(1 - 1 / (1 + math.exp(-v))) for v in verdicts[2]])
    close(judged, cross_entropy(verdicts[0], verdicts[1]) + on_drawn)


@pytest.mark.parametrize("cls", [VAEGAN, SoftIntroVAE])
def test_a_learned_scale_follows_the_pixels_and_tells_the_decoder_nothing(cls: Any) -> None:
    net, objective, x = model(), make(cls), images()
    error = turns(objective)["decoder"].loss(net, x).terms["error"].mean()
    error.backward()
    assert all(p.grad is None for part in (net.encoder, net.bottleneck, net.decoder) for p in part.parameters())
    assert all(p.grad is not None and p.grad.any() for p in net.likelihood.parameters())


def test_the_games_reach_the_decoder_without_the_pixels() -> None:
    net, objective, x = model(), make(VAEGAN), images()
    for name in ("features", "verdict"):
        net.zero_grad()
        turns(objective)["decoder"].loss(net, x).terms[name].mean().backward()
        assert all(p.grad is not None and p.grad.any() for p in net.decoder.parameters())
        assert all(p.grad is None for part in (net.encoder, net.likelihood) for p in part.parameters())


def test_a_layer_that_the_critic_has_not_is_refused() -> None:
    with pytest.raises(UsageError, match=r"objective.layer is 3, but the critic has 2"):
        VAEGAN(IMAGE, depth=2, layer=3)


# ---------------------------------------------------------------------------------------------------- energies


@pytest.mark.parametrize("image", [(1, 8, 8), (3, 9, 13), (2, 16, 11)], ids=str)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_an_energy_critic_takes_any_size(image: tuple[int, int, int], depth: int) -> None:
    x = torch.rand(3, *image) * 2 - 1
    code, recon = EnergyCritic(ImageShape(*image), 2, depth, 5)(x)
    assert code.shape == (3, 5) and recon.shape == x.shape


def test_an_energy_critic_that_is_too_deep_is_refused() -> None:
    with pytest.raises(UsageError, match=r"objective.depth 5 is too deep for 8×9×2 .height×width×channels. images"):
        EnergyCritic(IMAGE, 2, 5, 3)


@pytest.mark.parametrize(("cls", "power"), [(EBGAN, 2), (BEGAN, 1), (BEGAN, 2)])
def test_an_energy_is_the_critics_error_summed_over_pixels(cls: Any, power: int) -> None:
    objective, x = make(cls, **({"norm": power} if cls is BEGAN else {})), images(3)
    recon = objective.critic.decoder(objective.critic.encoder(x))
    for i in range(3):
        pairs = zip(x[i].flatten().tolist(), recon[i].flatten().tolist(), strict=True)
        close(objective.energy(x)[0][i], torch.tensor(sum(abs(a - b) ** power for a, b in pairs)))
    assert not objective.encodes


def generated(net: Autoencoder, count: int = 6) -> Tensor:
    torch.manual_seed(7)
    return picture(net, torch.randn(count, DIM))


@pytest.mark.parametrize("margin", [0.01, 0.5, 5.0])
def test_values_of_ebgan(margin: float) -> None:
    net, x = model("matched-prior"), images()
    objective = make(EBGAN, margin=margin, pull_away=0.1)
    found = turns(objective)
    real = (x - objective.critic(x)[1]).square().flatten(1).mean(1)
    fake_images = generated(net)
    codes, recon = (part.detach() for part in objective.critic(fake_images))
    fake = (fake_images - recon).square().flatten(1).mean(1)
    generator = seeded(lambda: found["generator"].loss(net, x)).terms
    # The paper's losses are means over pixels; ours are theirs times the number of pixel values.
    close(generator["generated_energy"], PIXELS * fake)
    pairs = [
        float(codes[i] @ codes[j] / (codes[i].norm() * codes[j].norm())) ** 2
        for i in range(6)
        for j in range(6)
        if i != j
    ]
    close(generator["pull"], torch.tensor(PIXELS * 0.1 * sum(pairs) / 30))
    judged, _ = reduce(seeded(lambda: found["judge"].loss(net, x)))
    close(judged, PIXELS * torch.stack([r + max(0.0, margin - f) for r, f in zip(real, fake, strict=True)]).mean())


def test_pulling_away_of_like_and_of_orthogonal_codes() -> None:
    close(pulling_away(torch.ones(5, 3)), torch.tensor(1.0))
    close(pulling_away(torch.eye(3)), torch.tensor(0.0))
    close(pulling_away(torch.ones(1, 3)), torch.tensor(0.0))


def test_beyond_the_margin_the_critic_leaves_generated_images_alone() -> None:
    net, objective, x = model("matched-prior"), make(EBGAN, margin=0.0), images()
    term = turns(objective)["judge"].loss(net, x).terms["shortfall"].mean()
    gradients = torch.autograd.grad(term, list(objective.critic.parameters()))
    assert not any(g.any() for g in gradients)


@pytest.mark.parametrize(("cls", "gamma"), [(EBGAN, 1.0), (BEGAN, 0.3)])
def test_validation_measures_convergence(cls: Any, gamma: float) -> None:
    net, x = model("matched-prior"), images()
    options = {"gamma": gamma} if cls is BEGAN else {}
    objective = make(cls, **options).eval()
    total, _ = reduce(seeded(lambda: objective.loss(net, x)))
    real, fake = objective.energy(x)[0].mean(), objective.energy(generated(net))[0].mean()
    close(total, real + abs(gamma * real - fake))


def test_the_controller_of_began() -> None:
    net, x = model("matched-prior"), images()
    objective = make(BEGAN, gamma=0.4, lambda_k=0.05)
    judge = turns(objective)["judge"]
    objective.k.fill_(0.5)
    real, fake = objective.energy(x)[0], objective.energy(generated(net))[0]
    outcome = seeded(lambda: judge.loss(net, x))
    outcome.terms["critic"].mean().backward()  # the k of this step is not the one it moved to
    close(outcome.terms["critic"], real - 0.5 * fake)
    close(outcome.watch["convergence"], real.mean() + (0.4 * real.mean() - fake.mean()).abs())
    moved = 0.5 + 0.05 * (0.4 * real - fake).mean() / PIXELS
    close(objective.k, moved.detach())
    close(outcome.watch["k"], torch.tensor(0.5))
    close(seeded(lambda: turns(objective)["generator"].loss(net, x)).terms["generated_energy"], fake)


def test_began_s_codes_are_pulled_away_as_ebgan_s_are() -> None:
    net, x, objective = model("matched-prior"), images(), make(BEGAN, pull_away=0.3)
    codes = objective.critic(generated(net))[0]
    term = seeded(lambda: turns(objective)["generator"].loss(net, x)).terms["pull"]
    close(term, PIXELS * 0.3 * pulling_away(codes))


def test_the_controller_stays_in_its_bounds_and_rests_without_gradients() -> None:
    net, x = model("matched-prior"), images()
    objective = make(BEGAN, gamma=1.0, lambda_k=1e6)
    judge = turns(objective)["judge"]
    with torch.no_grad():
        judge.loss(net, x)
    objective.eval()
    judge.loss(net, x)
    assert objective.k == 0
    objective.train()
    for k, excess, expected in ((0.5, 1.0, 1.0), (0.5, -1.0, 0.0)):
        objective.k.fill_(k)
        objective.balance(torch.tensor(excess))
        assert objective.k == expected
    assert "k" in objective.state_dict()


# ---------------------------------------------------------------------------------------------------- introspection


def test_values_of_soft_intro_vae() -> None:
    net, x = model(), images()
    rec, kl_weight, gen, neg, alpha, gamma = 0.7, 1.3, 0.4, 5.0, 2.0, 0.25
    weights = {"beta_rec": rec, "beta_kl": kl_weight, "beta_gen": gen, "beta_neg": neg}
    objective = make(SoftIntroVAE, **weights, alpha=alpha, gamma=gamma)
    found = turns(objective)
    assert list(found) == ["encoder", "decoder"]

    def distance(a: Tensor, b: Tensor) -> Tensor:
        """-log N(a; b, 1) without its constant."""
        return -(Normal(b, 1.0).log_prob(a) + 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)

    def play() -> tuple[Tensor, ...]:
        z, kl = gaussian_draw(net, x)
        fake = picture(net, torch.randn(6, DIM))
        again, fake_kl = gaussian_draw(net, fake)
        return z, kl, fake, again, fake_kl

    # The paper's losses are multiplied by s; ours are theirs over s.
    s = 1 / PIXELS
    encoder, _ = reduce(seeded(lambda: found["encoder"].loss(net, x)))
    z, kl, fake, again, fake_kl = seeded(play)
    recon = picture(net, z)
    lower = rec * distance(fake, picture(net, again)) + neg * fake_kl
    paper = s * (rec * distance(x, recon) + kl_weight * kl) + torch.exp(-alpha * s * lower) / alpha
    close(encoder * s, paper.mean())
    decoder = seeded(lambda: found["decoder"].loss(net, x)).terms
    close(decoder["error"], nll(net, x, z))
    close(decoder["squares"], rec * distance(x, recon))
    close(decoder["generated_penalty"], gen * fake_kl)
    close(decoder["generated_error"], gamma * rec * distance(fake, picture(net, again)))


def test_the_encoders_game_is_heard_less_the_better_it_knows() -> None:
    """The gradient of exp(-alpha · s · L) / (alpha · s) by L is -exp(-alpha · s · L): 1 at L = 0, then falling."""
    net, x = model(), images()
    values = [
        seeded(lambda b=b: make(SoftIntroVAE, beta_neg=b).tell(net, x)).terms["generated"].mean()
        for b in (0.0, 10.0, 1e6)
    ]
    assert values[0] > values[1] > 1e-12 > values[2]
    assert values[0] <= PIXELS / 2


def test_the_decoder_repeats_a_generated_image_and_does_not_move_it() -> None:
    """Algorithm 1: the target of `generated_error` is held still, and so is the latent it is repeated from."""
    net, x = model(), images()
    objective = make(SoftIntroVAE, gamma=1.0)
    term = seeded(lambda: turns(objective)["decoder"].loss(net, x)).terms["generated_error"].mean()
    ours = torch.autograd.grad(term, list(net.decoder.parameters()))
    with torch.no_grad():
        _, target, again = seeded(
            lambda: (
                gaussian_draw(net, x),
                fake := picture(net, torch.randn(6, DIM)),
                gaussian_draw(net, fake)[0],
            )
        )
    error = 0.5 * (target - location(net, again)).square().sum() / 6
    for gradient, reference in zip(ours, torch.autograd.grad(error, list(net.decoder.parameters())), strict=True):
        close(gradient, reference)


def test_generated_images_are_encoded_with_their_own_labels() -> None:
    net, x = model("conditional", classes=3), images()
    real = torch.tensor([0, 1, 2, 0, 1, 2])
    given = net.given(real)
    z = draw_prior(net, x)
    told = encode_generated(given, net.decode(z).mean, z)
    assert torch.equal(net.bottleneck.labels_of(told.z), net.bottleneck.labels_of(z))
    assert given.labels is real and net.labels is None


def test_both_players_together_train_the_whole_autoencoder() -> None:
    for cls in (VAEGAN, SoftIntroVAE):
        named = {part for turn in make(cls).turns() for part in turn.trains if isinstance(part, str)}
        assert named == set(AUTOENCODER)


def test_no_epoch_of_a_vae_gan_is_the_best_by_a_bound_that_it_does_not_minimise() -> None:
    assert not VAEGAN(IMAGE).settled(10**9)
