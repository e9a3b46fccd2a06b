"""Compares a run's final artifact with a released one: both measured now, in one session, on the same images.

Nothing stored is compared with: a time of another day is a time of another state of the machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgekd.core.artifact import Artifact
from edgekd.core.errors import UsageError
from edgekd.core.events import Emit
from edgekd.core.measurement import Measurement, Subject, read_measurements
from edgekd.core.preprocess import Preprocess
from edgekd.core.run_record import MEASUREMENTS, RunRecord
from edgekd.core.verdict import ANY_TARGET, Limit, Verdict
from edgekd.measure.findings import Item
from edgekd.pipeline.bundle import Bundle, read_bundle
from edgekd.pipeline.decide import Judged
from edgekd.pipeline.gate import GatePolicy, Situation, judge_limit, limits, verdict_of
from edgekd.pipeline.gate_policy import DROP
from edgekd.pipeline.history.record import Occasion
from edgekd.pipeline.rejudge import locked_gate, read_locked
from edgekd.pipeline.run_folder import again, read_record, step_artifact
from edgekd.pipeline.session import RELEASE, Order, facts_for, items_of, take, write_verdict
from edgekd.store.store import Store
from edgekd.targets.devices_file import DEVICES_FILE, read_targets, select_targets
from edgekd.targets.target import Target

AGAINST = "against"
"""Folder, below a run's, of its sessions beside releases."""
USUAL_DROP = "1.0pt"
SLOWER_MAX = 0.03
LARGER_MAX = 0.05


@dataclass(frozen=True)
class Regression:
    """A session of the final artifact beside a release, judged. `notes` say which limits are defaults."""

    folder: Path
    verdict: Verdict
    session: Judged
    notes: tuple[str, ...]


class ReleaseCheck:
    """A finished run and a release: `measure` takes the session, `judge` judges what it left."""

    def __init__(self, run_folder: Path, release: Path, overrides: Sequence[str] = ()) -> None:
        """Raises `UsageError` for a run that is not finished, a changed bundle, or images that do not fit."""
        self.record, locked = read_record(run_folder), read_locked(run_folder)
        if self.record.finished_at is None or not self.record.rows:
            raise UsageError("the run is not finished", where=str(run_folder), fix=again(self.record))
        self.bundle = read_bundle(release)
        self.bundle.verify()
        self.policy = locked_gate(run_folder, locked, overrides)
        self.targets: list[Target] = select_targets(
            [str(name) for name in locked["targets"]], read_targets(Path(DEVICES_FILE))
        )
        self.protocol = str(locked["measure"].get("protocol", "quick"))
        self.items = _items(self.record, run_folder, self.bundle)
        self.folder = run_folder / AGAINST / self.bundle.digest[:16]

    def measure(self, store: Store, emit: Emit) -> list[Measurement]:
        """Both artifacts on the run's targets. Interrupted, the same call goes on; then it starts anew."""
        order = Order(
            items=self.items,
            targets=self.targets,
            protocol=self.protocol,
            labels=self.record.labels,
            seed=self.record.seed,
            device_facts=facts_for(self.items, self.targets),
            occasion=Occasion.of_run(self.record, "measure"),
        )
        emit({"event": "step", "step": "session", "text": f"`{self.record.final}` beside the release"})
        return take(order, self.folder, store, emit, fresh=False)

    def judge(self) -> Regression:
        """The regression limits on what `measure` left; the verdict is written beside it."""
        final, release = (item.subject for item in self.items)
        situation = Situation(
            policy=self.policy,
            final=final.name,
            final_digest=final.digest,
            now=datetime.now(UTC),
            against={RELEASE: release},
        )
        chosen, notes = regression_limits(self.policy, [target.name for target in self.targets], self.bundle)
        measurements = read_measurements(self.folder / MEASUREMENTS)
        results = [judge_limit(limit, measurements, situation) for limit in chosen]
        verdict = verdict_of(results)
        write_verdict(self.folder, verdict)
        session = Judged(
            folder=self.folder,
            items=self.items,
            targets=self.targets,
            seed=self.record.seed,
            results=results,
            confidence=self.policy.confidence,
        )
        return Regression(self.folder, verdict, session, notes)


def regression_limits(
    policy: GatePolicy, targets: Sequence[str], bundle: Bundle
) -> tuple[list[Limit], tuple[str, ...]]:
    """The gate's limits against a release or, where it has none, the defaults; and notes on the latter."""
    own = policy.model_copy(update={"release": str(bundle.folder)})
    chosen = [limit for limit in limits(own, targets) if limit.against == RELEASE]
    if chosen:
        return chosen, ()
    made = list(_defaults(policy, targets, bundle.graph.stat().st_size))
    sources = dict.fromkeys(limit.source for limit in made)
    return made, (f"the recipe has no limits `against: release`; defaults: {'; '.join(sources)}",)


def _defaults(policy: GatePolicy, targets: Sequence[str], size_bytes: int) -> Iterator[Limit]:
    for target in targets:
        drop, source = _usual_drop(policy, targets, target)
        yield Limit(quantity="accuracy_drop", target=target, max=drop, against=RELEASE, source=source)
        yield Limit(
            quantity="speedup",
            target=target,
            min=1 - SLOWER_MAX,
            against=RELEASE,
            source=f"not slower by more than {SLOWER_MAX * 100:g} %",
        )
    yield Limit(
        quantity="size_bytes",
        target=ANY_TARGET,
        max=float(int(size_bytes * (1 + LARGER_MAX))),
        source=f"not larger than the release by more than {LARGER_MAX * 100:g} %",
    )


def _usual_drop(policy: GatePolicy, targets: Sequence[str], target: str) -> tuple[float, str]:
    """The smallest accuracy drop that the gate asks for anyway on this target, else one point."""
    asked = [
        limit.max
        for limit in limits(policy, targets)
        if limit.quantity == "accuracy_drop" and limit.target == target and limit.max is not None
    ]
    if not asked:
        return DROP.parse(USUAL_DROP), f"accuracy drop at most {USUAL_DROP}"
    return min(asked), f"accuracy drop at most {min(asked) * 100:g}pt, as the gate asks anyway"


def _items(record: RunRecord, folder: Path, bundle: Bundle) -> list[Item]:
    """The run's final artifact on its images, and the release on images of its own size."""
    graphs = {row.graph_step: step_artifact(record, folder, row.graph_step) for row in record.rows}
    row = next((row for row in record.rows if row.name == record.final), None)
    if row is None:
        raise UsageError("the run is not finished", where=str(folder), fix=again(record))
    graphs[row.graph_step].verify()
    (final,) = items_of([row], folder, graphs, GatePolicy())
    return [final, _release(record, folder, graphs, bundle)]


def _release(record: RunRecord, folder: Path, graphs: dict[str, Artifact], bundle: Bundle) -> Item:
    sizes = {
        row.evalset: Preprocess.model_validate(graphs[row.graph_step].facts["preprocess"])
        for row in record.rows
    }
    fitting = [name for name, plan in sizes.items() if _fits(plan, bundle.preprocess)]
    if not fitting:
        known = sorted({f"{plan.size[0]}x{plan.size[1]}" for plan in sizes.values()})
        height, width = bundle.preprocess.size
        raise UsageError(
            f"the release takes images of {height}x{width}, and the run has its test images in "
            f"{', '.join(known)} only",
            where=str(bundle.folder),
            fix="name it in the recipe (`gate: {release: FOLDER}`) and run again: its images are then made",
        )
    subject = Subject(name=RELEASE, digest=bundle.digest, backend=bundle.backend, precision=bundle.precision)
    return Item(subject, bundle.graph, bundle.preprocess, folder / fitting[0], bundle.manifest.labels)


def _fits(one: Preprocess, other: Preprocess) -> bool:
    return (one.size, one.num_channels, one.resize) == (other.size, other.num_channels, other.resize)
