"""What an audit leaves in its run's folder, in the form of any other run, so that every command reads it."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.onnx.adapt import adapt
from edgekd.core.artifact import Artifact
from edgekd.core.digest import of_data
from edgekd.core.run_record import Row, StepRecord
from edgekd.pipeline.audit_data import Evaluation
from edgekd.pipeline.audit_model import Subject
from edgekd.pipeline.audit_spec import AuditSpec
from edgekd.pipeline.keys import library_version
from edgekd.pipeline.run_folder import AUDIT
from edgekd.store.store import Store

GRAPH = "model.onnx"
_LIBRARIES = ("edgekd", "numpy", "onnx", "onnxruntime")


def run_name(model: Path) -> str:
    """`runs/mobilenet-v2.audit/`: no recipe's name holds a dot."""
    return (re.sub(r"[^a-z0-9_-]+", "-", model.stem.lower()).strip("-") or "model") + AUDIT


def graph_artifact(subject: Subject, own: tuple[str, ...], store: Store) -> Artifact:
    """The graph that is measured, in the store; `own` are its classes. Raises `ModelError`, `StoreError`."""
    key = of_data(
        {
            "audited": subject.sha256,
            "external": subject.external,
            "door": repr(subject.door),
            "preprocess": subject.preprocess.model_dump(mode="json"),
            "fitting": subject.fitting.model_dump(mode="json"),
            "own": list(own),
            "file": subject.path.stem,
        }
    )
    with store.lock(key):
        found = store.lookup(key)
        if found is not None:
            return found
        folder = store.work_folder(key)
        changes = adapt(subject.path, subject.anatomy, subject.door, folder / GRAPH)
        artifact = store.commit(
            key,
            kind="graph",
            facts=_facts(subject, own, changes, folder / GRAPH),
            folder=folder,
            files=[path.name for path in BACKENDS.load("onnx").files_of(folder / GRAPH)],
            ingredients={},
        )
        store.discard_work(key)
        return artifact


def _facts(subject: Subject, own: tuple[str, ...], changes: Sequence[str], path: Path) -> dict[str, Any]:
    return {
        "file": path.name,
        "backend": "onnx",
        "precision": subject.anatomy.precision,
        "network": subject.path.stem,
        "preprocess": subject.preprocess.model_dump(mode="json"),
        "fitting": subject.fitting.model_dump(mode="json"),
        "labels": list(own),
        "size_bytes": BACKENDS.load("onnx").size_of(path),
        "operators": subject.anatomy.operators,
        "audited_sha256": subject.sha256,
        "changes": list(changes),
    }


def step_of(number: int, name: str, graph: Artifact) -> StepRecord:
    return StepRecord(
        name=name,
        stage="audit",
        key=graph.digest,
        status="ran",
        kind=graph.kind,
        digest=graph.digest,
        folder=f"steps/{number:02d}-{name}",
        facts=dict(graph.facts),
    )


def row_of(subject: Subject, graph: Artifact, evalset: str) -> Row:
    return Row(
        name=subject.name,
        title=subject.path.name,
        role="stage",
        model_step=subject.name,
        graph_step=subject.name,
        precision=graph.facts["precision"],
        evalset=evalset,
    )


def provenance(
    data: str,
    train_data: str | None,
    protocol: str | None,
    evaluation: Evaluation,
    subjects: Sequence[Subject],
    target_facts: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Facts that a reader needs to repeat the audit."""
    return {
        "versions": {"python": platform.python_version(), **{n: library_version(n) for n in _LIBRARIES}},
        "platform": platform.platform(),
        "command": " ".join(["edgekd", *sys.argv[1:]]),
        "folder": str(Path.cwd()),
        "data": {"source": data, "digest": evaluation.digest, "test": evaluation.split_digest},
        "data_notes": list(evaluation.notes),
        "settings": {"protocol": protocol, "train_data": train_data},
        "audited": {s.name: {"file": s.path.name, "sha256": s.sha256} for s in subjects},
        "targets": {name: dict(found) for name, found in target_facts.items()},
    }


def sources_of(subjects: Sequence[Subject]) -> dict[str, str]:
    """Every file that was taken in, with its digest."""
    found = {str(subject.path.resolve()): subject.sha256 for subject in subjects}
    for subject in subjects:
        folder = subject.path.resolve().parent
        found |= {str(folder / name): digest for name, digest in subject.external.items()}
    return found


def locked(name: str, data: str, targets: Sequence[str], protocol: str, spec: AuditSpec) -> str:
    """The specification with every default written out, as YAML, under the keys of a resolved recipe."""
    content = {
        "name": name,
        "seed": 0,
        "data": {"source": data},
        "targets": list(targets),
        "measure": {"protocol": protocol},
        "gate": spec.gate.model_dump(mode="json", exclude_none=True),
        "audit": spec.model_dump(mode="json", exclude_none=True, exclude={"gate"}),
        "steps": [],
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
