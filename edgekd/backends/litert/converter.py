"""Converts one program to .tflite: a script for the Python of `environment.py`, imports nothing of edgekd.

    python converter.py < request.json

The request: `program` (a .pt2 of torch.export, float32 `[1, H, W, C]` to logits), `out`, `precision` (fp32,
fp16, int8: by LiteRT's own calibration on `images`, .npy files `[N, H, W, C]`; trained: by the quantizers in
the program), `metadata` (text by name). The answer, one line of JSON: `{"ok": true, "batch": "any" | 1}`, or
`{"ok": false, "operator": ..., "module": ..., "message": ...}` with what is known.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

METADATA = "edgekd"
INPUT, OUTPUT = "input", "logits"
_RESHAPE, _STRIDED_SLICE, _SLICE = 22, 45, 65
_SIGNATURE = "serving_default"
_OPERATOR = re.compile(r"Lowering not found: ([\w.]+)|call_function\[target=torch\.ops\.([\w.]+)\]")


def converted(request: dict[str, Any], module: Any, example: Any) -> bytes:
    """The .tflite as LiteRT makes it."""
    import litert_torch

    made = litert_torch.convert(module, (example,), quant_config=_trained_config(request["precision"]))
    path = Path("converted.tflite")
    made.export(str(path))
    return _quantized(path.read_bytes(), request)


def _trained_config(precision: str) -> Any:
    """Says that the graph has quantizers; it is not used to place any."""
    if precision != "trained":
        return None
    from litert_torch.quantize import pt2e_quantizer as pt2e
    from litert_torch.quantize.quant_config import QuantConfig

    settings = pt2e.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
    return QuantConfig(pt2e_quantizer=pt2e.PT2EQuantizer().set_global(settings))


def _quantized(data: bytes, request: dict[str, Any]) -> bytes:
    if request["precision"] not in ("int8", "fp16"):
        return data
    from ai_edge_quantizer import quantizer, recipe

    wanted = recipe.static_wi8_ai8() if request["precision"] == "int8" else _half_weights()
    work = quantizer.Quantizer(bytearray(data), wanted)
    found = None
    if request["precision"] == "int8":
        images = _images(request["images"], _input_key(data))
        found = work.calibrate({_SIGNATURE: images}, num_threads=1)
    return bytes(work.quantize(found).quantized_model)


def _half_weights() -> Any:
    from ai_edge_quantizer import qtyping, recipe_manager
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    kind = qtyping.TensorDataType.FLOAT
    manager = recipe_manager.RecipeManager()
    manager.add_quantization_config(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=kind),
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
        algorithm_key=AlgorithmName.FLOAT_CASTING,
    )
    return manager.get_quantization_recipe()


def _images(paths: list[str], key: str) -> list[Any]:
    """Views of the files, one image each: the list itself is small."""
    import numpy as np

    files = [np.load(path, mmap_mode="r", allow_pickle=False) for path in paths]
    return [{key: image[None]} for file in files for image in file]


def _input_key(data: bytes) -> str:
    from ai_edge_litert.interpreter import Interpreter

    (name,) = Interpreter(model_content=data).get_signature_list()[_SIGNATURE]["inputs"]
    return str(name)


# --- what we add --------------------------------------------------------------------------------------------


def finished(data: bytes, metadata: dict[str, str]) -> tuple[bytes, Any]:
    """With names and metadata, and for any number of images where that is possible: (file, batch)."""
    for any_batch in (True, False):
        batch = "any" if any_batch else "1"
        named = _edited(data, {**metadata, "batch": batch}, any_batch=any_batch)
        if not any_batch or _same_for_two(named, data):
            return named, "any" if any_batch else 1
    raise AssertionError


def _edited(data: bytes, metadata: dict[str, str], *, any_batch: bool) -> bytes:
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    graph = model.subgraphs[0]
    for number, name in ((graph.inputs[0], INPUT), (graph.outputs[0], OUTPUT)):
        graph.tensors[number].name = name.encode()
    for signature in model.signatureDefs or []:
        signature.inputs[0].name, signature.outputs[0].name = INPUT.encode(), OUTPUT.encode()
    _add_metadata(model, metadata)
    if any_batch:
        _free_batch(model)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _add_metadata(model: Any, metadata: dict[str, str]) -> None:
    from ai_edge_litert import schema_py_generated as schema

    text = json.dumps(metadata, sort_keys=True, ensure_ascii=False)
    entry = schema.MetadataT()
    entry.name, entry.buffer = METADATA.encode(), _added_buffer(model, text.encode())
    model.metadata = [*(model.metadata or []), entry]


def _added_buffer(model: Any, content: bytes) -> int:
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    buffer = schema.BufferT()
    buffer.data = np.frombuffer(content, np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def _free_batch(model: Any) -> None:
    """Let what keeps the one image as its first dimension take any number of them."""
    for operation in model.subgraphs[0].operators:
        code = model.operatorCodes[operation.opcodeIndex]
        kind, options = max(code.builtinCode, code.deprecatedBuiltinCode), operation.builtinOptions
        if kind == _RESHAPE and len(operation.inputs) == 2:
            shape = _free_first(model, operation, 1)
            if shape is not None and options is not None:
                options.newShape = shape
        elif kind == _SLICE and _takes_the_image(model, operation, size=True):
            _free_first(model, operation, 2)
        elif kind == _STRIDED_SLICE and _takes_the_image(model, operation, size=False):
            options.beginMask |= 1
            options.endMask |= 1


def _takes_the_image(model: Any, operation: Any, *, size: bool) -> bool:
    """Whether a slice keeps the one image; of another first axis, it chooses a part."""
    shape = model.subgraphs[0].tensors[operation.inputs[0]].shape
    begin, end = _first(model, operation, 1), _first(model, operation, 2)
    return bool(len(shape) and shape[0] == 1 and begin == 0 and (size or end == 1))


def _constant(model: Any, operation: Any, place: int) -> Any:
    """The int32 values of an operand; None where they are not constant."""
    import numpy as np

    tensor = model.subgraphs[0].tensors[operation.inputs[place]]
    content = model.buffers[tensor.buffer].data
    return None if content is None else np.frombuffer(bytes(bytearray(content)), np.int32).copy()


def _first(model: Any, operation: Any, place: int) -> int | None:
    values = _constant(model, operation, place)
    return int(values[0]) if values is not None and len(values) else None


def _free_first(model: Any, operation: Any, place: int) -> Any:
    """Make the first 1 of an operand's values -1 ("what is left"), in a copy: others may read the old one."""
    import copy

    import numpy as np

    values = _constant(model, operation, place)
    if values is None or not len(values) or values[0] != 1 or -1 in values:
        return None
    values[0] = -1
    graph = model.subgraphs[0]
    tensor = copy.copy(graph.tensors[operation.inputs[place]])
    tensor.buffer = _added_buffer(model, values.tobytes())
    graph.tensors.append(tensor)
    numbers = list(operation.inputs)
    numbers[place] = len(graph.tensors) - 1
    operation.inputs = np.array(numbers, np.int32)
    return values


def _same_for_two(data: bytes, of_one: bytes) -> bool:
    """Whether two images at once give what each gives alone in the file `of_one`, where their answers differ.

    An operation that keeps a single image would go unnoticed otherwise: its result is broadcast.
    """
    import numpy as np

    details = _interpreter(of_one, 1).get_input_details()[0]
    shape, kind = (2, *details["shape"][1:]), details["dtype"]
    random = np.random.default_rng(0)
    images = random.standard_normal(shape) if kind == np.float32 else random.integers(-128, 128, shape)
    try:
        both = _answers(data, images.astype(kind))
        alone = np.concatenate([_answers(of_one, image[None].astype(kind)) for image in images])
    except (RuntimeError, ValueError):
        return False
    tolerance = 1e-5 * np.abs(alone).max()
    differ = np.abs(alone[0] - alone[1]).max() > 10 * tolerance
    return bool(both.shape == alone.shape and differ and np.abs(both - alone).max() <= tolerance)


def _answers(data: bytes, images: Any) -> Any:
    import numpy as np

    interpreter = _interpreter(data, len(images))
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
    interpreter.invoke()
    return np.asarray(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]), np.float64)


def _interpreter(data: bytes, batch: int) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data, num_threads=1)
    (details,) = interpreter.get_input_details()
    if batch != details["shape"][0]:
        interpreter.resize_tensor_input(details["index"], (batch, *details["shape"][1:]))
    interpreter.allocate_tensors()
    return interpreter


# --- the door -----------------------------------------------------------------------------------------------


def answer(request: dict[str, Any]) -> dict[str, Any]:
    import torch
    import torch.ao.quantization.fx._decomposed  # the operators of trained programs

    program = torch.export.load(request["program"])
    (arguments, _) = program.example_inputs
    module = program.module(check_guards=False)
    try:
        with torch.no_grad():
            data = converted(request, module, arguments[0])
            data, batch = finished(data, request["metadata"])
    except Exception as error:  # the converter raises whatever it meets
        return refused(str(error) or type(error).__name__, program)
    Path(request["out"]).write_bytes(data)
    return {"ok": True, "batch": batch}


def refused(message: str, program: Any) -> dict[str, Any]:
    """What is known of why a program cannot be converted."""
    match = _OPERATOR.search(message)
    operator = (match[1] or match[2]) if match else None
    first = " ".join(line.strip() for line in message.splitlines()[:2])[:500]
    module = _caller(program, operator.split(".")[1]) if operator else None
    return {"ok": False, "operator": operator, "module": module, "message": first}


def _caller(program: Any, name: str) -> str | None:
    """The module that calls an operator, as `path (Class)`; operators of the converter's own are in none."""
    for node in program.graph.nodes:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        if node.op == "call_function" and stack and name.strip("_") in str(node.target):
            path, kind = stack[-1]
            path = (
                path[len("network.") :] if path.startswith("network.") else path
            )  # the wrapper's name of it
            return f"`{path}` ({str(kind).rpartition('.')[2]})"
    return None


def end_with_parent() -> None:
    """Ask Linux to kill this process when the one that waits for it dies."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return


def main() -> int:
    end_with_parent()
    channel = os.dup(1)
    os.dup2(2, 1)  # what libraries print must not reach the one line that is parsed
    try:
        line = answer(json.load(sys.stdin))
    except ModuleNotFoundError as error:
        line = {"ok": False, "missing": error.name, "message": str(error)}
    with os.fdopen(channel, "wb") as stream:
        stream.write(json.dumps(line).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
