"""Checks of what stands around a model: data sets, exporters, trackers and commands."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from aegen.autoencoder import build_model
from aegen.contract import commands, outputs
from aegen.errors import PluginError
from aegen.hooks import Hooks
from aegen.protocols import Dataset, Exporter
from aegen.registry import Component
from aegen.settings import DataSettings, RunSpec
from aegen.spec import Spec
from aegen.testing.models import SMALL, check_options

_TOLERANCE = 1e-4
_ARCH = Spec("mlp", {"hidden": [24]})
_NECKS = ("deterministic", "gaussian")  # a graph takes seconds


def check_command(function: Callable[..., Any]) -> None:
    """Every parameter says what it takes and every option what it is for; the help has a text and ends with examples that can be typed; importing
    its module loads no torch, or `aegen NAME --help` would take seconds."""
    value = f"{function.__module__}:{function.__qualname__}"
    component = Component("command", function.__name__, value, function.__module__, "")
    try:
        commands.readable(component, function)
    except PluginError as error:
        raise AssertionError(str(error)) from error
    kit = commands.kit(function)
    assert kit is not None, f"{function.__name__} is not made with @aegen.command.command"
    assert inspect.getdoc(function), f"{function.__name__} has no docstring, which is its help"
    page = kit.plain([])[1]
    lines = [line.strip() for line in page.partition("Examples:")[2].splitlines() if line.strip()]
    assert any(line.startswith("aegen ") for line in lines), "its help ends with no example: @command('aegen …')"
    for option in commands.options(function):
        assert option.help, f"{option.name} does not say what it is for"
    module = sys.modules[function.__module__]
    code = "import importlib, json, sys; sys.path[:] = json.loads(sys.argv[1]); importlib.import_module(sys.argv[2]); sys.exit('torch' in sys.modules)"
    if module.__spec__ is not None and module.__name__ != "__main__":
        words = [sys.executable, "-c", code, json.dumps(sys.path), module.__name__]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, f"importing {module.__name__} loads torch, or fails: {done.stderr.strip()[-200:]}"


def check_dataset(cls: type[Dataset], **options: Any) -> None:
    """Images uint8 (N, C, H, W), at the size and with the channels that are asked for, labels that fit them, and the same ones twice."""
    check_options(cls)
    made: Any = cls
    for channels in (1, 3):
        settings = DataSettings(size=16, channels=channels)
        first, again = (made(**options).load(settings) for _ in range(2))
        outputs.images(first)
        shape = tuple(first.pixels.shape)
        assert shape[1:] == (channels, 16, 16), f"it gave {shape}, but {channels} channels of 16×16 were asked for"
        assert shape[0] > 0, "it gave no image"
        one, other = _pixels(first.pixels), _pixels(again.pixels)
        assert torch.equal(one, other), "loaded twice, its images are others"
        assert (first.labels is None) == (again.labels is None)
        if first.labels is not None:
            assert torch.equal(first.labels, again.labels), "loaded twice, its labels are others"


def _pixels(rows: Any) -> torch.Tensor:
    """The first images, wherever they are kept."""
    some = torch.arange(min(64, len(rows)))
    found: torch.Tensor = rows[some]
    return found


def check_exporter(cls: type[Exporter], **options: Any) -> None:
    """Of each model that it can write, the files are there and give what the model gives, for batches of several sizes; and it says so of no model
    with other weights."""
    check_options(cls)
    made: Any = cls
    written, refused = 0, ""
    for name in _NECKS:
        torch.manual_seed(0)
        spec = RunSpec(arch=_ARCH, objective=Spec("ae"), bottleneck=Spec(name), likelihood=Spec("gaussian"))
        model = build_model(spec.arch, spec.bottleneck, spec.likelihood, SMALL).eval()
        exporter: Exporter = made(**options)
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder, f"model{exporter.suffix}")
            try:
                files = exporter.export(model, place, _header(spec, model))
            except PluginError as error:  # it cannot write such a model, as it may say
                refused = str(error)
                continue
            outputs.written(files)
            for count in (5, 1):
                x = torch.rand(count, *model.image, generator=torch.Generator().manual_seed(count)) * 2 - 1
                found = exporter.parity(model, place, x)
                outputs.parity(found)
                assert found, "parity() compares nothing"
                for name, apart in found.items():
                    assert apart <= _TOLERANCE, f"{name} of what was written is {apart:.2g} off the model"
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
            apart = max(exporter.parity(model, place, x).values())
            assert not apart <= _TOLERANCE, "parity() finds no difference from a model with other weights"
        written += 1
    assert written, f"it can write none of the models: {refused}"


def _header(spec: RunSpec, model: Any) -> dict[str, Any]:
    """That of a checkpoint, of a model that has none."""
    return {
        "spec": spec.to_dict(),
        "image": list(model.image),
        "latent": list(model.latent_shape),
        "data": {"name": "digits", "count": 1, "classes": [], "fingerprint": ""},
        "plugins": {},
        "samplers": {},
        "versions": {},
        "step": 0,
        "best": None,
        "best_epoch": -1,
        "waited": 0,
        "per_epoch": 1,
        "validation": {},
    }


def check_tracker(cls: type, **options: Any) -> None:
    """Its methods are hooks of a run; it goes through a whole one, and through one that fails, without an error."""
    made: Any = cls
    for error in (None, RuntimeError("of the check")):
        tracker, hooks = made(**options), Hooks()
        try:
            hooks.add(tracker, cls.__name__)
        except PluginError as fault:
            raise AssertionError(str(fault)) from fault
        with tempfile.TemporaryDirectory() as folder:
            for hook, arguments in _life(Path(folder), error):
                method = getattr(tracker, hook, None)
                if method is not None:
                    names = inspect.signature(method).parameters
                    method(**{name: value for name, value in arguments.items() if name in names})


def _life(run: Path, error: BaseException | None) -> list[tuple[str, dict[str, Any]]]:
    """The hooks of a run of two steps, in order."""
    from PIL import Image

    picture, checkpoint = run / "samples.png", run / "last.safetensors"
    Image.new("L", (8, 8)).save(picture)
    checkpoint.touch()
    config = {"train": {"lr": 1e-3}, "objective": {"name": "vae"}}
    return [
        ("aegen_run_start", {"run": run, "config": config, "total_steps": 2, "step": 0}),
        ("aegen_step_end", {"step": 1, "metrics": {"loss": 2.0, "images_per_second": 10.0}}),
        ("aegen_epoch_end", {"epoch": 1, "step": 2, "metrics": {"loss": 1.0}}),
        ("aegen_notice", {"text": "a notice", "step": 2}),
        ("aegen_progress", {"text": "fitting", "done": 1, "total": 2}),
        ("aegen_images_logged", {"name": "samples", "path": picture, "step": 2}),
        ("aegen_checkpoint_saved", {"path": checkpoint, "step": 2}),
        ("aegen_run_end", {"run": run, "step": 2, "error": error}),
    ]
