"""How a backend wants its quantized graph: plain data that the placement of quantizers follows.

Kinds of operation are those of `edgekd.quant.operations.KINDS`.
"""

from __future__ import annotations

from typing import Literal

from edgekd.core.config import Config
from edgekd.core.registry import Entry, Registry

InputRule = Literal["all", "shortcut"]
"""Which tensor inputs get a quantizer: all, or of an addition only the one that skips layers."""

BiasForm = Literal["grid", "int32"]
"""A bias lies on the grid step_input * step_weight; it is stored as float32, or as int32 with its step."""


class Grid(Config):
    """The integers of a quantized activation. `zero_point` None: calibrated (asymmetric)."""

    low: int
    high: int
    zero_point: int | None = None


class Profile(Config):
    """Where quantizers stand and what they look like. A tensor has at most one quantizer."""

    name: str
    inputs: dict[str, InputRule]
    """Kind -> which of its inputs are quantized."""
    outputs: frozenset[str]
    """Kinds whose output is quantized, unless it is an output of the graph."""
    absorbed: frozenset[str]
    """Activations that a kernel takes in: where one is the only user, the output is quantized behind it."""
    shared: frozenset[str]
    """Kinds that only choose or move values: input and output have the same quantizer."""
    weights: dict[str, BiasForm]
    """Kinds with int8 weights, per output channel, and the form of their bias."""
    nonnegative: Grid
    """For tensors that cannot be negative (behind a ReLU, for example)."""
    signed: Grid
    kernels: dict[str, str]
    """Kind -> the runtime's int8 kernel that a correctly placed operation becomes."""


PROFILES: Registry[Profile] = Registry(
    "profile",
    [
        Entry("ort_x86", "edgekd.backends.onnx.profile:ORT_X86", "ONNX Runtime's CPU provider on x86-64"),
        Entry("tensorrt", "edgekd.backends.tensorrt.profile:TENSORRT", "symmetric int8, biases in float"),
    ],
    group="edgekd.profiles",
)

DEFAULT_PROFILE = "ort_x86"
"""For a runtime that wants no quantizers of ours: its converter places its own."""
