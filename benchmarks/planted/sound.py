"""Sound artifacts with the doors, precisions, preprocessings and kinds of data that people have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from onnx import TensorProto

from planted import spoil
from planted.comparisons import compared
from planted.running import (
    VICTIM,
    WEAK,
    Outcome,
    Place,
    add_sound,
    audited,
    sound,
    specification,
    test_file,
)
from planted.spoil import node
from planted.zoo import IMAGENET, Net, built, gray, save_folder, save_npz, tinted

GRAY = Net(data="gray", kernel=3, stride=1, mean=(0.0,), std=(1.0,))


def _plain(net: Net, **gate: Any) -> Any:
    return lambda place: audited(place, net=net, spec=specification(net, **gate))


for _number, _net in enumerate(
    (
        VICTIM,
        Net(seed=1, width=12),
        Net(seed=2, mean=(0.5,), std=(0.5,)),
        Net(seed=3, mean=(0.0,), std=(1.0,)),
        Net(seed=4, mean=IMAGENET[0], std=IMAGENET[1]),
        Net(seed=5, scale=1.0, mean=(0.0,), std=(1.0,)),
        Net(seed=6, scale=1.0, mean=(128.0,), std=(1.0,)),
        Net(seed=7, scale=1.0, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
        Net(seed=8, depth=2, width=32),
        Net(data="bright", seed=9),
        replace(GRAY, seed=10),
        replace(GRAY, seed=11, width=48),
        replace(GRAY, seed=12, mean=(0.1307,), std=(0.3081,)),
        replace(GRAY, seed=13, mean=(0.5,), std=(0.5,)),
    )
):
    add_sound(f"{_net.data}-{_number:02d}", _plain(_net))


def _precise(net: Net, **how: Any) -> Any:
    return lambda place: audited(place, spoil.quantized(net, **how), net=net)


for _name, _net, _how in (
    ("int8-per-channel", VICTIM, {}),
    ("int8-per-tensor", Net(seed=14), {"per_channel": False}),
    ("int8-six-bits", Net(seed=15), {"bits": 6}),
    ("int8-gray", GRAY, {}),
    ("int8-bright-seven-bits", Net(data="bright", binary=True, mean=(0.0,), std=(1.0,)), {"bits": 7}),
    ("int8-wide", Net(seed=16, width=48), {}),
):
    add_sound(_name, _precise(_net, **_how))


def _faster(net: Net, limit: str) -> Any:
    return lambda place: compared(place, net, speedup=limit, accuracy_drop="4pt")


for _name, _net, _limit in (
    ("faster-by-width", VICTIM, "1.3x"),
    ("faster-by-more-width", Net(seed=17, width=12), "1.5x"),
    ("faster-at-stride-three", Net(seed=18, width=24, stride=3), "1.3x"),
):
    add_sound(_name, _faster(_net, _limit))


# --- outputs ------------------------------------------------------------------------------------------------


@sound()
def probabilities(place: Place) -> Outcome:
    return audited(place, spoil.after(built(VICTIM), node("Softmax", ["raw"], ["logits"], axis=1)))


@sound()
def softmax_twice(place: Place) -> Outcome:
    """Flat, but in the same order: every answer is the same."""
    graph = spoil.after(
        built(VICTIM),
        node("Softmax", ["raw"], ["once"], axis=1),
        node("Softmax", ["once"], ["logits"], axis=1),
    )
    return audited(place, graph)


@sound()
def hot_logits(place: Place) -> Outcome:
    """A temperature of a hundredth: nearly all probabilities are 0 or 1."""
    net = replace(VICTIM, sharpness=800.0)
    return audited(place, spoil.after(built(net), node("Softmax", ["raw"], ["logits"], axis=1)), net=net)


@sound()
def four_dimensions(place: Place) -> Outcome:
    graph = spoil.after(built(VICTIM), node("Unsqueeze", ["raw", "axes"], ["logits"]), axes=np.array([2, 3]))
    outputs = [("logits", TensorProto.FLOAT, ["batch", 10, 1, 1])]
    model = spoil.ports(graph, place / "model.onnx", outputs=outputs)
    return place.audit(model, test_file(place), spec=specification())


@sound()
def further_outputs(place: Place) -> Outcome:
    """Features before the scores, and the best class behind them."""
    graph = built(VICTIM)
    graph.nodes.append(node("ArgMax", ["logits"], ["best"], axis=1, keepdims=0))
    outputs = [
        ("features", TensorProto.FLOAT, ["batch", graph.weights["fc"].shape[1]]),
        ("logits", TensorProto.FLOAT, ["batch", 10]),
        ("best", TensorProto.INT64, ["batch"]),
    ]
    model = spoil.ports(graph, place / "model.onnx", outputs=outputs)
    return place.audit(model, test_file(place), spec=specification())


# --- inputs -------------------------------------------------------------------------------------------------


def _raw() -> Net:
    return Net(seed=20, scale=1.0, mean=(0.0,), std=(1.0,))


def _without_numbers(spec: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key != "preprocess"}


@sound(fast=True)
def pixels_channels_last(place: Place) -> Outcome:
    """uint8 `[N, H, W, C]`, the normalization inside."""
    graph = spoil.before(
        built(_raw()),
        node("Cast", ["input"], ["float"], to=TensorProto.FLOAT),
        node("Transpose", ["float"], ["fed"], perm=[0, 3, 1, 2]),
    )
    model = spoil.ports(
        graph, place / "model.onnx", input_type=TensorProto.UINT8, input_shape=["batch", 24, 24, 3]
    )
    return place.audit(model, test_file(place), spec=_without_numbers(specification(_raw())))


@sound()
def pixels_channels_first(place: Place) -> Outcome:
    graph = spoil.before(built(_raw()), node("Cast", ["input"], ["fed"], to=TensorProto.FLOAT))
    model = spoil.ports(graph, place / "model.onnx", input_type=TensorProto.UINT8)
    return place.audit(model, test_file(place), spec=_without_numbers(specification(_raw())))


@sound()
def floats_channels_last(place: Place) -> Outcome:
    graph = spoil.before(built(VICTIM), node("Transpose", ["input"], ["fed"], perm=[0, 3, 1, 2]))
    model = spoil.ports(graph, place / "model.onnx", input_shape=["N", 24, 24, 3])
    return place.audit(model, test_file(place), spec=specification())


@sound()
def half_precision_input(place: Place) -> Outcome:
    graph = spoil.before(built(VICTIM), node("Cast", ["input"], ["fed"], to=TensorProto.FLOAT))
    model = spoil.ports(graph, place / "model.onnx", input_type=TensorProto.FLOAT16)
    return place.audit(model, test_file(place), spec=specification())


@sound()
def double_precision_input(place: Place) -> Outcome:
    graph = spoil.before(built(VICTIM), node("Cast", ["input"], ["fed"], to=TensorProto.FLOAT))
    model = spoil.ports(graph, place / "model.onnx", input_type=TensorProto.DOUBLE)
    return place.audit(model, test_file(place), spec=specification())


@sound()
def other_names_of_dimensions(place: Place) -> Outcome:
    model = spoil.ports(built(VICTIM), place / "model.onnx", input_shape=["N", 3, "height", "width"])
    spec = specification()
    spec["preprocess"]["size"] = 24
    return place.audit(model, test_file(place), spec=spec)


@sound()
def dimensions_without_names(place: Place) -> Outcome:
    model = spoil.ports(built(VICTIM), place / "model.onnx", input_shape=[None, 3, 24, 24])
    return place.audit(model, test_file(place), spec=specification())


@sound()
def a_batch_of_one(place: Place) -> Outcome:
    graph = built(VICTIM)
    graph.batch = 1
    return audited(place, graph)


@sound()
def weights_beside_the_graph(place: Place) -> Outcome:
    model = spoil.ports(built(VICTIM), place / "model.onnx", external="weights.bin")
    return place.audit(model, test_file(place), spec=specification())


@sound()
def old_file_with_weights_among_its_inputs(place: Place) -> Outcome:
    model = spoil.ports(built(VICTIM), place / "model.onnx", opset=11, ir=3, listed=True)
    return place.audit(model, test_file(place), spec=specification())


@sound()
def learned_with_blue_first(place: Place) -> Outcome:
    graph = built(VICTIM)
    graph.weights["w0"] = np.ascontiguousarray(graph.weights["w0"][:, ::-1])
    spec = specification()
    spec["preprocess"]["channels"] = "bgr"
    return audited(place, graph, spec=spec)


@sound()
def dynamic_integers(place: Place) -> Outcome:
    """The last layer in integers whose step is that of each batch."""
    graph = built(VICTIM)
    weight = graph.weights.pop("fc").T
    step = np.float32(np.abs(weight).max() / 63)
    graph.weights |= {
        "fcq": np.round(weight / step).astype(np.int8),
        "fcs": step.reshape(()),
    }
    graph.nodes = [one for one in graph.nodes if one.name != "fc"]
    graph.nodes += [
        node("DynamicQuantizeLinear", ["features"], ["fq", "fs", "fz"]),
        node("MatMulInteger", ["fq", "fcq", "fz"], ["mi"]),
        node("Cast", ["mi"], ["mf"], to=TensorProto.FLOAT),
        node("Mul", ["fs", "fcs"], ["s"]),
        node("Mul", ["mf", "s"], ["m"]),
        node("Add", ["m", "bias"], ["logits"]),
    ]
    return audited(place, graph)


# --- data ---------------------------------------------------------------------------------------------------


@sound()
def folder_of_images(place: Place) -> Outcome:
    save_folder(place / "photos", *tinted().test, tinted().classes)
    return place.audit(built(VICTIM).save(place / "model.onnx"), "photos", spec=specification())


@sound()
def test_folder_beside_training(place: Place) -> Outcome:
    save_folder(place / "photos" / "test", *tinted().test, tinted().classes)
    save_folder(place / "photos" / "train", *tinted().train, tinted().classes)
    return place.audit(
        built(VICTIM).save(place / "model.onnx"), "photos", "--train-data", "photos", spec=specification()
    )


@sound()
def plain_arrays(place: Place) -> Outcome:
    images, labels = tinted().test
    (place / "arrays").mkdir()
    np.save(place / "arrays" / "images.npy", images)
    np.save(place / "arrays" / "labels.npy", labels)
    return place.audit(built(VICTIM).save(place / "model.onnx"), "arrays", spec=specification())


@sound()
def gray_images_for_three_channels(place: Place) -> Outcome:
    """Learned from gray digits that were repeated over three channels."""
    graph = built(GRAY)
    graph.weights["w0"] = (graph.weights["w0"] / 3).repeat(3, axis=1)
    model = spoil.ports(graph, place / "model.onnx", input_shape=["batch", 3, 8, 8])
    return place.audit(model, test_file(place, GRAY), spec=specification(GRAY))


@sound()
def the_middle_of_wide_photos(place: Place) -> Outcome:
    images, labels = tinted().test
    wide = np.pad(images, ((0, 0), (0, 0), (9, 9), (0, 0)), mode="edge")
    spec = specification()
    spec["preprocess"] |= {"fit": "crop", "crop_share": 1.0}
    return audited(place, images=wide, labels=labels, spec=spec)


@sound()
def padded_photos(place: Place) -> Outcome:
    """Learned from drawings with a black frame, judged on drawings without one."""
    images, labels = gray().test
    spec = specification(GRAY, accuracy="90%")
    spec["preprocess"] |= {"fit": "pad"}
    return audited(place, net=GRAY, images=images[:, :, 1:7], labels=labels, spec=spec)


@sound()
def unlike_sizes_of_classes(place: Place) -> Outcome:
    images, labels = tinted().test
    keep = np.flatnonzero((labels != 3) | (np.cumsum(labels == 3) <= 14))
    return audited(place, images=images[keep], labels=labels[keep])


@sound(fast=True)
def an_easy_task_without_an_error(place: Place) -> Outcome:
    """Red or blue: every image right, and no close calls that should have been wrong."""
    graph = spoil.after(
        built(VICTIM),
        node("MatMul", ["raw", "sum"], ["logits"]),
        sum=np.repeat(np.eye(2, dtype=np.float32), 5, axis=0),
    )
    graph.num_classes = 2
    images, labels = tinted().test
    names = ("red", "blue")
    data = save_npz(place / "test.npz", images, labels // 5, names)
    spec = {**specification(), "labels": list(names)}
    return place.audit(graph.save(place / "model.onnx"), data, spec=spec)


@sound()
def a_poor_model_under_a_modest_limit(place: Place) -> Outcome:

    return audited(place, net=WEAK, spec=specification(WEAK, accuracy="60%"))


@sound()
def some_classes_by_agreement(place: Place) -> Outcome:
    """Half of the classes, which is known and accepted."""
    images, labels = tinted().test
    rows = np.flatnonzero(labels < 5)
    spec = {**specification(), "accept": ["missing-classes"]}
    return audited(place, images=images[rows], labels=labels[rows], spec=spec)


@sound()
def the_shipped_teacher(place: Place) -> Outcome:
    """A trained ResNet-20 of edgekd's own, exported."""
    from edgekd.backends.onnx.export import export
    from edgekd.backends.source import Source
    from edgekd.networks.shipped import load_shipped

    model = load_shipped("resnet_cifar.digits")
    expected = model.spec.preprocess
    shape = (expected.num_channels, *expected.size)
    export(Source(model.module, shape), place / "model.onnx")
    own = {
        "labels": list(model.spec.labels),
        "preprocess": {
            "scale": expected.scale,
            "mean": list(expected.mean),
            "std": list(expected.std),
        },
        "gate": {"accuracy": "95%"},
    }
    return place.audit(place / "model.onnx", test_file(place, GRAY), spec=own)
