"""From a module to a graph for a batch of any size, without what the result does not need."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram


class Untraceable(Exception):
    """Why there is no such graph, in one line."""


@torch.no_grad()
def traced(module: nn.Module, example: Tensor) -> ExportedProgram:
    """The graph of `module(x)` for x (B, …) with B ≥ 1; `example` has the shape of one image more than that of a single one.

    A fast tracer runs the module's Python with stand-ins for tensors, where `len(x)` must be a number and freezes the batch. What it
    cannot follow is read once more from the bytecode.

    Raises:
        Untraceable: the code asks for the values of tensors or makes the batch a number.
    """
    module = module.eval()
    first: Exception | None = None
    for strict in (False, True):
        try:
            program = torch.export.export(module, (example,), dynamic_shapes=({0: Dim("batch", min=1)},), strict=strict)
        except Exception as error:  # of many kinds, none of which is documented
            first = first or error
            continue
        # The draw from a posterior and what is charged are traced too, and are most of many graphs.
        program.graph.eliminate_dead_code(_counts)
        program.graph_module.recompile()
        if any(node.target is torch.ops.aten.cdist.default for node in program.graph.nodes):
            program = program.run_decompositions({torch.ops.aten.cdist.default: _distances})
        return program
    text = str(first).strip()
    raise Untraceable(text.splitlines()[0] if text else type(first).__name__) from first


def _distances(a: Tensor, b: Tensor, p: float = 2.0, compute_mode: int | None = None) -> Tensor:
    """`torch.cdist` in operators that ONNX has: (…, N, D) and (…, K, D) → (…, N, K), by differences."""
    apart = a.unsqueeze(-2) - b.unsqueeze(-3)
    distances: Tensor = torch.linalg.vector_norm(apart, p, -1)
    return distances


def _counts(node: fx.Node) -> bool:
    """Whether a node stays even if nothing uses its result: the ends of the graph, and what changes a tensor in place."""
    schema = getattr(node.target, "_schema", None)
    return node.op != "call_function" or bool(schema is not None and schema.is_mutable)
