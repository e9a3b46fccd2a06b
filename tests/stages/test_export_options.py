"""What a recipe asks of one backend's export: known, checked before any compute, and only that backend's."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from edgekd.cli.main import exit_code_of
from edgekd.measure import agent  # noqa: F401 - here, because importing it limits NumPy's threads
from edgekd.stages.export import ExportConfig, parts

RECIPE = """
data: {source: digits, calibration: 64}
teacher: {network: resnet_cifar, args: {depth: 8}}
steps: [teacher, student: {network: resnet_cifar, args: {depth: 8}}, distill, export: EXPORT]
"""


def test_options_have_their_defaults() -> None:
    config = ExportConfig.model_validate({"backends": ["executorch"], "options": {"executorch": {}}})
    assert config.options == {"executorch": {"allow_outside": False}}


def test_each_part_has_the_options_of_its_own_backend() -> None:
    config = ExportConfig.model_validate(
        {"backends": ["onnx", "executorch"], "options": {"executorch": {"allow_outside": True}}}
    )
    whole, other = parts(config)
    assert whole.changes["options"] == {}
    assert other.changes["options"] == {"executorch": {"allow_outside": True}}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"executorch": {"allow_inside": True}}, "`allow_inside`.*its options: allow_outside"),
        ({"executorch": {"allow_outside": "perhaps"}}, "`allow_outside`.*boolean"),
        ({"onnx": {"allow_outside": True}}, "onnx: `allow_outside`.*its options: bake_preprocess"),
        ({"openvino": {"allow_outside": True}}, "openvino: `allow_outside`.*its options: none"),
        ({"executorsh": {}}, "executorsh"),
    ],
)
def test_what_is_no_option_is_refused_with_those_there_are(options: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        ExportConfig.model_validate({"options": options})


def test_validate_tells_it_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = RECIPE.replace("EXPORT", "{backends: [onnx], options: {executorch: {allow_inside: true}}}")
    (tmp_path / "r.yaml").write_text(text)
    assert exit_code_of(["validate", "r.yaml"]) == 2
    said = capsys.readouterr().err
    assert "options" in said
    assert "its options: allow_outside" in said
