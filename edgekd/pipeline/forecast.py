"""A forecast of a run: what is cached and why not, how long the rest takes, what its gate can decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekd.core.artifact import Artifact
from edgekd.core.errors import UsageError
from edgekd.core.run_record import RECORD, StepRecord
from edgekd.core.verdict import Limit
from edgekd.measure.decidability import drop_is_decidable, share_is_decidable
from edgekd.measure.protocol import PROTOCOLS
from edgekd.pipeline.keys import changed, ingredients, key_of
from edgekd.pipeline.plan import Plan, PlannedStep
from edgekd.pipeline.run_folder import ABLATION, read_record
from edgekd.pipeline.surroundings import Settings, Surroundings, look_around
from edgekd.pipeline.validation import check_against_data
from edgekd.stages.catalogue import STAGES
from edgekd.stages.stage import Stage
from edgekd.store.store import Store

EXPECTED_DISCORDANCE = 0.02
"""Share of images that two good networks usually judge differently."""
_SESSION_OVERHEAD = 3.0
"""Warm-up, accuracy and memory processes of a session, as a multiple of its timed duration per artifact."""


@dataclass(frozen=True)
class StepForecast:
    """One step: `seconds` is None where nothing is known of it; `basis` says where they come from."""

    name: str
    control: bool
    cached: bool
    seconds: float | None
    basis: str
    why: tuple[str, ...]


@dataclass(frozen=True)
class Forecast:
    """All of it. `limits` has one sentence a limit."""

    steps: tuple[StepForecast, ...]
    session_seconds: float
    limits: tuple[str, ...]

    @property
    def total(self) -> str:
        open_steps = [step for step in self.steps if not step.cached]
        known = sum(step.seconds or 0 for step in open_steps) + self.session_seconds
        unknown = [step.name for step in open_steps if step.seconds is None]
        more = f", and {', '.join(unknown)} (never run here)" if unknown else ""
        return f"in all about {_duration(known)}{more}"

    def as_data(self) -> dict[str, Any]:
        return {**asdict(self), "total": self.total}


def forecast(plan: Plan, store: Store, settings: Settings) -> Forecast:
    """Look at the data, the targets and the store. Raises `DataError` and `TargetError`."""
    around = look_around(plan, store, settings)
    check_against_data(plan, around.data.dataset)
    walker = _Walker(plan, store, around)
    steps = tuple(walker.step(step) for step in plan.steps)
    protocol = PROTOCOLS[plan.recipe.measure.protocol]
    session = (protocol.min_duration_s + _SESSION_OVERHEAD * len(plan.rows)) * len(plan.recipe.targets)
    return Forecast(steps, session, tuple(_decidable(limit, around) for limit in around.limits))


class _Walker:
    """Goes through the steps in order, knowing an artifact as long as everything before it is cached."""

    def __init__(self, plan: Plan, store: Store, around: Surroundings) -> None:
        self.plan, self.store, self.around = plan, store, around
        self.artifacts: dict[str, Artifact] = {}
        self.past = _past_steps(store)

    def step(self, step: PlannedStep) -> StepForecast:
        waiting = [f for feeders in step.inputs.values() for f in feeders if f not in self.artifacts]
        if waiting:
            return self._open(step, (f"its input `{waiting[0]}` runs first",))
        inputs = {name: tuple(self.artifacts[f] for f in feeders) for name, feeders in step.inputs.items()}
        parts = ingredients(step, inputs, self.around.for_keys)
        found = self.store.lookup(key_of(parts))
        if found is None:
            return self._open(step, self._why(step, parts))
        self.artifacts[step.name] = found
        return StepForecast(step.name, step.control, True, 0.0, "in the store", ())

    def _why(self, step: PlannedStep, parts: Mapping[str, Any]) -> tuple[str, ...]:
        """What differs from the last time this step of this recipe was run."""
        earlier = [past for recipe, past in self.past if (recipe, past.name) == (self._recipe, step.name)]
        record = self.store.key_record(earlier[0].key) if earlier else None
        if record is None:
            return ("never run with this store",)
        return tuple(changed(record.get("ingredients", {}), parts)) or (
            "its artifact is gone from the store",
        )

    @property
    def _recipe(self) -> str:
        """An ablation's steps are those of its recipe."""
        return self.plan.recipe.name.removesuffix(ABLATION)

    def _open(self, step: PlannedStep, why: tuple[str, ...]) -> StepForecast:
        seconds, basis = self._estimate(step)
        return StepForecast(step.name, step.control, False, seconds, basis, why)

    def _estimate(self, step: PlannedStep) -> tuple[float | None, str]:
        for name in (step.name, *self._as_long(step)):
            own = [past for recipe, past in self.past if (recipe, past.name) == (self._recipe, name)]
            timed = [past for past in own if past.status == "ran" and past.seconds]
            if timed:
                return self._scaled(step, timed[0]), "as last time"
        stage: Stage = STAGES.load(step.stage)
        if stage.estimate is None:
            return None, "never run here"
        return stage.estimate(step.config, len(self.around.data.dataset.train)), "rough, from typical speed"

    def _as_long(self, step: PlannedStep) -> tuple[str, ...]:
        """A control takes as long as the step it is compared with, unless it trains for fewer epochs."""
        epochs = {other.name: getattr(other.config, "epochs", None) for other in self.plan.steps}
        return tuple(name for name in step.inputs.get("pace", ()) if epochs[name] == epochs[step.name])

    def _scaled(self, step: PlannedStep, past: StepRecord) -> float:
        """Longer or shorter in proportion to the epochs."""
        before, after = past.facts.get("num_epochs"), getattr(step.config, "epochs", None)
        factor = (
            after / before if before and after and step.stage in ("teacher", "distill", "quantize") else 1
        )
        return float(past.seconds or 0) * factor


def _past_steps(store: Store) -> list[tuple[str, StepRecord]]:
    """(recipe, step) of every run in the store, the latest first."""
    paths = sorted((store.root / "runs").glob(f"*/*/{RECORD}"), key=_age)
    found = []
    for path in paths:
        try:
            record = read_record(path.parent)
        except UsageError:
            continue
        found += [(record.recipe.removesuffix(ABLATION), step) for step in record.steps if step.key]
    return found


def _age(path: Path) -> float:
    return -path.stat().st_mtime


def _decidable(limit: Limit, around: Surroundings) -> str:
    """Whether this much test data can settle the limit, as a sentence."""
    count = len(around.data.dataset.test)
    name = limit.source or limit.quantity
    if limit.quantity == "accuracy_drop" and limit.max is not None:
        fits = drop_is_decidable(count, limit.max, EXPECTED_DISCORDANCE)
        return _sentence(name, fits, f"an equally good student, judged on {count} test images")
    if limit.quantity == "accuracy" and limit.min is not None:
        fits = share_is_decidable(count, limit.min, min(1.0, limit.min + EXPECTED_DISCORDANCE))
        return _sentence(name, fits, f"a student 2 points better, judged on {count} test images")
    if limit.quantity == "worst_class_recall" and limit.min is not None:
        smallest = _smallest_class(around.data.dataset.test.labels.tolist())
        fits = share_is_decidable(smallest, limit.min, min(1.0, limit.min + 2 * EXPECTED_DISCORDANCE))
        return _sentence(name, fits, f"a class 4 points better, judged on its {smallest} test images")
    return f"{name}: decided by measuring, not by the number of test images"


def _sentence(name: str, fits: bool, case: str) -> str:
    if fits:
        return f"{name}: decidable ({case}, would pass)"
    return f"{name}: NOT decidable ({case}, would end inconclusive): more test data, or a wider limit"


def _smallest_class(labels: Sequence[int]) -> int:
    return min(labels.count(label) for label in set(labels))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
