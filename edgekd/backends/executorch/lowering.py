"""From a captured torch program to the bytes of a .pte: XNNPACK's delegate, and nothing outside of it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from torch import fx
from torch.export import ExportedProgram

from edgekd.backends.capture import foreign_operators, maker_of, quiet
from edgekd.backends.executorch.executorch_program import ALLOWED, METADATA_METHOD, OUTSIDE_KEY
from edgekd.core.errors import ModelError

_REPLACE = "replace that operation, or use the onnx backend for this network"


def lower(
    program: ExportedProgram, *, metadata: Mapping[str, str] | None = None, allow_outside: bool = False
) -> bytes:
    """The .pte of `program`.

    Raises `ModelError` that names each operator XNNPACK does not take and the module that called it, unless
    `allow_outside`: those run in ExecuTorch's portable kernels, which are slow reference code.
    """
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        about = {**(metadata or {}), **({OUTSIDE_KEY: ALLOWED} if allow_outside else {})}
        constants = {METADATA_METHOD: json.dumps(about, sort_keys=True)} if about else None
        try:
            edge = to_edge_transform_and_lower(
                program, partitioner=[XnnpackPartitioner()], constant_methods=constants
            )
            left = operators_outside(edge.exported_program().graph)
            if left and not allow_outside:
                raise ModelError(
                    f"XNNPACK does not take {'; '.join(left)}",
                    fix="replace these operations, use the onnx backend for this network, or allow them: "
                    "`options: {executorch: {allow_outside: true}}` in the export step",
                )
            return bytes(edge.to_executorch().buffer)
        except ModelError:
            raise
        except Exception as error:  # ExecuTorch raises what its passes raise, without a base of its own
            raise _refusal(error, program) from error


def _refusal(error: Exception, program: ExportedProgram) -> ModelError:
    """What ExecuTorch's own checks refuse, wherever it would run: by what is not of Core ATen."""
    said = " ".join(str(error).strip().splitlines()[:1])
    found = foreign_operators(program.run_decompositions().graph)
    if found:
        return ModelError(f"ExecuTorch has no {'; '.join(found)}", fix=_REPLACE)
    return ModelError(f"cannot be lowered to ExecuTorch: {said}", fix=_REPLACE)


def operators_outside(graph: fx.Graph) -> list[str]:
    """`operator in module` of every call that is no delegate's."""
    found = []
    for node in graph.nodes:
        name = str(getattr(node.target, "__name__", node.target))
        if node.op == "call_function" and name not in ("executorch_call_delegate", "getitem"):
            found.append(f"`{name}` in {maker_of(node)}")
    return found
