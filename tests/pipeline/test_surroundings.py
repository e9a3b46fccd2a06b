"""What a run tells of the libraries that it used."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.artifact import Artifact, Manifest
from edgekd.core.errors import MissingDependencyError
from edgekd.pipeline.keys import ABSENT, ingredients
from edgekd.pipeline.plan import PlannedStep
from edgekd.pipeline.surroundings import converter_versions, library_versions
from edgekd.stages.choose import ChooseConfig
from edgekd.stages.export import ExportConfig

ELSE = ("seed", "threads", "device", "dtype", "data", "labeled_data", "limits", "targets", "plans")


def test_only_the_libraries_of_used_backends_are_told_beside_the_usual_ones() -> None:
    usual = library_versions([])
    assert usual["onnxruntime"] == version("onnxruntime")
    assert "openvino" not in usual
    told = library_versions([BACKENDS.load("openvino"), BACKENDS.load("tensorrt")])
    assert told.keys() - usual.keys() <= {"openvino", "tensorrt", "tensorrt-rtx"}
    assert ABSENT not in {told[name] for name in told.keys() - usual.keys()}


def test_without_an_environment_of_its_own_nothing_converted_elsewhere() -> None:
    assert converter_versions([BACKENDS.load("onnx"), BACKENDS.load("openvino")]) == {}


@pytest.mark.backends
def test_a_converter_stands_beside_the_libraries_here() -> None:
    """Both have a torch, and what is made depends on both."""
    litert = BACKENDS.load("litert")
    try:
        litert.require()
    except MissingDependencyError as error:
        pytest.skip(f"not checked: {error}")
    told = converter_versions([litert])["litert"]
    assert told["litert-torch"].startswith("0.10.")
    step = PlannedStep("export", "export", ExportConfig(backends=("litert",)), {})
    libraries = ingredients(step, {}, dict.fromkeys(ELSE, ""))["libraries"]
    assert (libraries["litert/torch"], libraries["torch"]) == (told["torch"], version("torch"))


def test_a_step_that_runs_graphs_depends_on_what_runs_each(tmp_path: Path) -> None:
    """`choose` runs its candidates: by their runtimes' code and libraries, and those of no others."""
    step = PlannedStep("choose", "choose", ChooseConfig(), {})
    given = {name: [graph_of(name, tmp_path / name)] for name in ("onnx", "openvino")}
    alone = ingredients(step, {"candidates": given["onnx"]}, dict.fromkeys(ELSE, ""))
    both = ingredients(step, {"candidates": [*given["onnx"], *given["openvino"]]}, dict.fromkeys(ELSE, ""))
    assert "openvino" not in alone["libraries"]
    assert "openvino" in both["libraries"]
    assert alone["code"]["edgekd.backends"] != both["code"]["edgekd.backends"]


def graph_of(backend: str, folder: Path) -> Artifact:
    return Artifact(folder, Manifest(kind="graph", facts={"backend": backend}, files={}))
