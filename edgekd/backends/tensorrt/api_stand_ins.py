"""Stand-ins for the objects of TensorRT that do nothing and let nobody ask for what the real classes lack."""

from __future__ import annotations

import json
import re
import types
from typing import Any

SHAPE = (1, 3, 8, 8)


def stand_in(bindings: Any, calls: list[str], *, is_dynamic: bool) -> Any:
    """A module whose enums are the real ones, and whose builder, parser and engine are stand-ins."""
    module = types.ModuleType("tensorrt")
    module.__dict__.update({name: getattr(bindings, name) for name in dir(bindings) if name[:2] != "__"})
    module.__dict__["__version__"] = bindings.__version__
    shape = (-1, *SHAPE[1:]) if is_dynamic else SHAPE
    builder = _builder(bindings, calls, shape)
    parser = StandIn(bindings.OnnxParser, calls, parse_from_file=True)
    opener = StandIn(bindings.Runtime, calls, deserialize_cuda_engine=_engine(bindings, calls, shape))
    module.__dict__.update(
        Builder=lambda logger: builder,
        OnnxParser=lambda network, logger: parser,
        Runtime=lambda logger: opener,
    )
    return module


def _builder(bindings: Any, calls: list[str], shape: tuple[int, ...]) -> Any:
    source = StandIn(bindings.ITensor, calls, name="input", shape=shape, dtype=bindings.DataType.FLOAT)
    layer = StandIn(
        bindings.ILayer,
        calls,
        name="Conv_0",
        type=bindings.LayerType.CONVOLUTION,
        num_inputs=2,
        num_outputs=1,
        get_input=source,
        get_output=source,
    )
    cache = StandIn(bindings.ITimingCache, calls, serialize=b"cache")
    config = StandIn(
        bindings.IBuilderConfig,
        calls,
        create_timing_cache=cache,
        get_timing_cache=cache,
        set_timing_cache=True,
    )
    network = StandIn(
        bindings.INetworkDefinition,
        calls,
        num_inputs=1,
        num_outputs=1,
        num_layers=1,
        get_input=source,
        get_layer=layer,
    )
    return StandIn(
        bindings.Builder,
        calls,
        num_DLA_cores=2,
        create_network=network,
        create_builder_config=config,
        create_optimization_profile=StandIn(bindings.IOptimizationProfile, calls),
        build_serialized_network=b"engine",
    )


def _engine(bindings: Any, calls: list[str], shape: tuple[int, ...]) -> Any:
    shapes, modes = {"input": shape, "logits": (1, 4)}, bindings.TensorIOMode
    context = StandIn(
        bindings.IExecutionContext,
        calls,
        set_input_shape=True,
        get_tensor_shape=lambda name: SHAPE if name == "input" else shapes[name],
        set_tensor_address=True,
        execute_async_v3=True,
    )
    information = {"Layers": [{"Name": "Conv_0", "LayerType": "Convolution"}], "Bindings": [*shapes]}
    return StandIn(
        bindings.ICudaEngine,
        calls,
        num_io_tensors=2,
        get_tensor_name=lambda number: [*shapes][number],
        get_tensor_mode=lambda name: modes.INPUT if name == "input" else modes.OUTPUT,
        get_tensor_shape=lambda name: shapes[name],
        get_tensor_dtype=bindings.DataType.FLOAT,
        create_execution_context=context,
        create_engine_inspector=StandIn(
            bindings.EngineInspector, calls, get_engine_information=json.dumps(information)
        ),
    )


class StandIn:
    """An object of a real class of the bindings that does nothing, and notes what is asked of it."""

    def __init__(self, real: type, calls: list[str], **answers: Any) -> None:
        for name in answers:
            getattr(real, name)
        self.__dict__.update(_real=real, _calls=calls, _answers=answers)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)  # AttributeError: the bindings have no such name
        self._calls.append(f"{self._real.__name__}.{name}")
        answer = self._answers.get(name)
        if isinstance(found, property):
            return answer

        def call(*arguments: Any, **named: Any) -> Any:
            _check_signature(name, found.__doc__ or "", arguments, named)
            return answer(*arguments) if isinstance(answer, types.LambdaType) else answer

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        found = getattr(self._real, name)
        if not isinstance(found, property) or found.fset is None:
            raise TypeError(f"{self._real.__name__}.{name} cannot be set")
        self._calls.append(f"{self._real.__name__}.{name}=")


def parameters(signature: str) -> list[tuple[str, bool]]:
    """(name, needed) of each parameter in a pybind11 signature, without `self`."""
    parts, depth, current = [], 0, ""
    for letter in signature:
        depth += (letter in "[(<") - (letter in "])>")
        if letter == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += letter
    names = [part.strip() for part in [*parts, current] if part.strip()]
    return [(name.split(":")[0], "=" not in name) for name in names if not name.startswith("self")]


def _check_signature(name: str, doc: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    signatures = re.findall(rf"^(?:\d+\. )?{name}\((.*)\) -> ", doc, re.MULTILINE)
    known = [parameters(one) for one in signatures if not one.startswith("*args")]
    if known and not any(_fits(one, len(arguments), set(named)) for one in known):
        raise TypeError(f"{name} takes {signatures}, not {len(arguments)} arguments and {sorted(named)}")


def _fits(known: list[tuple[str, bool]], count: int, named: set[str]) -> bool:
    rest = known[count:]
    needed = {name for name, is_needed in rest if is_needed}
    return count <= len(known) and named <= {name for name, _ in rest} and needed <= named
