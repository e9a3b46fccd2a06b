"""Defects in what a model is compared with, and in how fast it looks beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import yaml
from onnx import TensorProto, helper

from planted import spoil
from planted.running import BRISK, VICTIM, WEAK, Outcome, Place, audited, defect, specification
from planted.spoil import node
from planted.zoo import Net, built, tinted

# --- the comparison -----------------------------------------------------------------------------------------

LARGE = replace(VICTIM, width=96, seed=3)


def compared(
    place: Place, net: Net = VICTIM, *, other: Any = None, graph: Any = None, **gate: Any
) -> Outcome:
    reference = (other or built(LARGE)).save(place / "reference.onnx")
    return audited(
        place, graph, "--against", str(reference), net=net, spec=specification(VICTIM, **gate), protocol=BRISK
    )


@defect("accuracy_drop|accuracy")
def less_accurate_than_the_reference(place: Place) -> Outcome:
    return compared(place, WEAK, accuracy="60%", accuracy_drop="1pt")


@defect("speedup")
def slower_than_the_reference(place: Place) -> Outcome:
    return compared(place, LARGE, other=built(VICTIM), speedup="1.2x")


@defect("preprocessing|channel-order|accuracy")
def both_fed_wrongly(place: Place) -> Outcome:
    """The drop is small, because the reference is as wrong."""
    spec = {"labels": list(tinted().classes), "gate": {"accuracy_drop": "5pt"}}
    spec["preprocess"] = {**VICTIM.preprocess(), "channels": "bgr"}
    reference = built(LARGE).save(place / "reference.onnx")
    return audited(place, None, "--against", str(reference), spec=spec)


@defect("speedup|latency")
def slow_on_most_images(place: Place) -> Outcome:
    """Its fastest runs are fast, which is all that block minima see; six images of ten take far longer."""
    return compared(place, graph=sometimes_slow(), speedup="1.5x")


@defect("speedup|latency")
def slow_on_later_images(place: Place) -> Outcome:
    """The quick images come first in the evaluation set, and a short session sees only those."""
    images, labels = tinted().test
    order = np.argsort(images[:, 0, 0, 0], kind="stable")
    reference = built(LARGE).save(place / "reference.onnx")
    return audited(
        place,
        sometimes_slow(),
        "--against",
        str(reference),
        images=images[order],
        labels=labels[order],
        spec=specification(speedup="1.5x"),
        protocol=BRISK,
    )


@defect("unequal-doors|speedup")
def reference_behind_operators_of_ours(place: Place) -> Outcome:
    """It takes bytes with the channels last: it is timed with a Cast and a Transpose of ours."""
    graph = spoil.before(
        built(replace(LARGE, scale=1.0, mean=(0.0,), std=(1.0,))),
        node("Cast", ["input"], ["float"], to=TensorProto.FLOAT),
        node("Transpose", ["float"], ["fed"], perm=[0, 3, 1, 2]),
    )
    reference = spoil.ports(
        graph, place / "reference.onnx", input_type=TensorProto.UINT8, input_shape=["batch", 24, 24, 3]
    )
    (place / "reference.yaml").write_text(yaml.safe_dump({"labels": list(tinted().classes)}))
    options = ("--against", str(reference), "--against-spec", "reference.yaml")
    return audited(place, None, *options, spec=specification(speedup="1.01x"), protocol=BRISK)


def sometimes_slow() -> Any:
    """The victim with a loop that runs a hundred times where the first pixel is bright, else not at all."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Conv", ["carried", "slow_w"], ["next"], pads=[2, 2, 2, 2]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    threshold = float(np.quantile(VICTIM.inputs(tinted().test[0])[:, 0, 0, 0], 0.4))
    return spoil.after(
        built(VICTIM),
        node("Slice", ["input", "at0", "at1", "axes"], ["corner"]),
        node("Reshape", ["corner", "scalar"], ["pixel"]),
        node("Greater", ["pixel", "threshold"], ["is_bright"]),
        node("Cast", ["is_bright"], ["bright_int"], to=TensorProto.INT64),
        node("Mul", ["bright_int", "turns"], ["trips"]),
        helper.make_node("Loop", ["trips", "always", "input"], ["looped"], "loop", body=body),
        node("GlobalAveragePool", ["looped"], ["shrunk"]),
        node("Flatten", ["shrunk"], ["flat"]),
        node("ReduceMean", ["flat", "inner"], ["level"], keepdims=1),
        node("Mul", ["level", "nothing"], ["blank"]),
        node("Add", ["raw", "blank"], ["logits"]),
        at0=np.array([0, 0, 0, 0], np.int64),
        at1=np.array([1, 1, 1, 1], np.int64),
        axes=np.array([0, 1, 2, 3], np.int64),
        scalar=np.array([], np.int64),
        threshold=np.float32(threshold).reshape(()),
        turns=np.int64(100).reshape(()),
        always=np.array(True),
        slow_w=(np.eye(3, dtype=np.float32)[:, :, None, None] * np.ones((1, 1, 5, 5), np.float32) / 25),
        nothing=np.float32(0).reshape(()),
        inner=np.array([1], np.int64),
    )
