"""ONNX: `encoder.onnx` (image → latent) and `decoder.onnx` (latent → image), with a batch of any size.

Pixels are in [-1, 1]; the latent is the posterior mean. Run by onnxruntime for the comparison.
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
from torch import Tensor, nn

from aegen import Autoencoder, EnvironmentFault, Exporter, Range


class _Encode(nn.Module):
    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.encode(x).mean


class _Decode(nn.Module):
    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor) -> Tensor:
        return self.model.decode(z).mean


class ONNX(Exporter):
    """ONNX, encoder and decoder, for a batch of any size.

    Options:
        opset: version of the operator set.
    """

    def __init__(self, *, opset: Annotated[int, Range(18)] = 18) -> None:
        self.opset = opset
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise EnvironmentFault(
                f"--format onnx needs {error.name}, which is not installed",
                hint="pip install 'aegen[export]'",
            ) from error

    def export(self, model: Autoencoder, path: Path, header: Mapping[str, Any]) -> list[Path]:
        """Write both graphs with the weights inside."""
        path.mkdir(parents=True, exist_ok=True)
        x = torch.zeros(2, *model.image)
        z = torch.zeros(2, *model.latent_shape)
        files = [
            self._graph(_Encode(model), x, path / "encoder.onnx", "image", "latent"),
            self._graph(_Decode(model), z, path / "decoder.onnx", "latent", "image"),
        ]
        config = path / "config.json"
        about = {
            "image": {
                "channels": model.image.channels,
                "height": model.image.height,
                "width": model.image.width,
            },
            "latent": list(model.latent_shape),
            "range": [-1, 1],
            "spec": {k: header["spec"][k] for k in ("arch", "bottleneck", "likelihood")},
        }
        config.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        return [*files, config]

    def _graph(self, module: nn.Module, example: Tensor, path: Path, name: str, result: str) -> Path:
        batch = torch.export.Dim("batch", min=1)
        logging.getLogger("onnxscript").setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter's remarks are for its authors
            torch.onnx.export(
                module.eval(),
                (example,),
                path,
                input_names=[name],
                output_names=[result],
                dynamic_shapes=({0: batch},),
                opset_version=self.opset,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        return path

    @torch.no_grad()
    def parity(self, model: Autoencoder, path: Path, x: Tensor) -> dict[str, float]:
        """Both graphs by onnxruntime, for a batch of another size than they were traced with."""
        import onnxruntime

        def run(file: str, name: str, value: Tensor) -> Tensor:
            session = onnxruntime.InferenceSession(path / file, providers=["CPUExecutionProvider"])
            return torch.from_numpy(session.run(None, {name: value.numpy()})[0])

        z = model.encode(x).mean
        return {
            "encoder": float((run("encoder.onnx", "image", x) - z).abs().max()),
            "decoder": float((run("decoder.onnx", "latent", z) - model.decode(z).mean).abs().max()),
        }
