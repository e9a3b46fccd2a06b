"""Defects in the artifact: its weights, its graph, its file."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from planted import spoil
from planted.running import VICTIM, Outcome, Place, audited, defect, rng, specification, test_file
from planted.spoil import node
from planted.zoo import built, tinted


@defect("channel-order|accuracy")
def blue_first_inside(place: Place) -> Outcome:
    graph = built(VICTIM)
    graph.weights["w0"] = np.ascontiguousarray(graph.weights["w0"][:, ::-1])
    return audited(place, graph)


@defect("label-order|accuracy")
def two_outputs_exchanged(place: Place) -> Outcome:
    graph = built(VICTIM)
    graph.weights["fc"], graph.weights["bias"] = graph.weights["fc"].copy(), graph.weights["bias"].copy()
    for name in ("fc", "bias"):
        graph.weights[name][[0, 5]] = graph.weights[name][[5, 0]]
    return audited(place, graph, spec=specification(accuracy="75%"))


@defect("label-order|accuracy")
def outputs_off_by_one(place: Place) -> Outcome:
    graph = built(VICTIM)
    graph.weights |= {name: np.roll(graph.weights[name], 1, axis=0) for name in ("fc", "bias")}
    return audited(place, graph)


@defect("constant|accuracy")
def first_layer_zeroed(place: Place) -> Outcome:
    graph = built(VICTIM)
    graph.weights["w0"] = np.zeros_like(graph.weights["w0"])
    return audited(place, graph)


@defect("accuracy")
def half_of_the_filters_zeroed(place: Place) -> Outcome:
    graph = built(VICTIM)
    graph.weights["w0"] = graph.weights["w0"].copy()
    graph.weights["w0"][::2] = 0
    return audited(place, graph)


@defect("accuracy|not-finite")
def flipped_bits(place: Place) -> Outcome:
    """Exponent bits of a few weights, as bad memory leaves them."""
    graph = built(VICTIM)
    bits = graph.weights["fc"].copy().view(np.uint32)
    bits.reshape(-1)[rng(2).choice(bits.size, 3)] ^= np.uint32(1 << 30)
    graph.weights["fc"] = bits.view(np.float32)
    return audited(place, graph)


@defect("not-finite", fast=True)
def some_outputs_are_nan(place: Place) -> Outcome:
    """The square root of what is negative for one image in fifty; accuracy alone stays above its limit."""
    graph = spoil.after(
        built(VICTIM),
        node("GlobalAveragePool", ["r0"], ["level"]),
        node("Flatten", ["level"], ["flat"]),
        node("ReduceMean", ["flat", "inner"], ["one"], keepdims=1),
        node("Sub", ["one", "least"], ["over"]),
        node("Sqrt", ["over"], ["root"]),
        node("Mul", ["root", "zero"], ["nothing"]),
        node("Add", ["raw", "nothing"], ["logits"]),
        least=np.float32(_quantile_of_level(0.02)).reshape(()),
        zero=np.float32(0).reshape(()),
        inner=np.array([1], np.int64),
    )
    return audited(place, graph)


def _quantile_of_level(share: float) -> float:
    from planted.zoo import _run

    graph = built(VICTIM)
    graph.nodes = [
        *graph.nodes[:2],
        node("GlobalAveragePool", ["r0"], ["level"]),
        node("Flatten", ["level"], ["flat"]),
    ]
    return float(np.quantile(_run(graph, "flat", VICTIM.inputs(tinted().test[0])).mean(axis=1), share))


@defect("not-finite")
def half_precision_overflows(place: Place) -> Outcome:
    graph = spoil.after(
        built(VICTIM),
        node("Mul", ["raw", "much"], ["large"]),
        node("Cast", ["large"], ["half"], to=TensorProto.FLOAT16),
        node("Cast", ["half"], ["logits"], to=TensorProto.FLOAT),
        much=np.float32(20_000).reshape(()),
    )
    return audited(place, graph)


@defect("dead-class|accuracy")
def dead_class(place: Place) -> Outcome:
    graph = built(VICTIM)
    graph.weights["bias"] = graph.weights["bias"].copy()
    graph.weights["bias"][3] = -1e4
    return audited(place, graph, spec=specification(accuracy="80%"))


@defect("constant")
def always_the_largest_class(place: Place) -> Outcome:
    """On images of which 97 % are of one class."""
    graph = built(VICTIM)
    graph.weights["fc"] = np.zeros_like(graph.weights["fc"])
    graph.weights["bias"] = np.eye(10, dtype=np.float32)[4]
    images, labels = tinted().test
    rows = np.concatenate([np.flatnonzero(labels == 4), np.flatnonzero(labels == 0)[:3]])
    spec = {**specification(accuracy="80%"), "accept": ["missing-classes"]}
    return audited(place, graph, images=images[rows], labels=labels[rows], spec=spec)


@defect("accuracy|chance")
def negated_logits(place: Place) -> Outcome:
    return audited(place, spoil.after(built(VICTIM), node("Neg", ["raw"], ["logits"])))


@defect("accuracy")
def clipped_activations(place: Place) -> Outcome:
    graph = built(VICTIM)
    relu = next(one for one in graph.nodes if one.name == "relu0")
    relu.output[0] = "r0f"
    at = graph.nodes.index(relu) + 1
    graph.nodes.insert(at, node("Clip", ["r0f", "least", "most"], ["r0"]))
    graph.weights |= {"least": np.float32(0).reshape(()), "most": np.float32(0.05).reshape(())}
    return audited(place, graph)


@defect("accuracy|transposed|chance")
def height_and_width_exchanged_inside(place: Place) -> Outcome:
    return audited(
        place, spoil.before(built(VICTIM), node("Transpose", ["input"], ["fed"], perm=[0, 1, 3, 2]))
    )


@defect("accuracy|chance|constant")
def reshaped_instead_of_transposed(place: Place) -> Outcome:
    """Channels-last memory read as channels-first."""
    graph = spoil.before(
        built(VICTIM),
        node("Transpose", ["input"], ["last"], perm=[0, 2, 3, 1]),
        node("Reshape", ["last", "shape"], ["fed"]),
        shape=np.array([-1, 3, 24, 24], np.int64),
    )
    return audited(place, graph)


@defect("class|score")
def best_class_only(place: Place) -> Outcome:
    graph = spoil.after(built(VICTIM), node("ArgMax", ["raw"], ["best"], axis=1, keepdims=1))
    model = spoil.ports(graph, place / "model.onnx", outputs=[("best", TensorProto.INT64, ["batch", 1])])
    return place.audit(model, test_file(place), spec=specification())


@defect("scores|classes|outputs")
def top_five_only(place: Place) -> Outcome:
    graph = spoil.after(built(VICTIM), node("TopK", ["raw", "five"], ["values", "indices"], axis=1))
    graph.weights["five"] = np.array([5], np.int64)
    model = spoil.ports(
        graph,
        place / "model.onnx",
        outputs=[("values", TensorProto.FLOAT, ["batch", 5]), ("indices", TensorProto.INT64, ["batch", 5])],
    )
    return place.audit(model, test_file(place), spec=specification())


@defect("accuracy")
def the_auxiliary_head(place: Place) -> Outcome:
    """A second output of the right shape that was never trained."""
    graph = built(VICTIM)
    graph.weights["aux"] = rng(3).standard_normal(graph.weights["fc"].shape).astype(np.float32)
    graph.nodes.append(node("Gemm", ["features", "aux"], ["auxiliary"], transB=1))
    shape = ["batch", 10]
    model = spoil.ports(
        graph,
        place / "model.onnx",
        outputs=[("logits", TensorProto.FLOAT, shape), ("auxiliary", TensorProto.FLOAT, shape)],
    )
    spec = {**specification(), "output": {"name": "auxiliary"}}
    return place.audit(model, test_file(place), spec=spec)


@defect("batch-dependent|accuracy", fast=True)
def batch_norm_in_training_mode(place: Place) -> Outcome:
    """Its statistics are those of the batch: alone, an image is compared with itself."""
    graph = built(VICTIM)
    conv = next(one for one in graph.nodes if one.name == "conv0")
    at = graph.nodes.index(conv) + 1
    conv.output[0] = "c0f"
    graph.nodes[at:at] = [
        node("ReduceMean", ["c0f", "over"], ["m"], keepdims=1),
        node("Sub", ["c0f", "m"], ["d"]),
        node("Mul", ["d", "d"], ["dd"]),
        node("ReduceMean", ["dd", "over"], ["v"], keepdims=1),
        node("Add", ["v", "eps"], ["ve"]),
        node("Sqrt", ["ve"], ["sd"]),
        node("Div", ["d", "sd"], ["c0"]),
    ]
    graph.weights |= {"eps": np.float32(1e-5).reshape(()), "over": np.array([0, 2, 3], np.int64)}
    return audited(place, graph)


@defect("batch-dependent")
def right_only_at_the_head_of_a_batch(place: Place) -> Outcome:
    """Every image but the first of a batch gets the answer of the first one."""
    graph = spoil.after(
        built(VICTIM),
        node("Slice", ["raw", "zero", "one", "axis"], ["first"]),
        node("Mul", ["raw", "nothing"], ["blank"]),
        node("Add", ["first", "blank"], ["logits"]),
        zero=np.array([0], np.int64),
        one=np.array([1], np.int64),
        axis=np.array([0], np.int64),
        nothing=np.float32(0).reshape(()),
    )
    return audited(place, graph)


@defect("not-repeatable", fast=True)
def random_operator(place: Place) -> Outcome:
    """Noise that costs too little accuracy to fail a limit."""
    graph = spoil.after(
        built(VICTIM),
        node("RandomNormalLike", ["raw"], ["noise"], scale=0.4),
        node("Add", ["raw", "noise"], ["logits"]),
    )
    return audited(place, graph)


@defect("training-mode|not-repeatable")
def dropout_left_on(place: Place) -> Outcome:
    graph = built(VICTIM)
    gemm = next(one for one in graph.nodes if one.name == "fc")
    gemm.input[0] = "dropped"
    at = graph.nodes.index(gemm)
    graph.nodes.insert(at, node("Dropout", ["features", "ratio", "training"], ["dropped"]))
    graph.weights |= {"ratio": np.float32(0.1).reshape(()), "training": np.array(True)}
    return audited(place, graph)


@defect("readable|cut|ONNX")
def truncated_file(place: Place) -> Outcome:
    model = built(VICTIM).save(place / "model.onnx")
    model.write_bytes(model.read_bytes()[:-2000])
    return place.audit(model, test_file(place), spec=specification())


@defect("external|readable|refuses")
def truncated_external_data(place: Place) -> Outcome:
    model = spoil.ports(built(VICTIM), place / "model.onnx", external="weights.bin")
    weights = place / "weights.bin"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    return place.audit(model, test_file(place), spec=specification())


@defect("external")
def missing_external_data(place: Place) -> Outcome:
    model = spoil.ports(built(VICTIM), place / "model.onnx", external="weights.bin")
    (place / "weights.bin").unlink()
    return place.audit(model, test_file(place), spec=specification())


@defect("batch")
def fixed_batch_of_eight(place: Place) -> Outcome:
    graph = built(VICTIM)
    graph.batch = 8
    model = spoil.ports(graph, place / "model.onnx", input_shape=[8, 3, 24, 24])
    return place.audit(model, test_file(place), spec=specification())


@defect("size")
def larger_than_the_limit(place: Place) -> Outcome:
    return audited(place, spec=specification(size="20KB"))


@defect("accuracy|score|classes")
def more_labels_than_outputs(place: Place) -> Outcome:
    spec = specification()
    return audited(place, spec={**spec, "labels": [*spec["labels"], "background"]})
