"""A finished run of two tiny graphs, made without training: what measuring and judging again start from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from edgekd.core.artifact import Artifact
from edgekd.core.run_record import Row, RunRecord, StepRecord
from edgekd.pipeline.run_folder import RunFolder
from edgekd.store.store import Store
from tests.measure import graphs

RECIPE: dict[str, Any] = {
    "name": "small",
    "seed": 0,
    "targets": ["local"],
    "measure": {"protocol": "smoke"},
    "gate": {"size": [{"max": "1MB"}], "max_age": "30d", "confidence": 0.95},
}
STARTED = "2026-11-20T12:00:00+00:00"


def make_run(
    store: Store, work: Path, *, gate: dict[str, Any] | None = None, targets: Sequence[str] = ("local",)
) -> Path:
    """The folder of a run with the rows `teacher` and `distilled`, not measured yet; `distilled` ships."""
    folder = RunFolder(store.root / "runs" / "small" / "0123456789ab")
    recipe = {**RECIPE, "gate": gate if gate is not None else RECIPE["gate"], "targets": list(targets)}
    folder.write_recipe(yaml.safe_dump(recipe))
    evalset = _evalset(store, work)
    steps, rows = [], []
    for number, (name, width) in enumerate((("teacher", 16), ("distilled", 4)), 1):
        graph = _graph(store, work, name, width)
        folder.link_step(number, f"export-{name}", graph.folder)
        steps.append(_step(number, f"export-{name}", graph))
        rows.append(_row(name, folder.link_evalset(evalset.folder).relative_to(folder.path).as_posix()))
    folder.write_record(
        RunRecord(
            recipe="small",
            run_id=folder.path.name,
            started_at=STARTED,
            finished_at=STARTED,
            labels=graphs.CLASSES,
            steps=tuple(steps),
            rows=tuple(rows),
            final="distilled",
            targets=tuple(targets),
        )
    )
    return folder.path


def _evalset(store: Store, work: Path) -> Artifact:
    folder = graphs.evaluation_set(work / "evalset")
    files = ["images.npy", "labels.npy"]
    return store.commit("evalset", kind="evalset", facts={}, folder=folder, files=files, ingredients={})


def _graph(store: Store, work: Path, name: str, width: int) -> Artifact:
    folder = work / name
    folder.mkdir()
    path = graphs.conv_net(folder / "model.onnx", width=width)
    facts = {
        "file": "model.onnx",
        "backend": "onnx",
        "precision": "fp32",
        "network": name,
        "preprocess": graphs.PREPROCESS.model_dump(mode="json"),
        "size_bytes": path.stat().st_size,
    }
    return store.commit(name, kind="graph", facts=facts, folder=folder, files=[path.name], ingredients={})


def _step(number: int, name: str, graph: Artifact) -> StepRecord:
    return StepRecord(
        name=name,
        stage="export",
        key=name,
        status="ran",
        kind="graph",
        digest=graph.digest,
        folder=f"steps/{number:02d}-{name}",
        facts=graph.facts,
    )


def _row(name: str, evalset: str) -> Row:
    return Row(
        name=name,
        title=name,
        role="stage",
        model_step=name,
        graph_step=f"export-{name}",
        precision="fp32",
        evalset=evalset,
    )
