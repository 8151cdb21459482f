"""Whatever the handle is given is taken or refused in one sentence, and threads that share a handle do not hear of each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from conftest import SMALL, Aegen
from PIL import Image

import aegen as api
from aegen.errors import UsageError
from aegen.inference.model import Model
from aegen.settings import RunSpec
from aegen.training.run import train


@pytest.fixture(scope="module")
def model(trained: Path) -> Model:
    return api.load(trained)


def images(model: Model, count: int = 3) -> torch.Tensor:
    return torch.rand(count, *model.image, generator=torch.Generator().manual_seed(3)) * 2 - 1


ODD: dict[str, Callable[[torch.Tensor], Any]] = {
    "meta": lambda x: x.to("meta"),
    "sparse": torch.Tensor.to_sparse,
    "complex": lambda x: x.to(torch.complex64),
    "integers": torch.Tensor.int,
    "numpy": torch.Tensor.numpy,
    "list": torch.Tensor.tolist,
    "none": lambda x: None,
    "text": lambda x: "a.png",
    "number": lambda x: torch.tensor(1.0),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_image_and_no_latent_is_refused(model: Model, kind: str) -> None:
    x, z = images(model), torch.zeros(3, *model.latent_shape)
    odd = ODD[kind](x)
    for use in (model.encode, model.reconstruct, model.score, lambda y: model.interpolate(y, x)):
        with pytest.raises(UsageError, match=r"images are .*, but must be .*\(B, "):
            use(odd)
    with pytest.raises(UsageError, match=r"images are .*, but must be .*\(B, "):
        model.interpolate(x, odd)
    with pytest.raises(UsageError, match=r"latents are .*, but must be floating point"):
        model.decode(ODD[kind](z))


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_every_float_is_an_image(model: Model, kind: torch.dtype) -> None:
    """With the numbers that the same values in float32 have, also on a way between two kinds."""
    x = images(model)
    given = x.to(kind)
    assert torch.equal(model.reconstruct(given), model.reconstruct(given.float()))
    assert torch.equal(model.interpolate(given, x), model.interpolate(given.float(), x))
    # Of one image and of a batch: another processor may add up in another order.
    torch.testing.assert_close(model.interpolate(given[0], x[1]), model.interpolate(given.float(), x.roll(-1, 0))[0])


NUMBERS: dict[str, Callable[[Model, Any], object]] = {
    "n": lambda model, value: model.sample(value),
    "steps": lambda model, value: model.interpolate(images(model), images(model), steps=value),
    "batch": lambda model, value: list(model.read_batches("a.png", value)),
    "seed": lambda model, value: model.encode(images(model), seed=value),
}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [1.5, "3", [2], torch.tensor(2.0), float("inf")])
def test_what_is_no_whole_number_is_refused(model: Model, name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{name} is .*, but must be a whole number"):
        NUMBERS[name](model, value)


def test_seeds_have_bounds(model: Model) -> None:
    for seed in (2**63, -(2**63) - 1, 2**5000):
        for use in (lambda s: model.sample(2, seed=s), lambda s: model.reconstruct(images(model), seed=s)):
            with pytest.raises(UsageError, match=r"seed is .*, but must be -9223372036854775808…9223372036854775807"):
                use(seed)
    assert torch.equal(model.sample(2, seed=2**63 - 1), model.sample(torch.tensor(2), seed=2**63 - 1))  # type: ignore[arg-type]


def test_codes_are_integers_of_any_kind(tmp_path: Path) -> None:
    """One code an image, so that a single number has as many further dimensions as a batch: none."""
    settings = {**SMALL, "data.name": "digits", "train.steps": 2, "objective.name": "vq-vae", "bottleneck.codes": 8}
    model = api.load(train(**settings, run_dir=tmp_path / "run").run)
    codes = torch.tensor([0, 7, 3])
    wanted = model.lookup(codes)
    for kind in (torch.uint8, torch.int16, torch.int32, torch.uint16, torch.uint32, torch.uint64):
        assert torch.equal(model.lookup(codes.to(kind)), wanted)
    for odd in (codes[0], codes.to(torch.complex64), codes.float(), codes.to("meta"), codes[None], 3):
        with pytest.raises(UsageError, match=r"codes are .*, but the model's are integers"):
            model.lookup(odd)  # type: ignore[arg-type]
    for odd in (torch.tensor([8]), torch.tensor([-1]), torch.tensor([2**64 - 1], dtype=torch.uint64)):
        with pytest.raises(UsageError, match=r"codes must lie in 0…7"):
            model.lookup(odd)


@pytest.mark.parametrize("paths", [None, 5, b"a.png", ["a.png", None], [3], [b"a.png"]])
def test_what_is_no_path_is_refused(model: Model, paths: Any) -> None:
    with pytest.raises(UsageError, match="is no path"):
        model.read(paths)


def test_names_are_texts(model: Model) -> None:
    with pytest.raises(UsageError, match="sampler is 5, but must be a name"):
        model.sample(2, 5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"method is \['lerp'\], but takes lerp, slerp"):
        model.interpolate(images(model), images(model), method=["lerp"])  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Model:
    settings = {**SMALL, "data.name": "digits", "train.steps": 4, "objective.name": "conditional-vae"}
    return api.load(train(**settings, run_dir=tmp_path_factory.mktemp("told") / "run").run)


@pytest.mark.parametrize(
    "labels", [["a", "b", "c"], [0.7, 1, 2], torch.tensor([0.5, 1, 2]), [None] * 3, "abc", [2**70] * 3, [[0], [1, 2]]]
)
def test_labels_are_integers(told: Model, labels: Any) -> None:
    """A fraction was cut off without a word."""
    with pytest.raises(UsageError, match="labels must be integers"):
        told.encode(images(told), labels=labels)


def test_threads_that_share_a_handle(told: Model) -> None:
    """Each has the numbers of its own seed and its own classes, and the program's generator stays where it was."""
    x = images(told, 16)
    classes = [torch.full((16,), number) for number in range(4)]

    def work(number: int) -> tuple[torch.Tensor, ...]:
        return (
            told.encode(x, labels=classes[number], seed=number).z,
            told.reconstruct(x, stochastic=True, seed=number),
            told.sample(5, seed=number),
        )

    alone = [work(number) for number in range(4)]
    state = torch.get_rng_state()
    differ: list[int] = []

    def again(first: int) -> None:
        for step in range(12):
            number = (first + step) % 4
            if not all(map(torch.equal, work(number), alone[number])):
                differ.append(number)

    threads = [Thread(target=again, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not differ
    assert torch.equal(torch.get_rng_state(), state)


def test_links_in_a_circle(aegen: Aegen, trained: Path) -> None:
    """As an input among others, as the folder of outputs, as a component, as the place of data sets: never "should not have happened"."""
    Path("in").mkdir()
    Image.new("L", (9, 9), 77).save("in/a.png")
    Path("in/loop.png").symlink_to("loop.png")
    Path("circle").symlink_to("circle")
    Path("mine.py").symlink_to("mine.py")
    aegen("reconstruct", "in/loop.png", "-c", trained).refused(2, "in/loop.png", "symbolic links")
    said = aegen("reconstruct", "in/*.png", "-c", trained, "--each", "-o", "again").worked()
    assert "loop.png (Too many levels of symbolic links)" in said.err and Path("again/a.png").is_file()
    aegen("reconstruct", "in/a.png", "-c", trained, "--each", "-o", "circle").refused(2, "circle")
    aegen("train", "--objective", "./mine.py:Mine").refused(2, "there is no file ./mine.py")
    aegen("train", "--data", "mnist", "--data-root", "circle").refused(4, "mnist is not in", "circle")


def test_home_of_nobody(aegen: Aegen, trained: Path) -> None:
    aegen("reconstruct", "~nobody-of-that-name/a.png", "-c", trained).refused(
        2, "~nobody-of-that-name/a.png does not exist"
    )


def test_long_names_leave_room_for_what_to_do(aegen: Aegen) -> None:
    aegen("train", "--arch", "z" * 9000).refused(2, "unknown architecture 'zzz", "installed: conv, mlp")
    Path("odd.toml").write_text(f"objective = {['y' * 9000]}\n")
    assert len(aegen("train", "--config", "odd.toml").err) < 500
    with pytest.raises(UsageError, match=r"arch is 'xxx.* … .*xxx', but takes a table of options") as said:
        RunSpec.from_dict({"arch": "x" * 9000})
    assert len(str(said.value)) < 500
