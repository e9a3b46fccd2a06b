"""What a report says, as plain data that every renderer reads and none computes.

Fractions are in [0, 1], times in milliseconds, sizes in bytes; texts are raw (renderers escape them).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from edgekd.core.measurement import Quantity
from edgekd.core.verdict import Outcome

Answer = Literal["yes", "no", "can't tell"]
Worth = Literal["bought", "cost", "can't tell"]


@dataclass(frozen=True)
class Number:
    """One measured number, or why there is none."""

    quantity: Quantity
    value: float | None
    low: float | None = None
    high: float | None = None
    level: float = 0.95
    n: int = 0
    valid: bool = True
    reasons: tuple[str, ...] = ()
    missing: str | None = None
    reused_from: str | None = None


@dataclass(frozen=True)
class LimitFact:
    """One limit of the gate and what became of it."""

    title: str
    target: str
    quantity: Quantity
    minimum: float | None
    maximum: float | None
    source: str
    outcome: Outcome
    reason: str
    decide: str | None
    number: Number | None
    finding: str | None = None
    """Name of what an audit found beside the limits; nothing is bounded then."""


@dataclass(frozen=True)
class WaterfallRow:
    """One subject on one target. `numbers` has accuracy, drop_previous, drop_teacher, p50, p90, speedup,
    size, memory and those of `FURTHER`, as far as they were measured."""

    position: int
    name: str
    title: str
    role: Literal["stage", "control", "alternative"]
    precision: str
    backend: str
    final: bool
    probe: bool
    previous: str | None
    """Title of the row that `drop_previous` compares with."""
    numbers: dict[str, Number]


FURTHER = {
    "cold_start": "Cold start",
    "host_agreement": "Agreement with the host",
    "throughput": "Throughput",
    "sustained": "Sustained slow-down",
    "energy": "Energy of one answer",
}
"""Numbers that stand in a table of their own, where there are any."""


@dataclass(frozen=True)
class TargetFact:
    """All rows on one target, and what the device says of itself."""

    name: str
    device: dict[str, Any]
    protocol: dict[str, Any]
    rows: tuple[WaterfallRow, ...]

    @property
    def stages(self) -> tuple[WaterfallRow, ...]:
        """The rows without those of other runtimes."""
        return tuple(row for row in self.rows if row.role != "alternative")

    @property
    def further(self) -> dict[str, str]:
        """Those of `FURTHER` that any row of `stages` has a value of."""
        taken = {key for row in self.stages for key, one in row.numbers.items() if one.value is not None}
        return {key: name for key, name in FURTHER.items() if key in taken}


@dataclass(frozen=True)
class RuntimeRow:
    """One artifact among those of other runtimes, at `position` among all rows.

    `numbers` has accuracy, p50, compute (of p50 what is no copying and starting, where the runtime tells),
    size, memory, cold_start, and against the artifact that ships agreement and speedup, as far as they were
    measured.
    """

    name: str
    position: int
    runtime: str
    precision: str
    form: str
    """How its integers came about: `trained`, `re-calibrated` or `native-ptq`; empty for a float artifact."""
    final: bool
    numbers: dict[str, Number]
    executed: str
    """Kernels by what they computed in, as `21 u8, 3 f32`; empty where the runtime does not tell."""
    missing: str | None
    """Why nothing was measured."""


@dataclass(frozen=True)
class RuntimesFact:
    """What ships, and what was exported beside it, on one target."""

    target: str
    rows: tuple[RuntimeRow, ...]


@dataclass(frozen=True)
class CheckedFact:
    """An artifact whose runtime needs special hardware: (where or what, what was executed), in words."""

    title: str
    precision: str
    entries: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class KitFact:
    """What TensorRT's kit told of one device: shown beside the verdict, judged by nothing.

    `entries` are the same in words, as (what, text), with what was not executed.
    """

    title: str
    precision: str
    device: str
    tensorrt: str
    read_at: str
    agrees: bool
    num_images: int
    same_top1: int
    max_abs_difference: float
    largest_logit: float
    compute_p10_ms: float
    compute_p50_ms: float
    compute_p90_ms: float
    unexpected: tuple[str, ...]
    """Layers that compute in another precision than the file's."""
    untold: tuple[str, ...]
    """Layers of which TensorRT does not say it."""
    entries: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class CandidateFact:
    """One artifact that might have shipped, as validation data and a latency session saw it."""

    name: str
    chosen: bool
    standing: Outcome
    """The worst of its limits."""
    limits: tuple[str, ...]
    """What became of each, as text."""
    accuracy: float
    p50_ms: dict[str, float]
    """By target."""
    slowness: float
    """Its time over the shortest one, on the target where that is most."""
    size_bytes: int


@dataclass(frozen=True)
class ChoiceFact:
    """What was chosen to ship, among what, and why. The candidates stand the fastest first."""

    winner: str
    reason: str
    num_images: int
    protocol: str
    certain: bool
    candidates: tuple[CandidateFact, ...]
    absent: tuple[tuple[str, str], ...]
    """Those that did not run everywhere, and why."""
    not_asked: tuple[str, ...]
    """Limits that only the final session can speak of."""


@dataclass(frozen=True)
class ControlFact:
    """A question that a control was run to answer."""

    question: str
    answer: Answer
    because: str
    target: str


@dataclass(frozen=True)
class Contribution:
    """What a term of the loss bought: accuracy of the whole minus accuracy without it, on the same images.

    `term` is None for all of them together, and `method` for the task itself. `gain` is a difference of
    fractions; `weight` that of the term, as text.
    """

    term: str | None
    method: str | None
    knowledge: str
    weight: str
    gain: Number | None
    worth: Worth


@dataclass(frozen=True)
class AblationFact:
    """A step that was trained once more without each of its terms, and without all but the labels."""

    step: str
    whole: str
    """Title of the step's row."""
    target: str
    terms: tuple[Contribution, ...]
    all_of_them: Contribution | None

    @property
    def lines(self) -> tuple[Contribution, ...]:
        """The terms, and at the bottom all of them together."""
        return (*self.terms, self.all_of_them) if self.all_of_them else self.terms


@dataclass(frozen=True)
class Curve:
    """Training of one step by epoch; a value is None where the event had none (or it was not finite)."""

    step: str
    epochs: tuple[int, ...]
    val_accuracy: tuple[float | None, ...]
    terms: dict[str, tuple[float | None, ...]]


@dataclass(frozen=True)
class Distribution:
    """Latencies of one row on one target: `bins` are counts between `edges_ms`, even on a logarithm."""

    target: str
    position: int
    title: str
    n: int
    processes: int
    p50_ms: float
    p90_ms: float
    edges_ms: tuple[float, ...]
    bins: tuple[int, ...]


@dataclass(frozen=True)
class ClassRow:
    """Recall of one class by the teacher and by the final artifact on the same n images."""

    name: str
    n: int
    teacher: float | None
    final: float | None
    lost: int
    won: int


@dataclass(frozen=True)
class NewError:
    """An image that the teacher gets right and the final artifact wrong."""

    index: int
    label: str
    said: str
    png: bytes = field(repr=False, default=b"")


@dataclass(frozen=True)
class ClassFacts:
    """Per-class results on one target. What is called teacher is the baseline, whatever that is."""

    target: str
    rows: tuple[ClassRow, ...]
    errors: tuple[NewError, ...]
    num_errors: int
    n: int


@dataclass(frozen=True)
class StepFact:
    """One step of the plan."""

    name: str
    stage: str
    status: str
    control: bool
    key: str
    digest: str | None
    seconds: float | None
    facts: dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """Everything a report says."""

    recipe: str
    run_id: str
    started_at: str
    finished_at: str | None
    seed: int
    outcome: Outcome | None
    limits: tuple[LimitFact, ...]
    targets: tuple[TargetFact, ...]
    controls: tuple[ControlFact, ...]
    curves: tuple[Curve, ...]
    distributions: tuple[Distribution, ...]
    classes: ClassFacts | None
    caveats: tuple[str, ...]
    not_measured: tuple[str, ...]
    steps: tuple[StepFact, ...]
    provenance: dict[str, Any]
    command: tuple[str, ...]
    recipe_text: str
    ablations: tuple[AblationFact, ...] = ()
    runtimes: tuple[RuntimesFact, ...] = ()
    choice: ChoiceFact | None = None
    checks: tuple[CheckedFact, ...] = ()
    kits: tuple[KitFact, ...] = ()
    baseline: str | None = "teacher"
    """What the first row is called where others are compared with it; None if nothing else was measured."""
    made: bool = True
    """Whether artifacts were made here; an audit takes them as they are."""
    schema_version: int = 1

    def final_row(self, target: TargetFact) -> WaterfallRow | None:
        """The row that ships, on one target."""
        return next((row for row in target.rows if row.final), None)
