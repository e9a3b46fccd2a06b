"""A bundle: what is handed to people and to CI - the artifact with everything needed to use and check it.

model.onnx           the artifact
bundle.json          digests of every file, backend, precision, preprocessing, provenance
labels.txt           one class name a line, in the order of the logits
preprocess.json      what the model expects of its input
card.md              what it is, how well it does and where that was measured
measurements.jsonl   the final session
verdict.json         the gate's verdict
recipe.lock.yaml     the recipe that made it
predict.py           twenty lines that run it with onnxruntime, Pillow and NumPy alone
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.artifact import Artifact
from edgekd.core.config import Config
from edgekd.core.digest import files_below, of_files
from edgekd.core.durable import sync, write_json, write_text
from edgekd.core.errors import UsageError
from edgekd.core.measurement import Measurement, read_measurements
from edgekd.core.preprocess import Preprocess
from edgekd.core.run_record import LOCKED_RECIPE, MEASUREMENTS, RECORD, VERDICT, RunRecord
from edgekd.core.verdict import Verdict
from edgekd.pipeline.predict_script import PREDICT_SCRIPT
from edgekd.pipeline.run_folder import again, final_graph, read_record
from edgekd.pipeline.sealed_folder import differences, making_folder

BUNDLE = "bundle.json"
SCHEMA_VERSION = 1
_PORTABLE = ("versions", "converters", "data", "data_notes", "git", "settings")


class BundleManifest(Config):
    """What a bundle says of itself."""

    schema_version: int = SCHEMA_VERSION
    recipe: str
    run_id: str
    graph: str
    backend: str
    precision: str
    preprocess: Preprocess
    labels: tuple[str, ...]
    verdict: str | None
    provenance: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, str]


@dataclass(frozen=True)
class Bundle:
    """A bundle read from its folder."""

    folder: Path
    manifest: BundleManifest

    @property
    def graph(self) -> Path:
        return self.folder / self.manifest.graph

    @property
    def digest(self) -> str:
        return self.manifest.files[self.manifest.graph]

    @property
    def preprocess(self) -> Preprocess:
        return self.manifest.preprocess

    @property
    def backend(self) -> str:
        return self.manifest.backend

    @property
    def precision(self) -> str:
        return self.manifest.precision

    def measurements(self) -> list[Measurement]:
        return read_measurements(self.folder / MEASUREMENTS)

    def verify(self) -> None:
        """Recompute every digest; raises `UsageError` naming each file that is missing, changed or extra."""
        problems = differences(self.folder, self.manifest.files, of="bundle", allowed={BUNDLE}.__contains__)
        if problems:
            raise UsageError("; ".join(problems), where=str(self.folder), fix="make the bundle again")


def read_bundle(folder: Path) -> Bundle:
    """Raises `UsageError` when the folder holds no bundle, or one that names files outside itself."""
    path = folder / BUNDLE
    try:
        manifest = BundleManifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UsageError("this folder holds no bundle", where=str(folder), fix="edgekd bundle RUN") from error
    except (OSError, ValidationError, ValueError) as error:
        raise UsageError(f"the bundle cannot be read: {error}", where=str(path)) from error
    if manifest.schema_version > SCHEMA_VERSION:
        raise UsageError(
            f"the bundle was written by a newer edgekd (schema {manifest.schema_version})",
            where=str(path),
            fix="upgrade edgekd",
        )
    for name in (*manifest.files, manifest.graph):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UsageError(f"the bundle names a file outside itself: `{name}`", where=str(path))
    if manifest.graph not in manifest.files:
        raise UsageError(f"the bundle lists no digest for its graph `{manifest.graph}`", where=str(path))
    return Bundle(folder, manifest)


def make_bundle(run_folder: Path, out: Path, *, force: bool = False) -> Bundle:
    """Write the bundle of a finished run. Raises `UsageError` for an unfinished run or an existing folder."""
    record = read_record(run_folder)
    if record.finished_at is None or not record.rows:
        raise UsageError("the run is not finished", where=str(run_folder), fix=again(record))
    if out.exists() and not force:
        raise UsageError("the folder exists already", where=str(out), fix="--force, or another folder")
    if out.exists() and not (out / BUNDLE).is_file():
        raise UsageError("the folder exists and is not a bundle", where=str(out), fix="choose another folder")
    with making_folder(out) as temporary:
        _fill(temporary, record, run_folder)
    return read_bundle(out)


def _fill(folder: Path, record: RunRecord, run_folder: Path) -> None:
    graph = final_graph(record, run_folder)
    graph.verify()
    _check_usable(graph, run_folder)
    file = str(graph.facts["file"])
    verdict = _verdict(run_folder)
    for path in BACKENDS.load(graph.facts["backend"]).files_of(graph.path(file)):
        shutil.copyfile(path, folder / path.name)
    for name in (MEASUREMENTS, LOCKED_RECIPE, VERDICT):
        shutil.copyfile(run_folder / name, folder / name)
    preprocess = Preprocess.model_validate(graph.facts["preprocess"])
    labels = labels_of(graph, record)
    write_text(folder / "labels.txt", "".join(f"{label}\n" for label in labels))
    write_json(folder / "preprocess.json", preprocess.model_dump(mode="json"))
    write_text(folder / RECORD, of_any_machine(record).model_dump_json(indent=1) + "\n")
    write_text(folder / "predict.py", PREDICT_SCRIPT.replace("model.onnx", file))
    measurements = read_measurements(folder / MEASUREMENTS)
    write_text(folder / "card.md", card(record, graph, verdict, measurements))
    manifest = BundleManifest(
        recipe=record.recipe,
        run_id=record.run_id,
        graph=file,
        backend=graph.facts["backend"],
        precision=graph.facts["precision"],
        preprocess=preprocess,
        labels=labels,
        verdict=verdict.outcome if verdict else None,
        provenance=of_any_machine(record).provenance,
        files=of_files(folder, files_below(folder)),
    )
    write_text(folder / BUNDLE, manifest.model_dump_json(indent=1) + "\n")
    sync(folder)


def _check_usable(graph: Artifact, run_folder: Path) -> None:
    """A bundle's preprocessing stretches RGB images to size; an audited model may have been fed otherwise."""
    fitting = graph.facts.get("fitting") or {}
    if fitting.get("bgr") or fitting.get("fit", "stretch") != "stretch":
        raise UsageError(
            "a bundle cannot say how this model is fed (`fit` and `channels` of its audit)",
            where=str(run_folder),
            fix="hand on the ONNX file with the YAML of its audit",
        )


def labels_of(graph: Artifact, record: RunRecord) -> tuple[str, ...]:
    """The classes that a graph knows, in the order of its logits."""
    return tuple(graph.facts.get("labels", record.labels))


def of_any_machine(record: RunRecord) -> RunRecord:
    """The record without what is only true on the machine of the run."""
    provenance = {k: v for k, v in record.provenance.items() if k in _PORTABLE}
    return record.model_copy(update={"provenance": provenance, "command": []})


def _verdict(run_folder: Path) -> Verdict | None:
    path = run_folder / VERDICT
    return Verdict.model_validate_json(path.read_bytes()) if path.is_file() else None


def card(
    record: RunRecord, graph: Artifact, verdict: Verdict | None, measurements: Sequence[Measurement]
) -> str:
    """The card: what the artifact is and what was measured of it, as Markdown."""
    outcome = verdict.outcome if verdict else "none"
    lines = [
        f"# {record.recipe}",
        "",
        f"Network `{graph.facts.get('network', '?')}`, {graph.facts['precision']}, {graph.facts['backend']}; "
        f"{len(labels_of(graph, record))} classes. Verdict of its gate: **{outcome}**.",
        "",
        "| quantity | value | 95 % interval | target |",
        "|---|---|---|---|",
    ]
    own = [m for m in measurements if m.subject.name == record.final]
    for m in sorted(own, key=lambda m: (m.target, m.quantity, m.against.name if m.against else "")):
        lines.append(_card_line(m))
    data = record.provenance.get("data", {})
    lines += [
        "",
        f"Trained and measured on `{data.get('source', '?')}`, digest `{str(data.get('digest', '?'))[:12]}`. "
        "`recipe.lock.yaml` is the recipe that made it; `measurements.jsonl` has every number with its "
        "protocol and device; `python predict.py IMAGE...` runs it.",
        "",
    ]
    return "\n".join(lines)


def _card_line(m: Measurement) -> str:
    name = f"{m.quantity} against {m.against.name}" if m.against else m.quantity
    if m.value is None:
        return f"| {name} | not measured: {m.not_measured} | | {m.target} |"
    interval = f"{m.interval.low:.4g} to {m.interval.high:.4g}" if m.interval else ""
    flag = "" if m.validity.valid else " (invalid: " + "; ".join(m.validity.reasons) + ")"
    return f"| {name} | {m.value:.4g} {m.unit}{flag} | {interval} | {m.target} |"
