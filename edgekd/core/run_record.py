"""The record that a run leaves in its folder, which reports and bundles are made from.

    runs/<recipe>/<id>/
      recipe.lock.yaml     the resolved recipe
      record.json          a RunRecord
      events.jsonl         what happened, one JSON object a line: {"event": ..., "step": ..., "at": ...}
      measurements.jsonl   the final session, one Measurement a line
      measurements.sha256  its digest: what was changed by hand is not judged
      verdict.json         the gate's Verdict
      steps/NN-name        link to the step's artifact in the store
      evalsets/DIGEST      link to an evaluation set in the store
      session/             what the final session leaves: <target>/<row>.logits.npy (float32 [N, C]),
                           <target>/latency.json (raw samples by process and row)
      kits/DIGEST.json     what came back of a kit that ran on a device out of reach
      report/              report.html, report.json, report.md, junit.xml

Events that reports read: `epoch` (step, epoch, num_epochs, seconds, learning_rate, train: {term: value},
val_accuracy), `note` (step, text), `retry` (target, reason).
"""

from __future__ import annotations

from typing import Any, Literal

from edgekd.core.config import Config

RECORD = "record.json"
EVENTS = "events.jsonl"
MEASUREMENTS = "measurements.jsonl"
VERDICT = "verdict.json"
LOCKED_RECIPE = "recipe.lock.yaml"
SESSION = "session"


class StepRecord(Config):
    """One step of the plan and what became of it."""

    name: str
    stage: str
    key: str
    inputs: dict[str, str] = {}
    """Input name -> name of the step that made it."""
    control: bool = False
    status: Literal["pending", "cached", "ran"] = "pending"
    kind: str | None = None
    digest: str | None = None
    """Digest of the artifact, once there is one."""
    folder: str | None = None
    """The artifact's folder, relative to the run's folder."""
    seconds: float | None = None
    facts: dict[str, Any] = {}
    """The artifact's facts (for example `val_accuracy`, `num_parameters`)."""
    measured: dict[str, Any] = {}
    """What the step timed on the way (for `select`: the record of the selection); no part of the artifact."""


class Row(Config):
    """One row of the waterfall: a subject that the final session measures."""

    name: str
    title: str
    role: Literal["stage", "control", "alternative"]
    """`alternative`: the model of the row above, for another runtime."""
    model_step: str | None
    graph_step: str
    precision: str
    evalset: str
    """Folder of the evaluation set (images.npy uint8 [N,H,W,C], labels.npy), relative to the run's folder."""
    probe: bool = False
    """Measured through a probe export because the stage itself ships no graph."""


class Finding(Config):
    """What a look beside the limits found odd or wrong. Unless it is a note, nothing passes with it."""

    name: str
    text: str
    fix: str | None = None
    outcome: Literal["fail", "inconclusive", "note"] = "inconclusive"
    target: str = "any"
    accepted: bool = False
    """Known and accepted by whoever asked: told, and no reason against a verdict."""

    @property
    def counts(self) -> bool:
        return self.outcome != "note" and not self.accepted


class RunRecord(Config):
    """A whole run."""

    schema_version: int = 1
    recipe: str
    description: str = ""
    run_id: str
    started_at: str
    finished_at: str | None = None
    command: list[str] = []
    seed: int = 0
    labels: tuple[str, ...] = ()
    steps: tuple[StepRecord, ...] = ()
    rows: tuple[Row, ...] = ()
    final: str = ""
    """Name of the row that the gate judges: the artifact that ships."""
    targets: tuple[str, ...] = ()
    provenance: dict[str, Any] = {}
    """Versions, machine facts, git revision, data digest, settings that change numbers."""
    findings: tuple[Finding, ...] = ()
    """Of an audit: what speaks against the measurements or the artifact, whatever the limits say."""
    not_measured: tuple[str, ...] = ()
    """`what: reason` for everything a reader may expect and will not find."""
