"""The gate of a finished run, with further processes for what is open and with a release to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekd.core.events import Emit
from edgekd.core.verdict import Verdict
from edgekd.pipeline.decide import Judged, decide
from edgekd.pipeline.gate import verdict_of
from edgekd.pipeline.regression import ReleaseCheck
from edgekd.pipeline.rejudge import locked_gate, read_locked, rejudge
from edgekd.pipeline.run_folder import read_record, step_artifact
from edgekd.pipeline.session import RELEASE, items_of
from edgekd.store.store import Store
from edgekd.targets.devices_file import DEVICES_FILE, read_targets, select_targets


def judge_with(
    store: Store,
    folder: Path,
    overrides: Sequence[str],
    emit: Emit,
    *,
    more: bool = False,
    release: Path | None = None,
) -> Verdict:
    """The verdict on a run, by its gate with `overrides`.

    more: measure what would decide the open limits on times, once. release: a bundle that is measured now
    beside the run's artifact, its limits judged together with the run's own; those against a release are
    then of this session only. The run's `verdict.json` stays that of its own gate.
    """
    check = None if release is None else ReleaseCheck(folder, release, overrides)
    verdict = rejudge(folder, overrides)
    if more and verdict.outcome == "inconclusive":
        verdict = _decided(store, folder, overrides, verdict, emit)
    if check is None:
        return verdict
    check.measure(store, emit)
    found = check.judge()
    _tell(emit, found.notes)
    if more and found.verdict.outcome == "inconclusive":
        decision = decide(found.session, store, emit)
        _tell(emit, decision.lines)
        found = check.judge() if decision.measured else found
    own = [result for result in verdict.results if result.limit.against != RELEASE]
    return verdict_of([*own, *found.verdict.results])


def _decided(store: Store, folder: Path, overrides: Sequence[str], verdict: Verdict, emit: Emit) -> Verdict:
    """The verdict after `decide`; the stored one is judged again as well."""
    decision = decide(_session(folder, overrides, verdict), store, emit)
    _tell(emit, decision.lines)
    if not decision.measured:
        return verdict
    stored = rejudge(folder)
    return rejudge(folder, overrides) if overrides else stored


def _session(folder: Path, overrides: Sequence[str], verdict: Verdict) -> Judged:
    """The run's own session, as `decide` needs it."""
    record, locked = read_record(folder), read_locked(folder)
    policy = locked_gate(folder, locked, overrides)
    graphs = {row.graph_step: step_artifact(record, folder, row.graph_step) for row in record.rows}
    names = [str(name) for name in locked["targets"]]
    return Judged(
        folder=folder,
        items=items_of(record.rows, folder, graphs, policy),
        targets=select_targets(names, read_targets(Path(DEVICES_FILE))),
        seed=record.seed,
        results=verdict.results,
        confidence=policy.confidence,
    )


def _tell(emit: Emit, lines: Sequence[str]) -> None:
    for line in lines:
        emit({"event": "note", "step": "gate", "text": line})
