"""Codebooks against loops over their definitions, and what keeps them alive."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from aegen_builtin.latents import codebook
from aegen_builtin.latents.codebook import Codebook, k_means, rotated, straight_through
from aegen_builtin.latents.fsq import FSQ
from aegen_builtin.latents.lfq import LFQ
from aegen_builtin.latents.product_vq import ProductVQ
from aegen_builtin.latents.residual_vq import ResidualVQ
from aegen_builtin.latents.vq import VQ
from aegen_builtin.latents.vq2 import VQ2
from torch import Tensor, nn

from aegen.autoencoder import Autoencoder, build_model, build_objective
from aegen.errors import UsageError
from aegen.protocols import Bottleneck, ImageShape, Likelihood
from aegen.spec import Spec
from aegen.testing import check_bottleneck
from aegen.training.preview import samples
from aegen.training.turns import reduce

BOOKED: list[tuple[Any, dict[str, Any]]] = [
    (VQ, {}),
    (VQ, {"update": "gradient"}),
    (VQ, {"l2_normalised": True}),
    (VQ, {"l2_normalised": True, "update": "gradient", "rotation_trick": True}),
    (VQ, {"kmeans_iterations": 0, "restart": 0, "beta": 0.0, "decay": 0.0, "codes": 1}),
    (VQ, {"restart": 1, "rotation_trick": True, "codes": 3}),
    (ResidualVQ, {}),
    (ResidualVQ, {"levels": 1, "update": "gradient", "rotation_trick": True}),
    (ProductVQ, {}),
    (ProductVQ, {"groups": 8, "update": "gradient", "l2_normalised": True, "restart": 1}),
    (VQ2, {}),
    (VQ2, {"update": "gradient", "rotation_trick": True, "l2_normalised": True}),
]
EVERY: list[tuple[Any, dict[str, Any]]] = [
    *BOOKED,
    (FSQ, {}),
    (FSQ, {"levels": [2, 3, 4]}),
    (LFQ, {}),
    (LFQ, {"dim": 5, "joint": 2, "temperature": 1.0}),
    (LFQ, {"dim": 40, "joint": 4}),
]
SHAPES = [(), (3, 5)]


@pytest.fixture(autouse=True)
def _double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def close(ours: Tensor, reference: Any) -> None:
    torch.testing.assert_close(ours, torch.as_tensor(reference, dtype=ours.dtype), rtol=1e-6, atol=1e-9)


def features_of(neck: Bottleneck, spatial: tuple[int, ...], count: int = 6) -> Tensor:
    return torch.randn(count, neck.fan_in, *spatial)


def rows_of(x: Tensor) -> Tensor:
    """(B, dim, …) → (N, dim), position by position."""
    return torch.stack([x[b, :, *at] for b in range(len(x)) for at in itertools.product(*map(range, x.shape[2:]))])


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def by_hand(rows: Tensor, book: Tensor) -> list[int]:
    """The nearest code of each row, by comparing every distance."""
    rows, book = rows.detach(), book.detach()
    return [min(range(len(book)), key=lambda k: float((row - book[k]).square().sum())) for row in rows]


# ---------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize(("cls", "options"), EVERY, ids=str)
def test_contract(cls: Any, options: dict[str, Any]) -> None:
    torch.set_default_dtype(torch.float32)
    check_bottleneck(cls, **options)


@pytest.mark.parametrize("spatial", SHAPES)
@pytest.mark.parametrize(("cls", "options"), EVERY, ids=str)
def test_codes_say_all_that_the_decoder_sees(cls: Any, options: dict[str, Any], spatial: tuple[int, ...]) -> None:
    for dtype in (torch.float32, torch.float64):
        neck = cls(**options).to(dtype)
        features = features_of(neck, spatial).to(dtype)
        for _ in range(2):
            latent = neck.train()(features)
            assert latent.penalty.dtype == dtype
        latent = neck.eval()(features)
        assert latent.codes.dtype == torch.int64
        assert latent.codes.shape[0] == 6
        assert latent.codes.shape[latent.codes.ndim - len(spatial) :] == spatial
        z = neck.lookup(latent.codes)
        assert z.dtype == dtype
        assert torch.equal(z, latent.z)
        assert set(latent.statistics) == {"perplexity", "usage"} and "usage" not in latent.watch
        watch = neck.train()(features).watch
        assert set(watch) >= {"perplexity", "usage"}
        assert all(value.shape == () and not value.requires_grad for value in watch.values())


@pytest.mark.parametrize("spatial", SHAPES)
@pytest.mark.parametrize(("cls", "options"), EVERY, ids=str)
def test_in_evaluation_an_image_is_charged_for_itself_alone(
    cls: Any, options: dict[str, Any], spatial: tuple[int, ...]
) -> None:
    """Named error of pythae's VQ-VAE (HEAD and 0.1.2): the weight of the commitment depends on the batch or image size."""
    neck = cls(**options)
    features = features_of(neck, spatial)
    neck(features)
    neck.eval()
    whole = neck(features).penalty
    assert whole.shape == (6,)
    close(torch.cat([neck(features[:1]).penalty, neck(features[1:]).penalty]), whole)
    close(neck(features.repeat(3, *[1] * (features.ndim - 1))).penalty, whole.repeat(3))


@pytest.mark.parametrize(("cls", "options"), EVERY, ids=str)
def test_a_resumed_run_is_the_same_to_the_bit(cls: Any, options: dict[str, Any]) -> None:
    batches = [features_of(cls(**options), (4, 4), 5) for _ in range(6)]

    def steps(neck: Bottleneck, first: int, last: int) -> None:
        for step in range(first, last):
            torch.manual_seed(step)
            neck(batches[step])

    straight, begun, resumed = cls(**options), cls(**options), cls(**options)
    begun.load_state_dict(straight.state_dict())
    steps(straight, 0, 6)
    steps(begun, 0, 3)
    resumed(batches[5])  # it had begun something else, and must forget it
    resumed.load_state_dict(begun.state_dict())
    steps(resumed, 3, 6)
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def put_together(cls: Any, options: dict[str, Any], arch: Spec, image: ImageShape) -> Autoencoder:
    """What build_model does, for a bottleneck that is not looked up by name."""
    from aegen.factory import load
    from aegen.protocols import Architecture

    neck, likelihood = cls(**options), load("likelihood", "gaussian", Likelihood)
    pixels: Any = likelihood
    pixels = pixels(image)
    nets: Any = load("architecture", arch.name, Architecture)
    nets = nets(image, neck.fan_in, **arch.options)
    with torch.device("meta"), torch.no_grad():
        features = nets.encoder().eval()(torch.empty(1, *image))
        shape = tuple(copy.deepcopy(neck).to("meta").eval()(features).z.shape[1:])
    return Autoencoder(image, nets.encoder(), neck, nets.decoder(shape, pixels.fan_out), pixels, shape)


@pytest.mark.parametrize("objective", ["ae", "vae"])
@pytest.mark.parametrize(
    "arch", [Spec("mlp", {"hidden": [16]}), Spec("conv", {"width": 8, "depth": 1, "spatial": True})]
)
@pytest.mark.parametrize(("cls", "options"), [BOOKED[i] for i in (0, 1, 6, 8, 11)] + EVERY[-5:-2], ids=str)
def test_gradients_reach_every_weight_of_a_model(cls: Any, options: dict[str, Any], arch: Spec, objective: str) -> None:
    torch.manual_seed(0)  # the ReLUs of one tiny decoder in ten are born dead
    image = ImageShape(1, 9, 12)
    model = put_together(cls, options, arch, image)
    if objective == "vae" and cls is FSQ:
        with pytest.raises(UsageError, match="needs a penalty"):
            build_objective(Spec(objective), model)
        return
    x = torch.rand(4, *image) * 2 - 1
    outcome = build_objective(Spec(objective), model).loss(model, x)
    assert set(outcome.terms) == {"error", "penalty"}
    loss, metrics = reduce(outcome)
    assert metrics.keys() >= {"perplexity", "usage"}
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert any(p.grad.any() for p in model.encoder.parameters() if p.grad is not None)


def test_the_commitment_weighs_the_same_in_batches_of_every_size() -> None:
    """Named error of pythae's VQ-VAE: HEAD sums the commitment over the batch beside a mean error, 0.1.2 the opposite.

    The gradient of the loss is linear in the images: that of a batch is the mean of those of its images.
    """
    model = put_together(VQ, {"codes": 5}, Spec("mlp", {"hidden": [8]}), ImageShape(1, 8, 8))
    objective, x = build_objective(Spec("ae"), model), torch.rand(6, 1, 8, 8) * 2 - 1
    objective.loss(model, x)
    model.eval()
    weights = list(model.encoder.parameters())

    def gradient(part: Tensor, term: str) -> Tensor:
        loss = objective.loss(model, part).terms[term].mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])

    for term in ("error", "penalty"):
        one_by_one = torch.stack([gradient(x[i : i + 1], term) for i in range(6)]).mean(0)
        close(gradient(x, term), one_by_one)


# ---------------------------------------------------------------------------------------------------- nearest


def experienced(cls: Any, options: dict[str, Any], spatial: tuple[int, ...]) -> Any:
    """After two batches, in evaluation."""
    neck = cls(**options)
    for _ in range(2):
        neck(features_of(neck, spatial, 30))
    return neck.eval()


@pytest.mark.parametrize("spatial", SHAPES)
@pytest.mark.parametrize(("cls", "options"), EVERY, ids=str)
def test_nothing_that_it_gives_is_nearer_than_nearest(
    cls: Any, options: dict[str, Any], spatial: tuple[int, ...]
) -> None:
    neck = experienced(cls, options, spatial)
    if cls is ResidualVQ and len(neck.books) > 1:
        return  # level by level: another sum of codes may be nearer
    given = neck(features_of(neck, spatial, 40)).z.detach()
    close(neck.nearest(given), given)
    asked = torch.randn_like(given) * 2
    found = neck.nearest(asked)
    assert found.shape == asked.shape and found.dtype == asked.dtype
    close(neck.nearest(found), found)
    apart = (asked - found).flatten(1).norm(dim=1)
    assert (apart <= torch.cdist(asked.flatten(1), given.flatten(1)).min(1).values + 1e-9).all()


@pytest.mark.parametrize("spatial", SHAPES)
@pytest.mark.parametrize(("cls", "options"), [(FSQ, {"levels": [2, 3, 4]}), (LFQ, {"dim": 5})], ids=str)
def test_nearest_without_a_codebook_is_the_nearest_of_all_codes(
    cls: Any, options: dict[str, Any], spatial: tuple[int, ...]
) -> None:
    neck = cls(**options)
    every = neck.lookup(torch.arange(24 if cls is FSQ else 32))
    close(neck.nearest(every), every)
    asked = torch.randn(6, neck.fan_in, *spatial)
    rows = rows_of(asked)
    close(rows_of(neck.nearest(asked)), every[by_hand(rows, every)])


@pytest.mark.parametrize("l2_normalised", [False, True])
def test_nearest_of_codebooks_is_by_hand(l2_normalised: bool) -> None:
    options = {"codes": 7, "l2_normalised": l2_normalised}
    one = experienced(VQ, {"dim": 3, **options}, (4, 4))
    three = experienced(ProductVQ, {"dim": 6, "groups": 3, **options}, (4, 4))
    for neck, books in ((one, [one.book]), (three, three.books)):
        asked = torch.randn(5, neck.fan_in, 2, 2)
        parts = zip(books, asked.chunk(len(books), 1), neck.nearest(asked).chunk(len(books), 1), strict=True)
        for book, part, found in parts:
            vectors = unit(book.vectors) if l2_normalised else book.vectors
            close(rows_of(found), vectors[by_hand(rows_of(part), vectors)])


def test_codes_that_nearly_coincide_are_told_apart() -> None:
    neck = VQ(dim=2, codes=2, kmeans_iterations=0).float().eval()
    neck.book.vectors.copy_(torch.tensor([[3.0, 4.0], [3.0001, 4.0]]))
    assert torch.equal(neck.nearest(neck.book.vectors), neck.book.vectors)


def test_nearest_of_residual_codes_goes_level_by_level() -> None:
    neck = experienced(ResidualVQ, {"dim": 3, "codes": 5, "levels": 3, "kmeans_iterations": 0}, ())
    asked = torch.randn(20, 3)
    left = asked
    for book in neck.books:
        left = left - book.vectors[by_hand(left, book.vectors)]
    close(neck.nearest(asked), asked - left)


def test_the_top_codes_of_two_levels_stay_shared() -> None:
    neck = experienced(VQ2, {"dim": 2, "codes": 6}, (4, 4))
    asked = torch.randn(3, 4, 3, 5)
    top, bottom = neck.nearest(asked).chunk(2, 1)
    for i, j in itertools.product(range(2), range(3)):
        part = asked[:, :2, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten(2)
        whole = [[(part[b] - code[:, None]).square().sum() for code in neck.top.vectors] for b in range(3)]
        best = neck.top.vectors[torch.tensor(whole).argmin(1)]
        shared = top[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        close(shared, best[:, :, None, None].expand_as(shared))
    close(rows_of(bottom), neck.bottom.vectors[by_hand(rows_of(asked[:, 2:]), neck.bottom.vectors)])


def test_the_picture_of_an_epoch_shows_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sampler is fitted ex post, and draws between them."""
    torch.set_default_dtype(torch.float32)
    image = ImageShape(1, 8, 8)
    model = put_together(VQ, {"dim": 3, "codes": 4}, Spec("mlp", {"hidden": [8]}), image).eval()
    decode, shown = model.decode, []
    monkeypatch.setattr(model, "decode", lambda z: shown.append(z) or decode(z))
    samples(model, torch.randint(0, 256, (20, *image), dtype=torch.uint8), 30, tmp_path / "samples.png")
    z, book = torch.cat(shown), model.bottleneck.book.vectors
    assert z.shape == (30, 3)
    assert torch.cdist(z, book, compute_mode="donot_use_mm_for_euclid_dist").min(1).values.max() == 0


# ---------------------------------------------------------------------------------------------------- VQ


@pytest.mark.parametrize("spatial", SHAPES)
@pytest.mark.parametrize("l2_normalised", [False, True])
@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_vq_takes_the_nearest_code(spatial: tuple[int, ...], l2_normalised: bool, update: Any) -> None:
    neck = VQ(dim=3, codes=7, beta=0.6, l2_normalised=l2_normalised, update=update).eval()
    features = features_of(neck, spatial)
    latent = neck(features)
    rows, book = rows_of(features), neck.book.vectors.detach()
    if l2_normalised:
        rows, book = unit(rows), unit(book)
    codes = by_hand(rows, book)
    assert latent.codes is not None
    assert latent.codes.flatten().tolist() == codes
    close(rows_of(latent.z.detach()), book[codes])
    apart = (rows - book[codes]).square().sum(1)
    charge = apart.view(6, -1).sum(1) * (0.6 if update == "ema" else 1.6)
    close(latent.penalty, charge)
    shares = torch.bincount(torch.tensor(codes)) / len(codes)
    close(
        torch.tensor(latent.statistics["perplexity"].value()),
        math.exp(-sum(float(p) * math.log(p) for p in shares if p > 0)),
    )


def test_beta_weighs_the_commitment_and_not_the_codebook_term() -> None:
    """Named error of tokenizers.md section 4 no. 7: beta on the wrong VQ term. It is |sg x - e|² + beta · |x - sg e|²."""
    neck = VQ(dim=3, codes=4, beta=0.3, update="gradient", kmeans_iterations=0)
    features = features_of(neck, (2, 2)).requires_grad_()
    latent = neck(features)
    assert latent.codes is not None
    latent.penalty.sum().backward()
    gap = features.detach() - latent.z.detach()
    assert features.grad is not None
    close(features.grad, 2 * 0.3 * gap)
    moved = torch.zeros(4, 3)
    for row, code in zip(rows_of(gap), latent.codes.flatten().tolist(), strict=True):
        moved[code] -= 2 * row
    assert neck.book.vectors.grad is not None
    close(neck.book.vectors.grad, moved)


def test_with_averages_only_the_commitment_is_charged() -> None:
    neck = VQ(dim=3, codes=4, beta=0.0)
    assert not list(neck.parameters())
    latent = neck(features_of(neck, (2, 2)))
    assert not latent.penalty.any()


def test_averages_follow_a_loop_by_hand() -> None:
    neck = VQ(dim=2, codes=4, decay=0.8, kmeans_iterations=0, restart=0)
    book = neck.book.vectors.clone()
    counts, sums = [0.0] * 4, [torch.zeros(2) for _ in range(4)]
    for _ in range(20):
        features = features_of(neck, (), 5)
        codes = by_hand(features, book)
        for k in range(4):
            mine = [row for row, code in zip(features, codes, strict=True) if code == k]
            counts[k] = 0.8 * counts[k] + 0.2 * len(mine)
            sums[k] = 0.8 * sums[k] + 0.2 * sum(mine, start=torch.zeros(2))
            if counts[k] > 0:
                book[k] = sums[k] / counts[k]
        latent = neck(features)
        assert latent.codes is not None
        assert latent.codes.tolist() == codes
        close(neck.book.vectors, book)
        close(neck.book.counts, counts)


def test_an_unused_code_stays_where_it_is_however_long() -> None:
    neck = VQ(dim=1, codes=2, decay=0.1, kmeans_iterations=0, restart=0).float()
    neck.book.vectors.copy_(torch.tensor([[0.0], [50.0]]))
    neck(torch.full((3, 1), 49.0, dtype=torch.float32))
    for _ in range(400):  # its count underflows
        neck(torch.zeros(3, 1, dtype=torch.float32))
    assert neck.book.counts[1] == 0
    torch.testing.assert_close(neck.book.vectors, torch.tensor([[0.0], [49.0]], dtype=torch.float32))


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_rotation_trick_is_its_definition(dim: int) -> None:
    """q = λ R x with λ = |e| / |x|, R = I - 2 r rᵀ + 2 ê x̂ᵀ, r the unit vector halfway between x̂ and ê, both held constant."""
    x, e, g = torch.randn(4, dim, 3, requires_grad=True), torch.randn(4, dim, 3), torch.randn(4, dim, 3)
    z = rotated(x, e)
    assert torch.equal(z, e)
    (z * g).sum().backward()
    assert x.grad is not None
    for b, p in itertools.product(range(4), range(3)):
        a, q = x[b, :, p].detach(), e[b, :, p]
        start, end = unit(a), unit(q)
        middle = start + end
        length = middle.norm()
        middle = middle / length if length > 1e-12 else middle
        turn = torch.eye(dim) - 2 * torch.outer(middle, middle) + 2 * torch.outer(end, start)
        scale = q.norm() / a.norm()
        close(scale * turn @ a, q)
        if dim > 1:
            close(turn.T @ turn, torch.eye(dim))
        close(x.grad[b, :, p], scale * turn.T @ g[b, :, p])


def test_the_rotation_keeps_angles_between_gradient_and_code() -> None:
    """What the trick is for: the gradient stands to the features as it stands to the code."""
    x, e, g = torch.randn(9, 4, requires_grad=True), torch.randn(9, 4), torch.randn(9, 4)
    (rotated(x, e) * g).sum().backward()
    assert x.grad is not None
    close((unit(x.grad) * unit(x.detach())).sum(1), (unit(g) * unit(e)).sum(1))


def test_gradients_pass_straight_through() -> None:
    x, e, g = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    z = straight_through(x, e)
    assert torch.equal(z, e)
    (z * g).sum().backward()
    assert x.grad is not None and torch.equal(x.grad, g)
    assert e.grad is None


@pytest.mark.parametrize("options", [{}, {"rotation_trick": True}, {"l2_normalised": True, "rotation_trick": True}])
def test_the_gradients_of_a_bottleneck_are_finite_at_its_corners(options: dict[str, Any]) -> None:
    neck = VQ(dim=2, codes=3, kmeans_iterations=0, **options)
    neck.book.vectors.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]]))
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-9.0, 0.0]], requires_grad=True)
    latent = neck.eval()(features)
    (latent.z.sum() + latent.penalty.sum()).backward()
    assert features.grad is not None and features.grad.isfinite().all()


# ---------------------------------------------------------------------------------------------------- start and restart


def clusters(count: int, centres: int = 12, spread: float = 0.02) -> Tensor:
    """Rows around the corners of a 12-gon of radius 1, far from the origin."""
    corner = 2 * math.pi * torch.randint(centres, (count,)) / centres
    return torch.stack([5 + corner.cos(), corner.sin()], 1) + spread * torch.randn(count, 2)


def distortion(rows: Tensor, book: Tensor) -> float:
    return float(torch.cdist(rows, book).min(1).values.square().mean())


def test_k_means_is_lloyds_algorithm() -> None:
    torch.manual_seed(4)
    rows = torch.randn(30, 3)
    starts, books = k_means(rows, 5, 0, lambda m: m), []
    for iterations in range(6):
        torch.manual_seed(4)
        torch.randn(30, 3)
        books.append(k_means(rows, 5, iterations, lambda m: m))
    assert torch.equal(starts, books[0])
    assert all(any(torch.equal(mean, row) for row in rows) for mean in starts)
    book = starts.clone()
    for reached in books[1:]:
        codes = by_hand(rows, book)
        for k in range(5):
            mine = [row for row, code in zip(rows, codes, strict=True) if code == k]
            book[k] = torch.stack(mine).mean(0) if mine else book[k]
        close(reached, book)
    falls = [distortion(rows, b) for b in books]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(falls))
    assert falls[-1] < 0.9 * falls[0]


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_k_means_on_the_first_batch_lowers_the_distortion(update: Any) -> None:
    rows, after = clusters(200), {}
    for iterations in (0, 10):
        neck = VQ(dim=2, codes=24, kmeans_iterations=iterations, restart=0, update=update, decay=0.9)
        neck(rows)
        after[iterations] = distortion(rows, neck.book.vectors.detach())
    assert after[10] < 0.05 * after[0]


def test_k_means_happens_once_and_only_in_training_with_gradients() -> None:
    neck = VQ(dim=2, codes=4)
    with torch.no_grad():
        neck.train()(clusters(9))
    neck.eval()(clusters(9))
    assert not neck.book.initialised
    neck.train()(clusters(9))
    assert neck.book.initialised
    before = neck.book.vectors.clone()
    neck(clusters(9) + 100)  # codes follow by an average; k-means would put three of four elsewhere
    assert int((neck.book.vectors != before).any(1).sum()) == 1


def test_a_state_from_before_k_means_starts_anew() -> None:
    begun, fresh = VQ(dim=2, codes=4), VQ(dim=2, codes=4)
    begun(clusters(9))
    begun.load_state_dict(fresh.state_dict())
    rows = clusters(50)
    begun(rows)
    assert begun.book.initialised
    assert distortion(rows, begun.book.vectors) < 0.2 * distortion(rows, fresh.book.vectors)


def test_the_device_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    real = torch.Tensor.__bool__
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda tensor: looks.append(1) or real(tensor))
    for name in ("item", "tolist", "cpu", "nonzero", "__int__", "__float__"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_, name=name: pytest.fail(f"{name} waits for the device"))
    for cls, options in EVERY:
        neck = cls(**options)
        looks.clear()
        for _ in range(3):
            neck(features_of(neck, (2, 2)))
        assert len(looks) == sum(isinstance(part, Codebook) for part in neck.modules())


@pytest.mark.parametrize("l2_normalised", [False, True])
def test_fewer_vectors_than_codes_are_enough_to_start(l2_normalised: bool) -> None:
    neck = VQ(dim=3, codes=64, l2_normalised=l2_normalised)
    rows = torch.randn(5, 3) * 4
    latent = neck(rows)
    assert neck.book.vectors.isfinite().all()
    assert len(neck.book.vectors.unique(dim=0)) == 64
    assert neck.book.initialised
    assert latent.codes is not None
    assert len(latent.codes.unique()) == 5


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_restarts_revive_dead_codes(update: Any) -> None:
    def used(restart: int) -> tuple[float, float]:
        torch.manual_seed(restart)
        neck = VQ(dim=2, codes=48, decay=0.9, restart=restart, kmeans_iterations=0, update=update)
        for _ in range(60):
            neck(clusters(256, spread=0.1))
        fresh = neck.eval()(clusters(4096, spread=0.1))
        assert fresh.codes is not None
        close(torch.tensor(fresh.statistics["usage"].value()), len(fresh.codes.unique()) / 48)
        return float(neck.book.usage()), len(fresh.codes.unique()) / 48

    without, truly_without = used(0)
    revived, truly_revived = used(5)
    assert without < 0.5 and truly_without < 0.5
    assert revived > 0.9 and truly_revived > 0.9


def test_a_code_is_restarted_on_a_current_feature_when_its_time_is_up() -> None:
    neck = VQ(dim=1, codes=2, restart=3, kmeans_iterations=0)
    neck.book.vectors.copy_(torch.tensor([[0.0], [100.0]]))
    for step in range(3):
        assert neck.book.vectors[1] == 100
        rows = torch.rand(4, 1) + step
        neck(rows)
    beside = (neck.book.vectors[1] - rows).abs().min()
    assert 0 < beside < 6 * 0.01 * rows.std()  # beside a feature, so that no two codes are ever the same
    assert neck.book.idle.tolist() == [0, 0]
    assert neck.book.counts[1] == 0


def test_a_restarted_code_forgets_what_it_stood_for() -> None:
    neck = VQ(dim=1, codes=2, restart=3, decay=0.9, kmeans_iterations=0)
    neck.book.vectors.copy_(torch.tensor([[0.0], [100.0]]))
    neck(torch.tensor([[0.0], [100.0]]))
    for _ in range(3):
        neck(torch.tensor([[0.0], [10.0]]))
    place = float(neck.book.vectors[1])
    assert min(abs(place), abs(place - 10)) < 6 * 0.05
    neck.book.vectors[1] = 10.0
    neck(torch.tensor([[-1.0], [11.0], [13.0]]))
    close(neck.book.vectors[1], [12.0])  # a mean of 100 and these, if it remembered


def test_small_batches_do_not_make_codes_look_dead() -> None:
    """One vector a batch for eight codes: a code's turn comes at every eighth batch."""
    neck = VQ(dim=1, codes=8, restart=2, decay=0.5, kmeans_iterations=0)
    neck.book.vectors.copy_(torch.arange(8.0).unsqueeze(1))
    for step in range(32):
        neck(torch.full((1, 1), float(step % 8)))
        close(neck.book.vectors, torch.arange(8.0).unsqueeze(1))
    for _ in range(10):  # code 1 had waited for six
        assert len(neck.book.vectors.unique()) == 8
        neck(torch.zeros(1, 1))
    assert (neck.book.vectors.flatten() - torch.tensor([0.0, 0, 2, 3, 4, 5, 6, 7])).abs().max() < 1e-6


def test_usage_counts_codes_of_the_last_hundred_batches() -> None:
    neck = VQ(dim=1, codes=4, decay=0.99, restart=0, kmeans_iterations=0)
    neck.book.vectors.copy_(torch.tensor([[0.0], [1.0], [2.0], [3.0]]))
    assert neck.book.usage() == 0
    neck.train()
    neck(torch.tensor([[0.0], [1.0]]))
    for step in range(1, 102):
        latent = neck(torch.zeros(1, 1))
        assert latent.watch["usage"] == (0.5 if step < 100 else 0.25)


# ---------------------------------------------------------------------------------------------------- several codebooks


@pytest.mark.parametrize("spatial", SHAPES)
def test_residual_levels_quantise_what_is_left(spatial: tuple[int, ...]) -> None:
    neck = ResidualVQ(dim=3, levels=3, codes=5, beta=0.4).eval()
    features = features_of(neck, spatial)
    latent = neck(features)
    left, charge = rows_of(features), torch.zeros(6)
    assert latent.codes is not None and latent.codes.shape == (6, 3, *spatial)
    for level, book in enumerate(neck.books):
        codes = by_hand(left, book.vectors)
        assert latent.codes[:, level].flatten().tolist() == codes
        left = left - book.vectors[codes]
        charge = charge + 0.4 * left.square().sum(1).view(6, -1).sum(1)
    close(latent.penalty, charge)
    close(rows_of(latent.z), rows_of(features) - left)


def test_the_error_falls_with_every_level() -> None:
    neck = ResidualVQ(dim=2, levels=4, codes=16, decay=0.9)
    for _ in range(20):
        neck(torch.randn(256, 2))
    features = torch.randn(500, 2)
    latent = neck.eval()(features)
    assert latent.codes is not None
    errors = [float((features - neck.lookup(latent.codes[:, :n])).square().mean()) for n in range(1, 5)]
    assert all(later < 0.6 * earlier for earlier, later in itertools.pairwise(errors))


def test_every_residual_level_is_committed_once() -> None:
    """The gradient of the charge: 2 beta · what is left after each level."""
    neck = ResidualVQ(dim=3, levels=3, codes=5, beta=0.4).eval()
    features = features_of(neck, ()).requires_grad_()
    latent = neck(features)
    latent.penalty.sum().backward()
    assert latent.codes is not None and features.grad is not None
    after = [features.detach() - neck.lookup(latent.codes[:, :n]) for n in range(1, 4)]
    close(features.grad, 2 * 0.4 * sum(after, start=torch.zeros(6, 3)))


@pytest.mark.parametrize("spatial", SHAPES)
def test_groups_are_quantised_apart(spatial: tuple[int, ...]) -> None:
    neck = ProductVQ(dim=6, groups=3, codes=5, beta=0.4).eval()
    features = features_of(neck, spatial)
    latent = neck(features)
    assert latent.codes is not None and latent.codes.shape == (6, 3, *spatial)
    charge = torch.zeros(6)
    for group, book in enumerate(neck.books):
        rows = rows_of(features[:, 2 * group : 2 * group + 2])
        codes = by_hand(rows, book.vectors)
        assert latent.codes[:, group].flatten().tolist() == codes
        close(rows_of(latent.z[:, 2 * group : 2 * group + 2]), book.vectors[codes])
        charge = charge + 0.4 * (rows - book.vectors[codes]).square().sum(1).view(6, -1).sum(1)
    close(latent.penalty, charge)
    changed = features.clone()
    changed[:, 2:4] = torch.randn(6, 2, *spatial) * 5
    again = neck(changed).codes
    assert again is not None
    assert torch.equal(again[:, [0, 2]], latent.codes[:, [0, 2]])
    assert not torch.equal(again[:, 1], latent.codes[:, 1])


def test_groups_must_be_equal() -> None:
    with pytest.raises(UsageError, match="6 dimensions make no 4 equal groups"):
        ProductVQ(dim=6, groups=4)


@pytest.mark.parametrize("size", [(1, 1), (4, 6), (5, 3), (1, 4)])
def test_vq2_has_a_coarse_and_a_fine_code(size: tuple[int, int]) -> None:
    neck = VQ2(dim=3, codes=9, beta=0.4).eval()
    features = features_of(neck, size)
    latent = neck(features)
    tall, wide = size
    high = neck.down(features)
    assert high.shape[2:] == (math.ceil(tall / 2), math.ceil(wide / 2))
    above, charge = torch.empty(6, 3, *size), torch.zeros(6)
    assert latent.codes is not None and latent.codes.shape == (6, 2, *size)
    for b, i, j in itertools.product(range(6), range(tall), range(wide)):
        row = high[b, :, i // 2, j // 2]
        (code,) = by_hand(row[None], neck.top.vectors)
        assert latent.codes[b, 0, i, j] == code
        above[b, :, i, j] = neck.top.vectors[code]
        if i % 2 == j % 2 == 0:
            charge[b] += 0.4 * (row - above[b, :, i, j]).square().sum()
    low = neck.merge(torch.cat([features, above], 1))
    codes = by_hand(rows_of(low), neck.bottom.vectors)
    assert latent.codes[:, 1].flatten().tolist() == codes
    charge = charge + 0.4 * (rows_of(low) - neck.bottom.vectors[codes]).square().sum(1).view(6, -1).sum(1)
    close(latent.penalty, charge)
    close(latent.z[:, :3], above)
    close(rows_of(latent.z[:, 3:]), neck.bottom.vectors[codes])


def test_several_codebooks_are_watched_by_their_average() -> None:
    def spread(codes: Tensor) -> Tensor:
        shares = codes.flatten().bincount() / codes.numel()
        return torch.distributions.Categorical(shares).perplexity()

    for neck in (ResidualVQ(dim=4, levels=3, codes=9), ProductVQ(dim=4, groups=2, codes=9), VQ2(dim=3, codes=9)):
        latent = neck.eval()(features_of(neck, (4, 6)))
        assert latent.codes is not None
        wanted = torch.stack([spread(c) for c in latent.codes.unbind(1)]).mean()
        close(torch.tensor(latent.statistics["perplexity"].value()), float(wanted))


def test_vq2_takes_a_vector_for_one_position() -> None:
    neck = VQ2(dim=3, codes=9).eval()
    features = features_of(neck, ())
    vector, position = neck(features), neck(features[:, :, None, None])
    assert vector.codes is not None and position.codes is not None
    assert vector.z.shape == (6, 6) and vector.codes.shape == (6, 2)
    assert torch.equal(vector.z, position.z[:, :, 0, 0])
    assert torch.equal(vector.codes, position.codes[:, :, 0, 0])


# ---------------------------------------------------------------------------------------------------- no codebook

LEVELS = [[2, 3], [8, 5, 5, 5], [8, 6, 5], [4, 7, 2], [16]]


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_fsq_is_its_formula(levels: list[int]) -> None:
    neck = FSQ(levels=levels)
    features = features_of(neck, (3, 2)) * 2
    latent = neck(features)
    assert latent.codes is not None
    for b, i, j in itertools.product(range(6), range(3), range(2)):
        code = 0
        for d, n in enumerate(levels):
            b_ = (n - 1) * (1 + 1e-3) / 2
            o = 0.0 if n % 2 else 0.5
            digit = round(math.tanh(float(features[b, d, i, j]) + math.atanh(o / b_)) * b_ - o)
            close(latent.z[b, d, i, j], digit / (n // 2))
            code += (digit + n // 2) * math.prod(levels[:d])
        assert latent.codes[b, i, j] == code
    assert not latent.penalty.any()


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_fsq_reaches_every_code_and_finds_it_again(levels: list[int]) -> None:
    neck = FSQ(levels=levels).eval()
    every = torch.arange(math.prod(levels))
    z = neck.lookup(every)
    assert len(z.unique(dim=0)) == len(every)
    assert z.abs().max() <= 1
    ends = torch.linspace(-6, 6, 4001).unsqueeze(1).expand(-1, len(levels))
    reached = neck(ends).z
    for d, n in enumerate(levels):
        assert len(reached[:, d].unique()) == n
    # What tanh and the shift take to these very levels: codes → features → codes.
    whole = z * (neck.levels // 2)
    again = neck(torch.atanh((whole + neck.offset) / neck.bound) - neck.shift)
    assert torch.equal(again.codes, every)
    assert torch.equal(again.z, z)
    close(torch.tensor(again.statistics["usage"].value()), 1.0)
    close(torch.tensor(again.statistics["perplexity"].value()), len(every))


def test_fsq_has_the_gradient_of_what_it_rounds() -> None:
    neck = FSQ(levels=[8, 5])
    features, g = features_of(neck, (2, 2)).requires_grad_(), torch.randn(6, 2, 2, 2)
    (neck(features).z * g).sum().backward()
    again = features.detach().requires_grad_()
    bound, shift, half = (v.view(2, 1, 1) for v in (neck.bound, neck.shift, neck.levels // 2))
    (torch.tanh(again + shift) * bound / half * g).sum().backward()
    assert features.grad is not None and again.grad is not None
    close(features.grad, again.grad)


def test_fsq_refuses_codes_that_no_integer_holds() -> None:
    for levels in ([], [1000] * 7):
        with pytest.raises(UsageError, match="62 bits"):
            FSQ(levels=levels)


@pytest.mark.parametrize("joint", [1, 2, 4, 9])
@pytest.mark.parametrize("spatial", SHAPES)
def test_lfq_entropies_by_brute_force(spatial: tuple[int, ...], joint: int) -> None:
    neck = LFQ(dim=4, joint=joint, temperature=0.7, entropy=0.3, beta=0.2)
    features = features_of(neck, spatial)
    latent = neck(features)
    rows = rows_of(features)
    corners = torch.tensor([[1.0 if code >> bit & 1 else -1.0 for bit in range(4)] for code in range(16)])
    logits = torch.tensor([[2 * float(row @ corner) / 0.7 for corner in corners] for row in rows])
    p = logits.softmax(1)
    each = -(p * p.log()).sum(1)
    mean = p.mean(0)
    together = torch.zeros(())
    for start in range(0, 4, joint):  # the joint distribution of these bits alone
        mass: dict[int, float] = {}
        for code in range(16):
            part = code >> start & (2**joint - 1)
            mass[part] = mass.get(part, 0.0) + float(mean[code])
        together = together - sum(m * math.log(m) for m in mass.values())
    places = math.prod(spatial)
    commitment = (rows - rows.sign()).square().sum(1).view(6, -1).sum(1)
    close(latent.penalty, 0.2 * commitment + 0.3 * (each.view(6, -1).sum(1) - places * together))
    nearest = [max(range(16), key=lambda code: float(row @ corners[code])) for row in rows]
    assert latent.codes is not None
    assert latent.codes.flatten().tolist() == nearest
    close(rows_of(latent.z), corners[nearest])


def test_lfq_entropies_are_safe_where_probabilities_vanish() -> None:
    neck = LFQ(dim=6).float()
    features = (torch.tensor([[1.0, -1.0, 3.0, 0.0, 1e-4, -40.0]], dtype=torch.float32)).repeat(4, 1).requires_grad_()
    latent = neck(features)
    latent.penalty.sum().backward()
    assert latent.penalty.isfinite().all()
    assert features.grad is not None and features.grad.isfinite().all()


def test_lfq_draws_codes_apart_and_makes_them_firm() -> None:
    """Down the gradient of the entropies alone, each image grows sure of its code and the batch comes to use all of them."""
    torch.manual_seed(0)
    neck = LFQ(dim=3, beta=0.0, entropy=1.0, temperature=2.0)
    features = (torch.randn(64, 3) * 0.1 + 0.3).requires_grad_()
    first = neck(features)
    for _ in range(300):
        features = (features - 0.3 * torch.autograd.grad(neck(features).penalty.sum(), features)[0]).detach()
        features.requires_grad_()
    last = neck(features)
    assert first.watch["perplexity"] < 1.5
    assert last.watch["perplexity"] > 6
    assert last.penalty.mean() < first.penalty.mean() - 1
    assert features.abs().mean() > 1


def test_lfq_validates_with_the_average_of_past_batches() -> None:
    neck = LFQ(dim=3, decay=0.8, temperature=0.5, entropy=1.0, beta=0.0, joint=2)
    batches = [features_of(neck, (), 7) for _ in range(3)]
    shares = []
    for batch in batches:
        neck(batch)
        shares.append(torch.sigmoid(4 * batch / 0.5))
    x = features_of(neck, (), 2)
    weights = [0.8**age for age in (2, 1, 0)]
    single = sum(w * s[:, 2].mean() for w, s in zip(weights, shares, strict=True)) / sum(weights)
    pair = torch.zeros(4)
    for w, s in zip(weights, shares, strict=True):
        for code in range(4):
            one = s[:, 0] if code & 1 else 1 - s[:, 0]
            two = s[:, 1] if code & 2 else 1 - s[:, 1]
            pair[code] += w * (one * two).mean() / sum(weights)
    coin = torch.distributions.Bernoulli
    together = torch.distributions.Categorical(pair).entropy() + coin(single).entropy()
    charge = coin(logits=4 * x / 0.5).entropy().sum(1) - together
    torch.testing.assert_close(neck.eval()(x).penalty, charge, rtol=1e-6, atol=1e-6)


def test_lfq_of_many_bits_has_a_code_for_each() -> None:
    neck = LFQ(dim=62, joint=4).eval()
    features = torch.randn(5, 62)
    latent = neck(features)
    assert latent.codes is not None
    for row, code in zip(features, latent.codes.tolist(), strict=True):
        assert code == sum(2**i for i, value in enumerate(row.tolist()) if value > 0)


# ---------------------------------------------------------------------------------------------------- watching


def test_what_is_watched_needs_no_table_of_codes() -> None:
    codes = torch.tensor([[5, 5, 2**61], [5, 7, 7]])
    shares = [3 / 6, 1 / 6, 2 / 6]
    close(codebook.perplexity(codes), math.exp(-sum(p * math.log(p) for p in shares)))
    close(codebook.batch_usage(codes, 2**62), 3 / 6)  # it could have used six
    close(codebook.batch_usage(codes, 4), 3 / 4)


def test_a_model_built_by_name_is_made_as_the_helper_makes_it() -> None:
    ours = put_together(FSQ, {}, Spec("mlp", {"hidden": [8]}), ImageShape(1, 8, 8))
    theirs = build_model(Spec("mlp", {"hidden": [8]}), Spec("deterministic", {"dim": 4}), Spec("gaussian"), ours.image)
    assert ours.latent_shape == theirs.latent_shape
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]
    assert isinstance(ours.bottleneck, nn.Module)
