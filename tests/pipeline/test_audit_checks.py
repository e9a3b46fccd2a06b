"""Each finding of an audit on answers and images made to show it, and none on sound ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.backends.onnx.anatomy import dissect
from edgekd.core.errors import DataError
from edgekd.core.preprocess import Preprocess
from edgekd.core.run_record import Finding
from edgekd.data.array_images import ArrayImages
from edgekd.data.fitting import Fitting
from edgekd.data.split import Split
from edgekd.pipeline.audit_checks import Answered, answer_findings, graph_findings, kind_note
from edgekd.pipeline.audit_data import data_findings, read_evaluation, too_few
from edgekd.pipeline.audit_model import resolve
from edgekd.pipeline.audit_probes import Asker, Case, alternatives, probe_findings
from edgekd.pipeline.audit_spec import AuditSpec
from edgekd.pipeline.gate import GatePolicy
from tests.backends.foreign_graphs import graph
from tests.pipeline.audit_material import CLASSES, arrays, color_model, images

FITTING = Fitting(size=(8, 8), channels=3)
GIVEN = Preprocess(size=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)


def names(findings: Any) -> list[str]:
    return [one.name for one in findings]


# --- answers ------------------------------------------------------------------------------------------------

LABELS = np.arange(300) % 3


def answered(outputs: np.ndarray, labels: np.ndarray = LABELS) -> Answered:
    return Answered("local", outputs.astype(np.float32), labels, CLASSES)


def good(seed: int = 0) -> np.ndarray:
    """Logits that are right for nine images of ten, with close calls among the wrong ones."""
    return np.eye(3)[LABELS] * 3 + np.random.default_rng(seed).normal(0, 1.2, (300, 3))


def test_a_good_models_answers_are_left_alone() -> None:
    assert names(answer_findings(answered(good()))) == []


def _with_nan() -> np.ndarray:
    outputs = good()
    outputs[7, 1] = np.nan
    return outputs


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (_with_nan(), "not-finite"),
        (np.tile([0.0, 9.0, 1.0], (300, 1)), "constant"),
        (good()[:, [2, 0, 1]], "label-order"),
        (np.random.default_rng(0).normal(0, 1, (300, 3)), "near-chance"),
        (good() - [0, 1e3, 0], "dead-class"),
    ],
)
def test_a_fault_in_the_answers_is_found_by_its_name(outputs: np.ndarray, expected: str) -> None:
    found = {one.name: one for one in answer_findings(answered(outputs))}
    assert expected in found
    assert found[expected].counts
    assert found[expected].fix


def test_labels_made_by_the_model_are_noticed() -> None:
    outputs = np.random.default_rng(0).normal(0, 1, (300, 3))
    assert "labels-follow-answers" in names(answer_findings(answered(outputs, outputs.argmax(axis=1))))


def test_images_of_unknown_classes_are_left_out() -> None:
    labels = np.concatenate([LABELS, np.full(200, 5)])
    outputs = np.concatenate([good(), np.zeros((200, 3))])
    assert names(answer_findings(answered(outputs, labels))) == []


def test_outputs_of_another_kind_than_said_are_noted() -> None:
    assert kind_note(answered(good()), "logits") is None
    assert "look like logits" in (kind_note(answered(good()), "probabilities") or "")


def test_operators_in_training_mode_are_found_in_the_file(tmp_path: Path) -> None:
    yes = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
    ratio = helper.make_node(
        "Constant", [], ["r"], value=numpy_helper.from_array(np.float32(0.5).reshape(()))
    )
    drop = helper.make_node("Dropout", ["pooled", "r", "yes"], ["dropped"])
    path = graph(tmp_path / "g.onnx", extra=[yes, ratio, drop])
    assert names(graph_findings(dissect(path))) == ["training-mode"]
    assert names(graph_findings(dissect(graph(tmp_path / "h.onnx")))) == []


# --- data ---------------------------------------------------------------------------------------------------


def evaluation(tmp_path: Path, spec: dict[str, Any] | None = None, data: Path | None = None) -> Any:
    content = AuditSpec.model_validate({"labels": CLASSES, **(spec or {})})
    subject = resolve("model", color_model(tmp_path / "model.onnx"), content)
    return read_evaluation(str(data or arrays(tmp_path / "data")), subject)


def found_in(read: Any, train: str | None = None) -> list[str]:
    pixels = np.stack(read.split.images.get(range(len(read.split))))
    return names(data_findings(read, pixels, FITTING, train))


def test_sound_data_have_no_findings(tmp_path: Path) -> None:
    other = arrays(tmp_path / "train", count=60, seed=1)
    assert found_in(evaluation(tmp_path), str(other)) == []


def test_training_images_among_the_test_images_are_a_leak(tmp_path: Path) -> None:
    assert found_in(evaluation(tmp_path), str(tmp_path / "data")) == ["leak"]


def test_copies_and_contradictions_are_told(tmp_path: Path) -> None:
    pixels, labels = images(90)
    folder = arrays(tmp_path / "data")
    np.save(folder / "images.npy", np.concatenate([pixels, pixels[:9]]))
    np.save(folder / "labels.npy", np.concatenate([labels, (labels[:9] + 1) % 3]))
    assert found_in(evaluation(tmp_path, data=folder)) == ["copies", "contradictions"]


def test_classes_without_images_and_images_without_classes_are_told(tmp_path: Path) -> None:
    folder = arrays(tmp_path / "data")
    (folder / "classes.txt").write_text("red\ngreen\nviolet\n")
    read = evaluation(tmp_path, data=folder)
    assert read.classes == (*CLASSES, "violet")
    assert found_in(read) == ["missing-classes", "unknown-classes"]


def test_a_recipe_lends_its_test_images(tmp_path: Path) -> None:
    pixels, labels = images(120)
    np.savez(
        tmp_path / "all.npz",
        x_train=pixels[60:],
        y_train=labels[60:],
        x_test=pixels[:60],
        y_test=labels[:60],
        classes=np.array(CLASSES),
    )
    recipe = f"data: {{source: arrays, file: {tmp_path / 'all.npz'}}}\nteacher: {{network: resnet_cifar}}\n"
    (tmp_path / "recipe.yaml").write_text(recipe + "steps: [teacher]\n")
    read = evaluation(tmp_path, data=tmp_path / "recipe.yaml")
    assert len(read.split) == 60
    assert read.classes == CLASSES


def test_folders_that_are_numbers_number_the_outputs(tmp_path: Path) -> None:
    folder = arrays(tmp_path / "data")
    (folder / "classes.txt").write_text("2\n1\n0\n")
    read = evaluation(tmp_path, data=folder)
    assert read.split.labels.tolist() == (2 - np.arange(240) % 3).tolist()


@pytest.mark.parametrize(
    ("spec", "classes", "message"),
    [
        ({"images": 900}, "red\ngreen\nblue\n", "holds 240 images, not the 900"),
        ({"labels": ["red", "green"]}, "red\ngreen\nblue\n", "names 2 classes, and the model gives 3"),
        ({}, "cat\ndog\ncow\n", "none of its classes"),
    ],
)
def test_data_that_cannot_be_the_models_are_refused(
    tmp_path: Path, spec: dict[str, Any], classes: str, message: str
) -> None:
    folder = arrays(tmp_path / "data")
    (folder / "classes.txt").write_text(classes)
    with pytest.raises(DataError, match=message):
        evaluation(tmp_path, spec, folder)


def test_a_limit_beyond_what_the_images_can_show_says_how_many_could() -> None:
    gate = GatePolicy.model_validate({"accuracy": "99%"})
    (told,) = too_few(gate, ["local"], 100)
    assert "at least 381 are needed" in told
    assert not list(too_few(gate, ["local"], 400))


# --- the graph on this machine ------------------------------------------------------------------------------


def case(path: Path, *, given: Preprocess = GIVEN, pixels: np.ndarray | None = None, **how: Any) -> Case:
    own, labels = images()
    seen = own if pixels is None else pixels
    split = Split("test", ArrayImages(seen), labels)
    made = Case(path, given, FITTING, split, seen, np.zeros((len(seen), 3), np.float32), 3, "fp32", (), **how)
    return replace(made, answers=Asker(path).outputs(seen, given))


def test_a_sound_graph_has_no_findings(tmp_path: Path) -> None:
    assert names(probe_findings(case(color_model(tmp_path / "m.onnx")))) == []


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda pixels: np.ascontiguousarray(pixels[..., ::-1]), "channel-order"),
        (lambda pixels: 255 - pixels, "inverted"),
        (lambda pixels: pixels.transpose(0, 3, 1, 2).reshape(pixels.shape), "layout"),
    ],
)
def test_images_fed_wrongly_are_recognized(tmp_path: Path, spoil: Any, expected: str) -> None:
    spoiled = case(color_model(tmp_path / "m.onnx"), pixels=spoil(images()[0]))
    (found,) = probe_findings(spoiled)
    assert found.name == expected
    assert found.counts


def test_wrong_numbers_are_recognized_and_the_right_ones_written(tmp_path: Path) -> None:
    """Each channel divided by another number: no longer comparable."""
    given = GIVEN.model_copy(update={"std": (0.5, 1.0, 2.0)})
    (found,) = probe_findings(case(color_model(tmp_path / "m.onnx"), given=given))
    assert found.name == "preprocessing"
    assert (found.fix or "").startswith("preprocess: {mean:")


def test_every_alternative_is_another_input(tmp_path: Path) -> None:
    base = case(color_model(tmp_path / "m.onnx"))
    rows = np.arange(12)
    before = base.preprocess.apply(base.images[rows])
    tried = list(alternatives(base))
    assert len({one.words for one in tried}) == len(tried) > 10
    for one in tried:
        assert not np.array_equal(one.preprocess.apply(one.feed(rows)), before), one.words


def test_images_of_other_sizes_are_tried_in_other_ways_to_the_size(tmp_path: Path) -> None:
    base = case(color_model(tmp_path / "m.onnx"))
    wide = np.pad(base.images, ((0, 0), (0, 0), (4, 4), (0, 0)))
    base = replace(base, split=replace(base.split, images=ArrayImages(wide)))
    tried = [one for one in alternatives(base) if one.name == "resize"]
    assert tried[0].words == "{fit: crop}"
    cropped = next(one for one in tried if "crop_share: 1.0" in one.words)
    np.testing.assert_array_equal(cropped.feed(np.arange(3)), base.images[:3])


def test_a_graph_that_draws_lots_fails(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("RandomNormalLike", ["f"], ["n"], scale=0.01),
        helper.make_node("Add", ["f", "n"], ["logits"]),
    ]
    found = {one.name: one for one in probe_findings(case(_model(tmp_path / "m.onnx", nodes)))}
    assert found["not-repeatable"].outcome == "fail"


def test_a_graph_that_mixes_its_batch_is_found(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("ReduceMean", ["f", "zero"], ["m"], keepdims=1),
        helper.make_node("Add", ["f", "m"], ["a"]),
        helper.make_node("Sub", ["a", "f"], ["b"]),
        helper.make_node("Add", ["b", "b"], ["logits"]),
    ]
    weights = [numpy_helper.from_array(np.array([0], np.int64), "zero")]
    assert "batch-dependent" in names(probe_findings(case(_model(tmp_path / "m.onnx", nodes, weights))))


def test_notes_and_accepted_findings_do_not_count() -> None:
    assert not Finding(name="kernels", text="", outcome="note").counts
    assert not Finding(name="leak", text="", accepted=True).counts


def _model(path: Path, nodes: list[Any], weights: list[Any] | None = None) -> Path:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        weights or [],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path
