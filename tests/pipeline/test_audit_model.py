"""What an audit makes of a graph and its YAML before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from edgekd.core.errors import ModelError, RecipeError, UsageError
from edgekd.pipeline.audit_model import Subject, resolve
from edgekd.pipeline.audit_spec import EXAMPLE, AuditSpec, load_spec
from tests.backends.foreign_graphs import graph


def resolved(tmp_path: Path, spec: dict[str, Any] | None = None, **how: Any) -> Subject:
    path = graph(tmp_path / "g.onnx", **how)
    return resolve("model", path, AuditSpec.model_validate(spec or {}))


def test_a_plain_graph_needs_no_description(tmp_path: Path) -> None:
    found = resolved(tmp_path, shape=["batch", 3, 6, 6])
    assert (found.door.layout, found.door.size, found.door.channels) == ("nchw", (6, 6), 3)
    assert found.num_classes == 4
    assert found.preprocess.scale == pytest.approx(1 / 255)
    assert found.notes == ("assumed: inputs in [0, 1], for `scale`, `mean` and `std` are not given",)


def test_channels_last_and_raw_pixels_are_seen(tmp_path: Path) -> None:
    found = resolved(tmp_path, shape=[1, 6, 6, 3], channels_last=True, kind=TensorProto.UINT8)
    assert found.door.layout == "nhwc"
    assert found.raw_pixels
    assert (found.preprocess.scale, found.preprocess.mean) == (1.0, (0.0, 0.0, 0.0))
    assert found.notes == ()


def test_one_number_stands_for_every_channel_and_a_ratio_for_a_scale(tmp_path: Path) -> None:
    spec = {"preprocess": {"scale": "1/128", "mean": 1, "std": [1, 1, 2], "size": 6}}
    found = resolved(tmp_path, spec)
    assert found.preprocess.mean == (1.0, 1.0, 1.0)
    assert found.preprocess.std == (1.0, 1.0, 2.0)
    assert found.preprocess.scale == 1 / 128


@pytest.mark.parametrize(
    ("how", "spec", "message"),
    [
        ({}, {}, "any size"),
        ({"shape": [1, 3, 6, 6]}, {"preprocess": {"size": 8}}, "leave `size` out"),
        ({"shape": [1, 3, 6, 3]}, {}, "first or last"),
        ({"shape": [1, 6, 6, 5]}, {}, "first or last"),
        ({"shape": [1, 3, 6, 6]}, {"input": {"layout": "nhwc"}}, "6 channels in the layout nhwc"),
        ({"shape": [1, 3, 6, 6]}, {"preprocess": {"channels": "gray"}}, "means 1"),
        ({"shape": [1, 3, 6, 6]}, {"preprocess": {"mean": [0.1, 0.2]}}, "2 values"),
        ({"shape": [1, 3, 6, 6], "kind": TensorProto.UINT8}, {"preprocess": {"mean": 0.5}}, "normalizes"),
        ({"shape": [1, 3, 6, 6], "kind": TensorProto.INT32}, {}, "not images"),
        ({"shape": [1, 3, 6]}, {}, "not images"),
        ({"shape": [1, 3, 6, 6], "outputs": ["scores", "pooled"]}, {}, "could be the scores"),
        ({"shape": [1, 3, 6, 6]}, {"output": {"name": "logits"}}, "no output `logits`"),
        ({"shape": [1, 3, 6, 6]}, {"input": {"name": "images"}}, "no input `images`"),
    ],
)
def test_what_cannot_be_known_or_does_not_fit_is_asked_for(
    tmp_path: Path, how: dict[str, Any], spec: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        resolved(tmp_path, spec, **how)


def test_labels_choose_among_outputs(tmp_path: Path) -> None:
    spec = {"labels": ["a", "b", "c", "d"]}
    found = resolved(tmp_path, spec, shape=[1, 3, 6, 6], outputs=["pooled", "scores"])
    assert found.door.output.name == "scores"


def test_the_best_class_alone_is_no_score(tmp_path: Path) -> None:
    best = helper.make_node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0)
    with pytest.raises(ModelError, match="no score for each class"):
        resolved(tmp_path, shape=[1, 3, 6, 6], extra=[best], outputs=["best"])


def test_a_second_input_is_refused(tmp_path: Path) -> None:
    flag = helper.make_tensor_value_info("training", TensorProto.BOOL, [])
    with pytest.raises(ModelError, match="2 inputs"):
        resolved(tmp_path, shape=[1, 3, 6, 6], inputs=[flag])


def test_another_file_than_the_one_asked_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="sha256"):
        resolved(tmp_path, {"sha256": "0" * 64}, shape=[1, 3, 6, 6])


# --- the YAML -----------------------------------------------------------------------------------------------


def test_the_example_is_a_specification(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text(EXAMPLE)
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    found = load_spec(str(tmp_path / "model.yaml"))
    assert found.labels == ("cat", "dog")
    assert found.preprocess.height_width == (224, 224)
    assert found.gate.speedup[0].against == "reference"


def test_every_problem_is_told_with_its_line(tmp_path: Path) -> None:
    text = "labels: [a, a]\nprotocol: fast\npreprocess:\n  scal: 2\n  mean: [123, 116, 103]\naccept: [rain]\n"
    (tmp_path / "model.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_spec(str(tmp_path / "model.yaml"))
    told = "\n".join(caught.value.problems)
    for part in (
        "`a` stands twice",
        "not a measuring profile",
        "`scal` is not a key",
        "`rain` is no finding",
    ):
        assert part in told
    assert "model.yaml:4" in told


@pytest.mark.parametrize("preprocess", [{"mean": 127.5}, {"mean": [123, 116, 103], "scale": "1/255"}])
def test_a_mean_of_pixels_with_a_scale_of_shares_is_a_mistake(preprocess: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="scale"):
        AuditSpec.model_validate({"preprocess": preprocess})


def test_changes_on_the_command_line_come_last(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("gate: {accuracy: 50%}\n")
    found = load_spec(str(tmp_path / "model.yaml"), ["gate.accuracy=80%", "preprocess.mean=0.5"])
    assert found.gate.accuracy[0].min == "80%"
    assert found.preprocess.mean == (0.5,)


@pytest.mark.parametrize("text", ["gate.accuracy", "=1", "gate.accuracy=[", "gate.acuracy=1"])
def test_a_change_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        load_spec(None, [text])
