"""ONNX: `encoder.onnx` (image → latent), if one was trained, and `decoder.onnx` (latent → image), with a batch of any size.

Pixels are in [-1, 1]; the latent is the posterior mean. `config.json` says what images are brought to and what the classes are called.
A fitted sampler is no graph: its numbers are in `samplers.safetensors`, under `<sampler>.<buffer>`. Where a bottleneck cannot give every
latent, `nearest.onnx` (latent → latent) brings what was drawn to what it can. Run by onnxruntime for the comparison.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from aegen import Autoencoder, Bottleneck, EnvironmentFault, Exporter, PluginError, Range, RunError, UsageError
from aegen_builtin.exporters.traced import Untraceable, traced


class Encode(nn.Module):
    """Images (B, C, H, W) → posterior means (B, *z)."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.encode(x).mean


class Decode(nn.Module):
    """Latents (B, *z) → images (B, C, H, W) in [-1, 1]."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor) -> Tensor:
        return self.model.decode(z).mean


class Nearest(nn.Module):
    """Latents (B, *z) → the nearest that the bottleneck can give."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.bottleneck = model.bottleneck

    def forward(self, z: Tensor) -> Tensor:
        nearest: Tensor = self.bottleneck.nearest(z)
        return nearest


class ONNX(Exporter):
    """ONNX, encoder and decoder, for a batch of any size.

    Options:
        opset: version of the operator set.
    """

    carries = frozenset({"samplers", "preprocessing", "classes"})

    def __init__(self, *, opset: Annotated[int, Range(18)] = 18) -> None:
        self.opset = opset
        try:
            import onnx
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise EnvironmentFault(
                f"--format onnx needs {error.name}, which is not installed",
                hint="pip install 'aegen[export]'",
            ) from error
        newest = onnx.defs.onnx_opset_version()
        if opset > newest:
            raise UsageError(
                f"--export.opset is {opset}, but the newest operator set of onnx {onnx.__version__} is {newest}",
                hint=f"give one from 18 to {newest}",
            )

    def export(self, model: Autoencoder, path: Path, header: Mapping[str, Any]) -> list[Path]:
        """Write the graphs with the weights inside, and beside them what else is needed to use them."""
        path.mkdir(parents=True, exist_ok=True)
        x = torch.zeros(2, *model.image)
        z = torch.zeros(2, *model.latent_shape)
        files = [self.graph(Decode(model), z, path / "decoder.onnx", "latent", "image")]
        if header.get("encodes", True):  # or nobody trained the encoder
            files.insert(0, self.graph(Encode(model), x, path / "encoder.onnx", "image", "latent"))
        if type(model.bottleneck).nearest is not Bottleneck.nearest:
            files.append(self.graph(Nearest(model), z, path / "nearest.onnx", "drawn", "latent"))
        if self.samplers:
            files.append(path / "samplers.safetensors")
            files[-1].write_bytes(save(_flat(self.samplers)))
        config = path / "config.json"
        config.write_text(json.dumps(self._about(model, header), indent=2) + "\n", encoding="utf-8")
        return [*files, config]

    def _about(self, model: Autoencoder, header: Mapping[str, Any]) -> dict[str, Any]:
        image = {"channels": model.image.channels, "height": model.image.height, "width": model.image.width}
        spec, fitted = header.get("spec") or header["model"], header.get("samplers", {})
        return {
            "image": image,
            "latent": list(model.latent_shape),
            "range": [-1, 1],
            "fit": spec.get("data", spec).get("fit", "crop"),
            "classes": header.get("data", spec).get("classes", []),
            "samplers": {name: fitted.get(name, {}) for name in self.samplers},
            "spec": {k: spec[k] for k in ("arch", "bottleneck", "likelihood")},
        }

    def graph(self, module: nn.Module, example: Tensor, path: Path, name: str, result: str) -> Path:
        """Write one graph, for a batch of any size; `example` is what it is traced with.

        Raises:
            PluginError: there is no such graph.
            UsageError: this torch cannot write it in the operator set that was asked for.
        """
        import onnx

        logging.getLogger("onnxscript").setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter's remarks are for its authors
            try:
                torch.onnx.export(
                    traced(module, example),
                    (),
                    path,
                    input_names=[name],
                    output_names=[result],
                    dynamic_shapes=({0: "batch"},),
                    opset_version=self.opset,
                    dynamo=True,
                    external_data=False,
                    verbose=False,
                )
            except (Untraceable, torch.onnx.OnnxExporterError) as error:
                raise _untold(path.stem, module, error) from error
        written = next(s.version for s in onnx.load(path).opset_import if not s.domain)
        if written != self.opset:
            raise UsageError(
                f"--export.opset is {self.opset}, but torch {torch.__version__} can only write {path.name} in {written}",
                hint=f"give --export.opset {written}, or another torch",
            )
        return path

    @torch.no_grad()
    def parity(self, model: Autoencoder, path: Path, x: Tensor) -> dict[str, float]:
        """The graphs by onnxruntime, and the samplers' numbers."""
        z = model.encode(x).mean
        found = {"decoder": _apart(_run(path / "decoder.onnx", z), model.decode(z).mean)}
        if (path / "encoder.onnx").exists():
            found = {"encoder": _apart(_run(path / "encoder.onnx", x), z)} | found
        if (path / "nearest.onnx").exists():
            # Of what the bottleneck gave: between two codes, the nearest one is a matter of rounding.
            found["nearest"] = _apart(_run(path / "nearest.onnx", z), model.bottleneck.nearest(z))
        if self.samplers:
            again, mine = load_file(path / "samplers.safetensors"), _flat(self.samplers)
            found["samplers"] = max(_apart(again[key], mine[key]) for key in mine)
        return found


def _flat(samplers: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{name}.{key}": tensor for name, state in samplers.items() for key, tensor in state.items()}


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


def _run(file: Path, value: Tensor) -> Tensor:
    """What a graph gives, by onnxruntime on the CPU.

    Raises:
        RunError: it does not take this batch, or has operators that onnxruntime lacks.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: value.numpy()})[0])
    except Exception as error:  # onnxruntime's own have no common base but this
        raise RunError(
            f"onnxruntime {onnxruntime.__version__} cannot run {file} for a batch of {len(value)} ({_line(error)})",
            hint="do not ship it; another --export.opset or a newer onnxruntime may help",
        ) from error


def _untold(graph: str, module: nn.Module, error: Exception) -> PluginError:
    """The advice for whoever wrote the part that cannot be written as a graph."""
    model = getattr(module, "model", module)
    parts = ("decoder", "likelihood") if graph == "decoder" else ("encoder", "bottleneck")
    told = " and ".join(f"{part} {type(getattr(model, part)).__name__}" for part in parts if hasattr(model, part))
    return PluginError(
        f"no ONNX graph for a batch of any size can be made of the {told} ({_line(error)})",
        hint="its code may not look at the values of tensors nor make the batch a number: x.shape[0] for len(x), torch.where for if",
    )


def _line(error: BaseException) -> str:
    """The first line of what began it."""
    while isinstance(error, torch.onnx.OnnxExporterError) and error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
