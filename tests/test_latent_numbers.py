"""Numbers of bottlenecks that went wrong at their edges: the rim of the ball, many levels, codes that are all dead, parts of a step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mpmath
import pytest
import torch
from aegen_builtin.adversarial.gan import GAN
from aegen_builtin.latents.codebook import k_means
from aegen_builtin.latents.fsq import FSQ
from aegen_builtin.latents.lfq import LFQ
from aegen_builtin.latents.poincare import Poincare
from aegen_builtin.latents.vq import VQ
from aegen_builtin.latents.wrapped_normal import Ball, WrappedNormal
from test_parallel import Pool, double, pool_of
from torch import Tensor
from torch.nn.functional import normalize

from aegen import accumulation, collectives
from aegen.protocols import ImageShape
from aegen.training.distributed import World
from aegen.training.progress import seed_step, step_seed


def exact(a: Tensor, v: Tensor, std: Tensor, curvature: float) -> float:
    """log q - log p of one draw with 120 digits: the mean lies at exp(a), the draw at the tangent vector v from there."""
    with mpmath.workdps(120):
        root = mpmath.sqrt(curvature)
        a_, v_, std_ = ([mpmath.mpf(float(t)) for t in row] for row in (a, v, std))
        ra, rv = (root * mpmath.sqrt(mpmath.fsum(t * t for t in row)) for row in (a_, v_))
        cosine = curvature * mpmath.fsum(s * t for s, t in zip(a_, v_, strict=True)) / (ra * rv)
        d = mpmath.acosh(mpmath.cosh(ra) * mpmath.cosh(rv) + mpmath.sinh(ra) * mpmath.sinh(rv) * cosine)
        dim = len(a_)

        def log_normal(scaled: Any, widths: Any, r: Any) -> Any:
            flat = mpmath.fsum(-s * s / 2 - mpmath.log(2 * mpmath.pi) / 2 for s in scaled) - mpmath.fsum(
                mpmath.log(w) for w in widths
            )
            return flat - (dim - 1) * mpmath.log(mpmath.sinh(r) / r)

        log_q = log_normal([t / s for t, s in zip(v_, std_, strict=True)], std_, rv)
        return float(log_q - log_normal([d / root] + [mpmath.mpf(0)] * (dim - 1), [], d))


@pytest.mark.parametrize(("dim", "curvature"), [(2, 1.0), (16, 6.0), (4, 25.0), (64, 1.5), (64, 25.0)])
@pytest.mark.parametrize("far", [1e-6, 0.5, 3.0, 9.9])
def test_the_charge_on_the_ball_is_right_out_to_the_rim(
    dim: int, curvature: float, far: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    ball = Ball(curvature)
    a = far / ball.root * normalize(torch.randn(3, dim).double(), dim=1)
    std, noise = torch.rand(3, dim) * 1.5 + 0.1, torch.randn(3, dim)
    monkeypatch.setattr(torch, "randn_like", lambda _: noise)
    z, charge = WrappedNormal(ball, ball.out(a), std).charged()
    assert charge.dtype == torch.float32 and z.isfinite().all()
    for row in range(3):
        truth = exact(a[row], (std * noise)[row], std[row], curvature)
        assert abs(charge[row].item() - truth) < 1e-5 * max(1.0, abs(truth))


@pytest.mark.parametrize(("dim", "curvature"), [(2, 1.0), (2, 25.0), (4, 25.0), (64, 1.5), (100, 1.0)])
def test_the_prior_of_the_ball_charges_itself_nothing(dim: int, curvature: float) -> None:
    charge = Poincare(dim=dim, curvature=curvature)(torch.zeros(1000, 2 * dim)).penalty
    assert charge.abs().max() < 1e-4


@pytest.mark.parametrize(
    "levels", [[2], [3], [1001], [1002], [1003], [1024], [65537], [2**24 + 3], [2**40], [1003, 2, 4096]]
)
def test_the_outermost_levels_are_in_the_book(levels: list[int]) -> None:
    neck = FSQ(levels=levels)
    latent = neck(torch.tensor([[-40.0] * len(levels), [40.0] * len(levels), [0.0] * len(levels)]))
    assert latent.codes is not None
    assert latent.codes[:2].tolist() == [0, neck.size - 1]
    assert torch.equal(latent.z, neck.lookup(latent.codes))


def test_lecam_does_not_depend_on_how_verdicts_share_a_batch() -> None:
    """Tseng et al., 2021, eq. 4: a mean of squares, so batches of one have the mean of the whole."""
    game = GAN(ImageShape(1, 8, 8), width=4, lecam=1.0).eval()
    game.usual.copy_(torch.tensor([0.3, -0.2]))
    real, fake = torch.randn(32, 1, dtype=torch.float64), torch.randn(32, 1, dtype=torch.float64)
    low, high = game.usual.double()[1], game.usual.double()[0]
    whole = ((real - low).clamp(min=0) ** 2).mean() + ((high - fake).clamp(min=0) ** 2).mean()
    torch.testing.assert_close(game.unusual(real, fake), whole, rtol=1e-6, atol=0)
    single = torch.stack([game.unusual(real[i : i + 1], fake[i : i + 1]) for i in range(32)]).mean()
    torch.testing.assert_close(single, whole, rtol=1e-6, atol=0)


# ---------------------------------------------------------------------------------------------------- codes


@pytest.mark.parametrize("spread", [1.0, 0.01, 0.0])
def test_restarted_codes_differ(spread: float) -> None:
    torch.manual_seed(0)
    neck = VQ(dim=8, codes=96, restart=3).train()
    clusters = torch.randn(5, 8)
    for _ in range(40):
        neck(clusters[torch.randint(5, (24,))] + spread * torch.randn(24, 8))
        assert len(neck.book.vectors.unique(dim=0)) == 96


def test_k_means_of_the_same_row_gives_different_codes() -> None:
    assert len(k_means(torch.zeros(64, 4), 48, 10, lambda x: x).unique(dim=0)) == 48


def restarted(world: World) -> dict[str, Tensor]:
    """A codebook after steps in which most codes are dead: 24 features, 5 of them different, for 96 codes."""
    with double():
        torch.manual_seed(0)
        neck = VQ(dim=4, codes=96, restart=3).train()
        clusters = torch.randn(5, 4)
        for step in range(30):
            rows = clusters[torch.arange(24).add(step) % 5] + 0.1 * torch.sin(
                torch.arange(96.0).view(24, 4) * (step + 1)
            )
            own = rows.chunk(world.size)[world.rank]
            seed_step(0, world.rank, step, world.device)
            if world.size > 1:
                collectives.begin(world.rank, world.size, step_seed(0, 0, step))
            neck(own)
            collectives.end()
        return {key: value.clone() for key, value in neck.state_dict().items()}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    yield from pool_of(2, tmp_path_factory.mktemp("two"))


def test_restarts_are_the_same_in_two_processes_as_in_one(two: Pool) -> None:
    one, several = restarted(World(torch.device("cpu"))), two(restarted)
    for key, value in one.items():
        torch.testing.assert_close(several[key], value, rtol=1e-9, atol=1e-12, msg=key)


# ---------------------------------------------------------------------------------------------------- parts of a step


def stepped(call: Any, x: Tensor, count: int) -> None:
    """One step's batch in micro-batches."""
    for i, part in enumerate(x.chunk(count)):
        accumulation.begin(count, i == count - 1)
        call(part)
    accumulation.end()


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_a_codebooks_averages_do_not_know_how_a_step_is_divided(update: Any) -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        whole = VQ(dim=3, codes=6, restart=0, kmeans_iterations=0, update=update).train()
        parts = VQ(dim=3, codes=6, restart=0, kmeans_iterations=0, update=update).train()
        parts.load_state_dict(whole.state_dict())
        for _ in range(5):
            x = torch.randn(12, 3)
            stepped(whole, x, 1)
            stepped(parts, x, 3)
        for key, value in whole.state_dict().items():
            torch.testing.assert_close(parts.state_dict()[key], value, rtol=1e-12, atol=1e-14, msg=key)
    finally:
        torch.set_default_dtype(torch.float32)


def test_other_moving_averages_move_once_a_step_too() -> None:
    torch.manual_seed(0)
    whole, parts = LFQ(dim=4).train(), LFQ(dim=4).train()
    x = torch.randn(12, 4) * 0.01
    stepped(whole, x, 1)
    stepped(parts, x, 4)
    torch.testing.assert_close(parts.average, whole.average)
    image = ImageShape(1, 8, 8)
    one, several = (GAN(image, width=4, lecam=1.0).train() for _ in range(2))
    verdicts = torch.randn(12, 2)
    stepped(lambda v: one.unusual(v[:, :1], v[:, 1:]), verdicts, 1)
    stepped(lambda v: several.unusual(v[:, :1], v[:, 1:]), verdicts, 4)
    torch.testing.assert_close(several.usual, one.usual)
    torch.testing.assert_close(one.usual, 0.001 * verdicts.mean(0))


def test_a_step_that_broke_off_leaves_nothing_behind() -> None:
    neck = VQ(dim=2, codes=3, kmeans_iterations=0).train()
    state = {key: value.clone() for key, value in neck.state_dict().items()}
    accumulation.begin(2, False)
    neck(torch.randn(4, 2))
    accumulation.end()
    neck.load_state_dict(state)
    assert not neck.book.hits_of_step.total.any() and not neck.book.sums_of_step.total.any()
