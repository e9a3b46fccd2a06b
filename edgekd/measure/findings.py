"""What one session on one target left behind, before it is turned into measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgekd.core.measurement import Subject
from edgekd.core.preprocess import Preprocess
from edgekd.measure.accuracy import Labels
from edgekd.measure.device import wrong_device
from edgekd.measure.energy import Source
from edgekd.measure.estimate import Estimate
from edgekd.measure.latency import Process
from edgekd.measure.protocol import Protocol
from edgekd.targets.target import Target

JSON = Any
Journal = Callable[[str, Callable[[], JSON]], JSON]
"""`journal(key, compute)`: the remembered value of `key`, or that of `compute`, then remembered."""
Emit = Callable[[Mapping[str, Any]], None]

_SAME_DEVICE = ("machine", "cpu", "cpu_features", "cores")


@dataclass(frozen=True)
class Item:
    """One row to measure. `evalset` is a folder with images.npy uint8 `[N, H, W, C]` and labels.npy.

    labels: the classes it knows, in the order of its outputs; none: those of the session.
    """

    subject: Subject
    path: Path
    preprocess: Preprocess
    evalset: Path
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answers:
    """What one subject said of each of N images, and what the agent said of how it ran."""

    predicted: Labels
    labels: Labels
    unexpected: Sequence[str]
    """Kernels that ran where they should not have."""
    ops: Mapping[str, int]
    precisions: Mapping[str, int] = field(default_factory=dict)
    """What the kernels computed in -> how many did, as far as the runtime tells."""
    engine: Mapping[str, Any] = field(default_factory=dict)
    """Of a runtime that builds on the device: `engine` (where it came from), and `untold`, the layers that it
    does not say the precision of."""
    unknown: int = 0
    """Classes of the session that the subject does not know: it gets none of their images right."""


@dataclass(frozen=True)
class HostAnswers:
    """What the same artifact said of the same images on this machine, or on the one that made it."""

    predicted: Labels
    most_apart: float
    """Largest difference of a logit, relative to the largest logit of the target."""
    facts: Mapping[str, Any]
    called: str = "this machine"


@dataclass
class Findings:
    """Filled by the runner. A graph that several subjects share is known by the first one's name."""

    target: Target
    protocol: Protocol
    seed: int
    sizes: dict[str, int] = field(default_factory=dict)
    """Subject -> bytes of its file."""
    graph_of: dict[str, str] = field(default_factory=dict)
    """Subject -> the subject that was timed for it, often itself."""
    absent: dict[str, str] = field(default_factory=dict)
    """Subject -> why nothing of it but its size was measured: its runtime is not on the device."""
    answers: dict[str, Answers] = field(default_factory=dict)
    host: dict[str, HostAnswers | str] = field(default_factory=dict)
    """Of a target that is another machine than the host: the host's answers, or why there are none."""
    memory: dict[str, Estimate] = field(default_factory=dict)
    cold_start: dict[str, Estimate] = field(default_factory=dict)
    energy_source: Source | str = "not asked for"
    """Where energy was read, or why it was not."""
    energy: list[Mapping[str, Any]] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    retry: dict[str, Any] | None = None
    facts: list[Mapping[str, Any]] = field(default_factory=list)
    """The device's facts as each process saw them."""
    versions: dict[str, Any] = field(default_factory=dict)
    taken_at: str = ""
    """The host's clock (a device may have none) when the first process ended: a session that was interrupted
    and continued much later is as old as its oldest part."""

    def note(self, answer: Mapping[str, Any]) -> None:
        """Keep what an answer of the agent says beside its result."""
        self.facts.append(answer["facts"])
        self.versions.update(answer["versions"])
        self.taken_at = min(self.taken_at or answer["taken_at"], answer["taken_at"])

    @property
    def device(self) -> dict[str, Any]:
        """The facts that measurements carry."""
        first = dict(self.facts[0]) if self.facts else {}
        return {**first, "target": self.target.facts(), "versions": self.versions}

    @property
    def wrong_device(self) -> tuple[str, ...]:
        """Not the device that was asked for, or not the same one all the time."""
        problems = [problem for facts in self.facts for problem in wrong_device(self.target, facts)]
        for name in _SAME_DEVICE:
            if len({str(facts.get(name)) for facts in self.facts}) > 1:
                problems.append(f"wrong device: `{name}` changed during the session")
        return tuple(dict.fromkeys(problems))

    @property
    def emulated(self) -> tuple[str, ...]:
        reasons = dict.fromkeys(str(facts["emulated"]) for facts in self.facts if facts.get("emulated"))
        return tuple(f"emulated device: {reason}" for reason in reasons)

    def fallback(self, name: str) -> tuple[str, ...]:
        """The kernels of a subject that ran where they should not have, the first of them named."""
        unexpected = self.answers[name].unexpected if name in self.answers else ()
        return (f"fall-back: {len(unexpected)} kernels, {unexpected[0]}",) if unexpected else ()


def utc_now() -> str:
    """UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()
