"""Autoencoders without a density, each against a brute-force float64 reference: DAE, sparse, contractive, RAE."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from aegen_builtin.objectives.ae import AE
from aegen_builtin.objectives.contractive_ae import ContractiveAE
from aegen_builtin.objectives.dae import DAE
from aegen_builtin.objectives.rae_gp import RAEGP
from aegen_builtin.objectives.rae_l2 import RAEL2
from aegen_builtin.objectives.sparse_ae import SparseAE
from conftest import bent
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.distributions import Bernoulli, Normal, kl_divergence

from aegen import Autoencoder, ImageShape, Objective
from aegen.autoencoder import build_model
from aegen.spec import Spec
from aegen.testing import check_objective
from aegen.training.turns import Stage

IMAGE = ImageShape(3, 8, 9)
ARCHS = [Spec("mlp", {"hidden": [16]}), Spec("conv", {"width": 4, "depth": 2, "spatial": True})]
both = pytest.mark.parametrize("arch", ARCHS, ids=["vector", "map"])


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def close(ours: Tensor, reference: Tensor) -> None:
    torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-9)


def images(count: int = 5) -> Tensor:
    return torch.rand(count, *IMAGE) * 2 - 1


def model(arch: Spec = ARCHS[0], dim: int = 3) -> Autoencoder:
    return build_model(arch, Spec("deterministic", {"dim": dim}), Spec("gaussian"), IMAGE).double()


def per_image(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1).sum(1)


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (DAE, {}),
        (DAE, {"noise": "masking"}),
        (DAE, {"noise": "salt-and-pepper", "level": 0.5}),
        (SparseAE, {}),
        (SparseAE, {"form": "kl", "target": 0.1}),
        (ContractiveAE, {}),
        (ContractiveAE, {"probes": 0}),
        (ContractiveAE, {"probes": 3}),
        (RAEL2, {}),
        (RAEGP, {}),
        (RAEGP, {"probes": 0}),
    ],
    ids=str,
)
def test_contract(cls: type[Objective], options: dict[str, Any]) -> None:
    torch.set_default_dtype(torch.float32)
    check_objective(cls, **options)


@pytest.mark.parametrize(
    "objective",
    [DAE(level=0.0), SparseAE(weight=0.0), ContractiveAE(weight=0.0), RAEL2(beta=0.0, weight=0.0), RAEGP(weight=0.0)],
    ids=lambda o: type(o).__name__,
)
def test_without_its_term_each_is_the_plain_autoencoder(objective: Objective) -> None:
    net, x = model(), images()
    terms = objective.loss(net, x).terms
    close(terms["error"], AE().loss(net, x).terms["error"])
    assert all(not term.any() for name, term in terms.items() if name not in ("error", "norm"))


@pytest.mark.parametrize("objective", [SparseAE(), ContractiveAE(probes=0), RAEGP(probes=0), RAEL2()], ids=str)
def test_terms_do_not_depend_on_the_batch(objective: Objective) -> None:
    net, x = model(), images(6)
    whole, first = objective.loss(net, x).terms, objective.loss(net, x[:2]).terms
    for name in whole:
        close(whole[name][:2] if whole[name].ndim else whole[name], first[name])


@pytest.mark.parametrize("objective", [DAE(), SparseAE(), ContractiveAE(), RAEL2(), RAEGP()], ids=str)
def test_without_gradients_nothing_carries_a_graph(objective: Objective) -> None:
    """A critic's turn takes its fakes so: whatever required a gradient would leak into the autoencoder."""
    net, x = model(), images()
    with torch.no_grad():
        outcome = objective.loss(net, x)
    assert outcome.recon is not None and outcome.latent is not None
    assert not any(t.requires_grad for t in (*outcome.terms.values(), outcome.recon, outcome.latent.z))


def slope_by_differences(value: Callable[[], Tensor], parameter: torch.nn.Parameter) -> tuple[Tensor, Tensor]:
    """The derivative of `value` along a random direction of the parameter: by autograd, and by central differences."""
    along = torch.randn_like(parameter)
    (gradient,) = torch.autograd.grad(value(), parameter)
    with torch.no_grad():
        parameter += 1e-6 * along
        above = value()
        parameter -= 2e-6 * along
        below = value()
        parameter += 1e-6 * along
    return (gradient * along).sum(), (above - below) / 2e-6


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of the compiler itself
@pytest.mark.parametrize("objective", [ContractiveAE(), RAEGP()], ids=str)
def test_second_derivatives_survive_the_compiler(objective: Objective) -> None:
    """It refuses to differentiate twice, so it must leave these parts alone."""
    torch._dynamo.reset()
    net, x = model(), images(3)
    stage = Stage(net, objective, objective.turns()[0])

    def gradients(stage: Any) -> tuple[Tensor, ...]:
        torch.manual_seed(4)
        return torch.autograd.grad(stage(x)[0], list(net.parameters()))

    plain, compiled = gradients(stage), gradients(torch.compile(stage, backend="aot_eager"))
    for ours, reference in zip(compiled, plain, strict=True):
        close(ours, reference)


# ---------------------------------------------------------------------------------------------------- denoising


def test_dae_reconstructs_the_clean_image_from_the_noisy_one() -> None:
    net, x = model(), images()
    torch.manual_seed(3)
    ours = DAE(level=0.4).loss(net, x).terms["error"]
    torch.manual_seed(3)
    means = bent(net.decoder(net.encoder(x + 0.4 * torch.randn(x.shape))))
    close(ours, -per_image(Normal(means, net.likelihood.scale().exp()).log_prob(x)))


def test_dae_masks_to_black_and_leaves_the_rest() -> None:
    """Vincent's 0 is black in [0, 1]; in [-1, 1] it would be grey."""
    x = torch.rand(40, *IMAGE) * 0.5
    noisy = DAE(noise="masking", level=0.3).corrupt(x)
    hit = noisy != x
    assert (noisy[hit] == -1).all()
    assert abs(hit.double().mean() - 0.3) < 0.03


def test_dae_salt_and_pepper_is_half_of_each() -> None:
    x = torch.rand(40, *IMAGE) * 0.5
    noisy = DAE(noise="salt-and-pepper", level=0.4).corrupt(x)
    hit = noisy != x
    assert set(noisy[hit].tolist()) == {-1.0, 1.0}
    assert abs((noisy == 1).double().mean() - 0.2) < 0.03
    assert abs((noisy == -1).double().mean() - 0.2) < 0.03


def test_dae_takes_a_schedule_for_its_level() -> None:
    from aegen import Schedule

    objective = DAE(noise="masking", level=0.5)
    objective.schedule("level", Schedule.parse("linear(0,1,10)"))
    for step, share in ((0, 0.0), (10, 1.0)):
        objective.at(step)
        assert (objective.corrupt(torch.zeros(2, *IMAGE)) == -1).double().mean() == share


# ---------------------------------------------------------------------------------------------------- sparse


@both
def test_sparse_l1_is_the_sum_of_magnitudes(arch: Spec) -> None:
    net, x = model(arch), images()
    ours = SparseAE(weight=2.0).loss(net, x).terms["density"]
    reference = [2 * sum(abs(v) for v in row.flatten().tolist()) for row in net.encoder(x)]
    close(ours, torch.tensor(reference))


@both
def test_sparse_kl_is_that_of_the_mean_activation(arch: Spec) -> None:
    net, x = model(arch), images()
    ours = SparseAE(form="kl", weight=2.0, target=0.1).loss(net, x).terms["density"]
    activation = torch.sigmoid(net.encoder(x)).mean(0)
    close(ours, 2 * kl_divergence(Bernoulli(torch.tensor(0.1)), Bernoulli(activation)).sum())
    close(SparseAE(form="kl", weight=2.0, target=0.1).loss(net, torch.cat([x, x])).terms["density"], ours)


@pytest.mark.parametrize("target", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("level", [-1000.0, 0.0, 1000.0])
def test_sparse_kl_is_finite_where_a_unit_is_dead(target: float, level: float) -> None:
    z = torch.full((4, 3), level, requires_grad=True)
    value = SparseAE(form="kl", target=target).divergence(z)
    value.backward()
    assert value.isfinite() and z.grad is not None and z.grad.isfinite().all()


def test_sparse_kl_pulls_activations_to_the_target() -> None:
    objective = SparseAE(form="kl", target=0.2)
    at = torch.tensor(0.2).logit()
    close(objective.divergence(at.expand(5, 3)), torch.tensor(0.0))
    for level, sign in ((at + 1, 1), (at - 1, -1)):
        z = level.expand(5, 3).clone().requires_grad_()
        (gradient,) = torch.autograd.grad(objective.divergence(z), z)
        assert (gradient.sign() == sign).all()


# ---------------------------------------------------------------------------------------------------- contractive


@both
def test_contraction_is_the_squared_norm_of_the_jacobian(arch: Spec) -> None:
    net, x = model(arch), images(3)
    ours = ContractiveAE(weight=2.0, probes=0).loss(net, x).terms["contraction"]
    reference = [2 * jacobian(lambda one: net.encode(one).z, row[None]).square().sum() for row in x]
    close(ours, torch.stack(reference))


@both
def test_validation_measures_the_same_contraction(arch: Spec) -> None:
    net, x = model(arch), images(3)
    objective = ContractiveAE(probes=0).eval()
    ours = objective.loss(net, x).terms["contraction"]
    with torch.no_grad():
        close(objective.loss(net, x).terms["contraction"], ours.detach())


def test_a_probe_of_one_dimension_is_exact() -> None:
    net, x = model(dim=1), images()
    exact = ContractiveAE(probes=0).norm(net, x)
    close(ContractiveAE(probes=1).norm(net, x), exact)
    close(ContractiveAE(probes=3).norm(net, x), exact)


def test_probes_estimate_the_contraction_without_bias() -> None:
    net, x = model(dim=6), images(2)
    exact = ContractiveAE(probes=0).norm(net, x).detach()
    with torch.no_grad():
        torch.testing.assert_close(ContractiveAE(probes=1500).norm(net, x), exact, rtol=0.1, atol=0)


@both
@pytest.mark.parametrize("probes", [0, 2])
def test_the_contraction_trains_the_encoder_through_its_derivative(arch: Spec, probes: int) -> None:
    """Double backward through rectifiers that work in place, against differences of the norm itself."""
    net, x = model(arch), images(3)

    def norm() -> Tensor:
        torch.manual_seed(2)
        with torch.enable_grad():
            return ContractiveAE(probes=probes).norm(net, x).sum()

    ours, reference = slope_by_differences(norm, next(p for p in net.encoder.parameters() if p.ndim > 1))
    torch.testing.assert_close(ours, reference.detach(), rtol=1e-5, atol=1e-8)
    assert ours != 0
    parameters = list(net.decoder.parameters())
    assert all(g is None for g in torch.autograd.grad(norm(), parameters, allow_unused=True))


# ---------------------------------------------------------------------------------------------------- regularised


@both
@pytest.mark.parametrize("cls", [RAEL2, RAEGP])
def test_rae_charges_half_the_squared_norm_of_the_latent(cls: Any, arch: Spec) -> None:
    net, x = model(arch), images()
    ours = cls(beta=3.0).loss(net, x).terms["norm"]
    prior = -per_image(Normal(0.0, 1.0).log_prob(net.encoder(x)) - Normal(0.0, 1.0).log_prob(torch.tensor(0.0)))
    close(ours, 3 * prior)


def test_rae_l2_is_the_decoders_weights_alone() -> None:
    net, x = model(), images()
    decay = RAEL2(weight=2.0).loss(net, x).terms["decay"]
    values = [v for p in net.decoder.parameters() for v in p.flatten().tolist()]
    close(decay, torch.tensor(2 * sum(v * v for v in values)))
    decay.backward()
    assert all(p.grad is None for p in net.encoder.parameters())
    for p in net.decoder.parameters():
        assert p.grad is not None
        close(p.grad, 4 * p)


@both
def test_rae_gp_is_the_squared_norm_of_the_decoders_jacobian(arch: Spec) -> None:
    net, x = model(arch), images(2)
    ours = RAEGP(weight=2.0, probes=0).loss(net, x).terms["slope"]
    z = net.encode(x).z
    reference = [2 * jacobian(lambda one: net.decode(one).mean, row[None]).square().sum() for row in z]
    close(ours, torch.stack(reference))
    with torch.no_grad():
        close(RAEGP(weight=2.0, probes=0).loss(net, x).terms["slope"], ours.detach())


def test_rae_gp_is_not_the_gradient_of_the_sum_over_pixels() -> None:
    """A decoder that moves two pixels oppositely has a derivative, although the sum of its pixels has none."""
    z = torch.randn(4, 1, requires_grad=True)
    image = torch.cat([z, -z], 1).reshape(4, 1, 1, 2)
    close(RAEGP(probes=0).slope(image, z, keep=False), torch.full((4,), 2.0))


def test_rae_gp_probes_estimate_without_bias() -> None:
    net, x = model(), images(2)
    z = net.encode(x).z
    image = net.decode(z).mean
    exact = RAEGP(probes=0).slope(image, z, keep=False)
    torch.testing.assert_close(RAEGP(probes=1500).slope(image, z, keep=False), exact, rtol=0.1, atol=0)


@both
@pytest.mark.parametrize("probes", [0, 2])
def test_rae_gp_trains_the_decoder_and_the_encoder_through_its_derivative(arch: Spec, probes: int) -> None:
    net, x = model(arch), images(2)
    objective = RAEGP(probes=probes, beta=0.0)

    def slope() -> Tensor:
        torch.manual_seed(2)
        with torch.enable_grad():
            return objective.loss(net, x).terms["slope"].sum()

    for part in (net.encoder, net.decoder):
        ours, reference = slope_by_differences(slope, next(p for p in part.parameters() if p.ndim > 1))
        torch.testing.assert_close(ours, reference.detach(), rtol=1e-5, atol=1e-8)
        assert part is net.encoder or ours != 0  # with ReLU the decoder's slope is the same all around a latent


# ---------------------------------------------------------------------------------------------------- spectral norm


NORMED = [Spec("mlp", {"hidden": [24]}), Spec("conv", {"width": 4, "depth": 2})]


@pytest.mark.parametrize("arch", NORMED, ids=lambda s: s.name)
def test_spectral_norm_brings_the_decoders_largest_singular_values_to_one_and_leaves_the_encoder(arch: Spec) -> None:
    normed = Spec(arch.name, {**arch.options, "spectral_norm": True})
    model = build_model(normed, Spec("deterministic", {"dim": 3}), Spec("gaussian", {}), ImageShape(1, 12, 12))
    with torch.no_grad():
        for _ in range(300):  # a power iteration each
            model.decode(torch.randn(2, 3))
    layers: list[Any] = [
        m for m in model.decoder.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
    ]
    assert len(layers) >= 2
    for layer in layers:
        transposed = isinstance(layer, nn.ConvTranspose2d)
        matrix = layer.weight.transpose(0, 1) if transposed else layer.weight
        assert torch.linalg.svdvals(matrix.flatten(1).double())[0].item() == pytest.approx(1, abs=1e-3)
    assert not any("parametrizations" in name for name, _ in model.encoder.named_parameters())
