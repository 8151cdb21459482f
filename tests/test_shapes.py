"""`--data shapes`: pictures drawn from known factors, and the way of factors from a data set to a metric."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from aegen_builtin.data.shapes import Shapes, drawn, render
from conftest import Aegen
from torch import Tensor

from aegen.data.source import Data, load_data
from aegen.errors import UsageError
from aegen.settings import DataSettings

SHAPE, SCALE, ROTATION, X, Y, COLOUR, BACKGROUND = range(7)
VALUES = (4, 3, 6, 8, 8, 6, 1)


def picture(size: int = 64, values: tuple[int, ...] = VALUES, *, grey: bool = True, **chosen: int) -> Tensor:
    """One image in [0, 1], all factors at their middle or as chosen: `picture(X=0)`."""
    factors = [count // 2 for count in values]
    for name, value in chosen.items():
        factors[globals()[name]] = value
    return render(torch.tensor([factors]), values, (size, size), grey=grey)[0].double() / 255


def load(size: int | list[int] | None = 16, channels: int | None = None, **options: int) -> Data:
    return load_data(DataSettings(name="shapes", size=size, channels=channels), {"count": 200, **options})


def test_an_image_is_a_function_of_the_seed_and_its_number() -> None:
    values = (3, 6, 6, 8, 8, 8, 1)
    assert torch.equal(drawn(5, 1000, values)[:10], drawn(5, 10, values))
    assert torch.equal(load().train, load().train)
    assert (drawn(5, 1000, values) == drawn(6, 1000, values)).double().mean(0)[:6].max() < 0.4


def test_the_numbers_are_those_of_splitmix64() -> None:
    """So that the images of a seed stay what they are; its first ones from 0, as published with it."""
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B]
    assert drawn(0, 1, (2, *[1000] * 5))[0, 1:].tolist() == [number * 1000 >> 64 for number in published]


def test_factors_are_uniform_and_independent() -> None:
    values = (3, 6, 6, 8, 8, 8, 4)
    factors = drawn(3, 40_000, values)
    for one in range(7):
        counts = torch.bincount(factors[:, one], minlength=values[one]).double()
        assert counts.shape == (values[one],)
        assert (counts / 40_000 * values[one] - 1).abs().max() < 0.05
        for other in range(one):
            joint = torch.bincount(factors[:, one] * 8 + factors[:, other], minlength=64).double()
            expected = 40_000 / values[one] / values[other]
            assert ((joint[joint > 0] - expected) / math.sqrt(expected)).abs().max() < 5


@pytest.mark.parametrize("shape", range(4))
@pytest.mark.parametrize("scale", range(3))
def test_every_shape_has_the_area_of_its_scale(shape: int, scale: int) -> None:
    covered = picture(128, SHAPE=shape, SCALE=scale, COLOUR=5).sum() * (2 / 128) ** 2
    assert covered.item() == pytest.approx((0.35, 0.5, 0.65)[scale] ** 2, rel=0.005)


@pytest.mark.parametrize("shape", range(4))
def test_the_centre_of_mass_is_where_the_position_says(shape: int) -> None:
    image = picture(128, SHAPE=shape, X=1, Y=6)[0]
    place = (torch.arange(128) + 0.5) / 64 - 1
    x, y = (image.sum(0) * place).sum() / image.sum(), (image.sum(1) * place).sum() / image.sum()
    assert x.item() == pytest.approx(-0.42 + 0.84 * 1 / 7, abs=1e-3)
    assert y.item() == pytest.approx(-0.42 + 0.84 * 6 / 7, abs=1e-3)


def test_another_position_is_the_same_picture_moved() -> None:
    step = 6  # pixels at this size
    for factor, axis in (("X", 2), ("Y", 1)):
        one, next_ = picture(100, **{factor: 2}), picture(100, **{factor: 3})
        torch.testing.assert_close(one.roll(step, axis), next_, atol=1.5 / 255, rtol=0)
        assert (one - next_).abs().max() > 0.5


@pytest.mark.parametrize("rotation", range(6))
def test_a_rotation_turns_the_longer_axis_by_its_share_of_a_quarter_turn(rotation: int) -> None:
    image = picture(128, (4, 3, 6, 1, 1, 6, 1), SHAPE=1, ROTATION=rotation)[0]
    place = (torch.arange(128) + 0.5) / 64 - 1
    across, down = (image.sum(0) * place**2).sum(), (image.sum(1) * place**2).sum()
    both = (image * place * place[:, None]).sum()
    assert 0.5 * math.atan2(2 * both, across - down) == pytest.approx(rotation / 6 * math.pi / 2, abs=1e-2)


def test_no_two_rotations_look_alike() -> None:
    for shape in range(4):
        turned = [picture(64, SHAPE=shape, SCALE=2, ROTATION=n) for n in range(6)]
        apart = [(a - b).abs().max() for n, a in enumerate(turned) for b in turned[:n]]
        assert min(apart) > 0.2


def test_every_shape_is_wholly_seen() -> None:
    corners = torch.cartesian_prod(*map(torch.tensor, ([0, 1, 2, 3], [2], range(6), [0, 7], [0, 7], [5], [0])))
    middle = corners.clone()
    middle[:, X], middle[:, Y] = 3, 3
    inside, outside = (render(some, VALUES, (100, 100), grey=True).int() for some in (middle, corners))
    for one, other, place in zip(inside, outside, corners[:, [X, Y]].tolist(), strict=True):
        moved = one.roll((6 * (place[1] - 3), 6 * (place[0] - 3)), (1, 2))  # 6 pixels a place
        assert (moved - other).abs().max() <= 1


def test_edges_are_smooth_and_the_inside_is_plain() -> None:
    image = picture(64, SHAPE=1, COLOUR=5)
    between = (image > 0) & (image < 1)
    assert 0.2 < between.sum() / (image == 1).sum() < 0.6
    assert len(image[between].unique()) > 10


def test_colours_are_hues_and_grey_ones_are_levels() -> None:
    middle = [picture(grey=False, X=4, Y=4, COLOUR=n)[:, 36, 36].tolist() for n in range(6)]
    assert middle == [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]]
    levels = [picture(X=4, Y=4, COLOUR=n)[0, 36, 36].item() for n in range(6)]
    assert levels == pytest.approx([0.4, 0.52, 0.64, 0.76, 0.88, 1.0], abs=0.002)


def test_a_background_of_several_values_is_never_the_colour_of_the_shape() -> None:
    values = (*VALUES[:6], 6)
    for grey in (False, True):
        grounds = [picture(values=values, grey=grey, BACKGROUND=n)[:, 0, 0].tolist() for n in range(6)]
        shapes = [picture(values=values, grey=grey, COLOUR=n, X=4, Y=4)[:, 36, 36].tolist() for n in range(6)]
        assert len({tuple(c) for c in grounds + shapes}) == 12
    assert not picture(grey=False)[:, 0, 0].any()


@pytest.mark.parametrize(("size", "channels"), [(None, None), (32, 1), ([16, 24], 2), (20, 4)])
def test_it_comes_in_the_size_and_channels_asked_for(size: int | list[int] | None, channels: int | None) -> None:
    sides = (64, 64) if size is None else (size, size) if isinstance(size, int) else tuple(size)
    assert load(size, channels).train.shape[1:] == (channels or 3, *sides)


def test_factors_with_one_value_are_none_and_shapes_are_the_classes() -> None:
    data = load(backgrounds=3, scales=1, positions=1)
    assert data.factor_names == ["shape", "rotation", "colour", "background"]
    assert data.classes == ["square", "ellipse", "heart"]
    assert data.validation_factors is not None and data.validation_labels is not None
    assert torch.equal(data.validation_factors[:, 0], data.validation_labels)
    assert load(shapes=1).classes == [] and load(shapes=1).train_labels is None
    assert load(shapes=4).classes[-1] == "triangle"
    plain = load(shapes=1, scales=1, rotations=1, positions=1, colours=1)
    assert plain.validation_factors is None and plain.factor_names == []


def test_the_factors_of_held_out_images_are_theirs() -> None:
    data = load()
    assert data.validation_factors is not None and data.validation_factors.shape == (20, 6)
    again = torch.cat([data.validation_factors, torch.zeros(20, 1, dtype=torch.int64)], 1)
    assert torch.equal(render(again, Shapes().values, (16, 16)), data.validation)


def test_shapes_are_refused_beyond_the_four(aegen: Aegen) -> None:
    said = aegen("train", "--data", "shapes", "--data.shapes", 5, "--dry-run")
    said.refused(2, "--data.shapes", "1≤x≤4")


# ---------------------------------------------------------------------------------------------------- files


def saved(path: Path, **arrays: np.ndarray) -> DataSettings:
    np.savez(path, images=np.arange(40 * 64, dtype=np.uint32).astype(np.uint8).reshape(40, 8, 8), **arrays)
    return DataSettings(name=str(path))


def test_a_file_may_bring_factors(tmp_path: Path) -> None:
    factors = np.stack([np.arange(40) % 4, np.arange(40)], 1)
    data = load_data(saved(tmp_path / "a.npz", factors=factors, factor_names=np.array(["kind", "number"])))
    assert data.factor_names == ["kind", "number"]
    assert data.validation_factors is not None
    # An image's first pixel is 64 times its number, by 256.
    assert torch.equal(data.validation[:, 0, 0, 0].long(), data.validation_factors[:, 1] * 64 % 256)
    assert torch.equal(data.validation_factors[:, 0], data.validation_factors[:, 1] % 4)
    named = load_data(saved(tmp_path / "b.npz", factors=factors, labels=np.arange(40) % 3))
    assert named.factor_names == ["factor 0", "factor 1"] and named.classes == ["0", "1", "2"]


def test_a_file_with_a_split_brings_the_factors_of_both(tmp_path: Path) -> None:
    held = {"validation_images": np.zeros((3, 8, 8), np.uint8), "validation_factors": np.array([[1], [0], [5]])}
    data = load_data(saved(tmp_path / "a.npz", factors=np.zeros((40, 1), int), **held))
    assert data.validation_factors is not None and data.validation_factors.tolist() == [[1], [0], [5]]
    alone = load_data(saved(tmp_path / "b.npz", **held))
    assert alone.validation_factors is not None and alone.validation_factors.tolist() == [[1], [0], [5]]
    half = load_data(
        saved(tmp_path / "c.npz", factors=np.zeros((40, 1), int), validation_images=held["validation_images"])
    )
    assert half.validation_factors is None


@pytest.mark.parametrize(
    ("factors", "names", "reason"),
    [
        (np.zeros((39, 2), int), None, "a row of whole numbers for each of 40 images"),
        (np.zeros(40, int), None, "a row of whole numbers"),
        (np.zeros((40, 0), int), None, "a row of whole numbers"),
        (np.zeros((40, 2)), None, "factors float64"),
        (np.zeros((40, 2), int), np.array(["one"]), "names no such columns"),
        (np.zeros((40, 2), int), np.array([1, 2]), "names no such columns"),
    ],
)
def test_factors_that_do_not_fit_are_refused(
    tmp_path: Path, factors: np.ndarray, names: np.ndarray | None, reason: str
) -> None:
    more = {} if names is None else {"factor_names": names}
    with pytest.raises(UsageError, match=reason):
        load_data(saved(tmp_path / "a.npz", factors=factors, **more))
