"""A run's folder as a pipeline would leave it, from known rates: pictures, answers, times, measurements."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.core.durable import write_json, write_text
from edgekd.core.measurement import (
    Interval,
    Measurement,
    Quantity,
    Subject,
    Validity,
    write_measurements,
)
from edgekd.core.run_record import Row, RunRecord, StepRecord
from edgekd.core.verdict import Limit, LimitResult, Outcome, Verdict
from edgekd.measure.statistics import mean_of_logs, paired_difference, wilson

Change = Callable[[Measurement], Measurement | None]

CLASSES = (
    "annual crop", "forest", "herbaceous vegetation", "highway", "industrial",
    "pasture", "permanent crop", "residential", "river", "sea or lake",
)  # fmt: skip


@dataclass(frozen=True)
class Rates:
    """One row: how often it is right where the row before was right (and wrong), and what it weighs."""

    name: str
    title: str
    stage: str
    control: bool
    precision: str
    keep: float
    gain: float
    time_ms: float
    size_bytes: int


ROWS = (
    Rates("teacher", "teacher", "teacher", False, "fp32", 0.972, 0.972, 5.9, 44_700_000),
    Rates("student", "same student, no teacher", "distill", True, "fp32", 0.958, 0.35, 1.48, 4_910_000),
    Rates("distilled", "distilled student", "distill", False, "fp32", 0.994, 0.42, 1.48, 4_910_000),
    Rates("ptq", "calibrated only (PTQ)", "quantize", True, "int8", 0.986, 0.10, 0.83, 1_290_000),
    Rates("quantized", "trained in INT8", "quantize", False, "int8", 0.996, 0.30, 0.83, 1_290_000),
)
DEVICES: dict[str, dict[str, Any]] = {
    "local": {"cpu": "AMD EPYC 7763", "cores": 2, "governor": None, "hostname": "build-42.example.org"},
    "pi5": {"cpu": "Cortex-A76", "cores": 4, "governor": "performance", "address": "10.1.2.3"},
}
LIMITS: tuple[dict[str, Any], ...] = (
    {
        "quantity": "accuracy_drop",
        "max": 0.03,
        "against": "teacher",
        "source": "gate.accuracy_drop.max = 3pt",
    },
    {"quantity": "worst_class_recall", "min": 0.9, "source": "gate.worst_class.min = 90 %"},
    {"quantity": "speedup", "min": 2.0, "against": "teacher", "source": "gate.speedup.min = 2x"},
    {"quantity": "size_bytes", "max": 12e6, "target": "any", "source": "gate.size.max = 12MB"},
)


@dataclass
class Synthetic:
    """Settings of one synthetic run. `change` alters a measurement, or drops it by returning None."""

    folder: Path
    num_images: int = 2000
    classes: tuple[str, ...] = CLASSES
    targets: tuple[str, ...] = ("local",)
    rows: tuple[Rates, ...] = ROWS
    limits: tuple[dict[str, Any], ...] = LIMITS
    recipe: str = "eurosat"
    change: Change = lambda measurement: measurement
    events: bool = True
    logits: bool = True
    samples: bool = True
    judged: bool = True
    notes: tuple[str, ...] = ("forest has 3 times as many images as pasture",)

    def write(self) -> Path:
        """Write the folder and return it."""
        generator = np.random.default_rng(5)
        labels = generator.integers(0, len(self.classes), self.num_images)
        right = self._right(generator)
        taken = [one for target in self.targets for one in self._measured(target, labels, right, generator)]
        kept = [one for one in map(self.change, taken) if one is not None]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._evalset(labels, generator)
        if self.logits:
            self._logits(labels, right, generator)
        if self.samples:
            self._samples(generator)
        if self.events:
            write_text(self.folder / "events.jsonl", "".join(json.dumps(e) + "\n" for e in self._events()))
        write_text(self.folder / "recipe.lock.yaml", f"name: {self.recipe}\ndata: {{source: image_folder}}\n")
        write_measurements(self.folder / "measurements.jsonl", kept)
        if self.judged:
            write_text(self.folder / "verdict.json", self._verdict(kept).model_dump_json())
        write_text(self.folder / "record.json", self._record().model_dump_json())
        return self.folder

    def _right(self, generator: np.random.Generator) -> dict[str, npt.NDArray[np.bool_]]:
        right: dict[str, npt.NDArray[np.bool_]] = {}
        before = np.ones(self.num_images, bool)
        for row in self.rows:
            chance = np.where(before, row.keep, row.gain)
            before = right[row.name] = generator.random(self.num_images) < chance
        return right

    def _subject(self, row: Rates) -> Subject:
        return Subject(name=row.name, digest=row.name.encode().hex().ljust(64, "0"), precision=row.precision)

    def _measured(
        self, target: str, labels: Any, right: dict[str, Any], generator: np.random.Generator
    ) -> list[Measurement]:
        found = []
        for row in self.rows:
            found += self._alone(target, row, labels, right[row.name], generator)
            for other in self.rows:
                if other != row:
                    found += self._beside(target, row, other, right, generator)
        return found

    def _measurement(
        self, target: str, row: Rates, quantity: Quantity, value: float | None, **fields: Any
    ) -> Measurement:
        return Measurement(
            quantity=quantity,
            unit="",
            value=value,
            subject=self._subject(row),
            target=target,
            device=DEVICES[target],
            taken_at="2026-11-20T11:00:00+00:00",
            **{"n": self.num_images, "protocol": {"name": "quick", "processes": 5, "block": 10}, **fields},
        )

    def _alone(
        self, target: str, row: Rates, labels: Any, right: Any, generator: np.random.Generator
    ) -> list[Measurement]:
        total, correct = len(labels), int(right.sum())
        of_class = [(int(right[labels == c].sum()), int((labels == c).sum())) for c in set(labels.tolist())]
        worst = min(of_class, key=lambda pair: pair[0] / pair[1])
        slow = 1.0 if target == "local" else 4.2
        times = row.time_ms * slow * np.exp(generator.normal(0, 0.02, 5))
        p50, p50_interval = mean_of_logs(times.tolist())
        p90, p90_interval = mean_of_logs((times * 1.11).tolist())
        memory, memory_interval = mean_of_logs((generator.normal(60e6, 1e5, 3) + 2 * row.size_bytes).tolist())
        made = [
            self._measurement(target, row, "accuracy", correct / total, interval=wilson(correct, total)),
            self._measurement(
                target, row, "worst_class_recall", worst[0] / worst[1], interval=wilson(*worst), n=worst[1]
            ),
            self._measurement(target, row, "latency_p50_ms", p50, interval=p50_interval),
            self._measurement(target, row, "latency_p90_ms", p90, interval=p90_interval),
            self._measurement(target, row, "size_bytes", row.size_bytes, n=1),
            self._measurement(target, row, "memory_bytes", memory, interval=memory_interval, n=3),
            self._measurement(target, row, "cold_start_ms", 41.0 + row.size_bytes / 1e6, n=5),
            self._measurement(target, row, "host_agreement", 1.0 if row.precision == "fp32" else 0.998),
        ]
        missing = "no energy counter is readable on this device"
        return [*made, self._measurement(target, row, "energy_mj", None, n=0, not_measured=missing)]

    def _beside(
        self,
        target: str,
        row: Rates,
        other: Rates,
        right: dict[str, Any],
        generator: np.random.Generator,
    ) -> list[Measurement]:
        mine, theirs = right[row.name], right[other.name]
        lost, won, n = int((theirs & ~mine).sum()), int((mine & ~theirs).sum()), len(mine)
        ratios = other.time_ms / row.time_ms * np.exp(generator.normal(0, 0.004, 5))
        speedup, speed_interval = mean_of_logs(ratios.tolist())
        against = self._subject(other)
        drop = paired_difference(lost, won, n)
        return [
            self._measurement(
                target, row, "accuracy_drop", (lost - won) / n, interval=drop, against=against,
                detail={"lost": lost, "won": won},
            ),
            self._measurement(
                target, row, "new_errors", lost / n, interval=wilson(lost, n), against=against
            ),
            self._measurement(
                target, row, "speedup", speedup, interval=speed_interval, against=against, n=5
            ),
        ]  # fmt: skip

    def _evalset(self, labels: Any, generator: np.random.Generator) -> None:
        folder = self.folder / "steps" / "evalset"
        folder.mkdir(parents=True, exist_ok=True)
        base = generator.integers(30, 220, (len(self.classes), 1, 1, 3))
        rows, columns = np.mgrid[0:32, 0:32]
        waves = 40 * np.sin(rows / 5 + np.arange(len(self.classes))[:, None, None] + columns / 7)[..., None]
        noise = generator.normal(0, 12, (len(labels), 32, 32, 3))
        images = np.clip(base[labels] + waves[labels] + noise, 0, 255).astype(np.uint8)
        np.save(folder / "images.npy", images)
        np.save(folder / "labels.npy", labels)

    def _logits(self, labels: Any, right: dict[str, Any], generator: np.random.Generator) -> None:
        for target in self.targets:
            folder = self.folder / "session" / target
            folder.mkdir(parents=True, exist_ok=True)
            for row in self.rows:
                wrong = (labels + generator.integers(1, max(2, len(self.classes)), len(labels))) % len(
                    self.classes
                )
                said = np.where(right[row.name], labels, wrong)
                logits = np.eye(len(self.classes), dtype=np.float32)[said]
                np.save(folder / f"{row.name}.logits.npy", logits)

    def _samples(self, generator: np.random.Generator) -> None:
        for target in self.targets:
            slow = 1e6 if target == "local" else 4.2e6
            processes = [
                {"rows": {row.name: {"blocks_ns": self._blocks(row, slow, generator)} for row in self.rows}}
                for _ in range(5)
            ]
            write_json(self.folder / "session" / target / "latency.json", {"processes": processes})

    def _blocks(self, row: Rates, slow: float, generator: np.random.Generator) -> Any:
        times = row.time_ms * slow * np.exp(generator.gamma(1.5, 0.045, (26, 10)) - 0.04)
        return times.astype(int).tolist()

    def _events(self) -> Sequence[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        plans = (
            ("teacher", 12, 0.973, ("ce",)),
            ("distill", 20, 0.961, ("ce", "kd")),
            ("quantize", 6, 0.958, ("ce", "kd")),
        )
        for step, epochs, best, terms in plans:
            start = 0.93 if step == "quantize" else 0.2
            for epoch in range(1, epochs + 1):
                gone = 1 - np.exp(-4.5 * epoch / epochs)
                train = {name: 2.1 / (i + 1) * (1.04 - gone) + 0.05 for i, name in enumerate(terms)}
                found.append(
                    {"event": "epoch", "step": step, "epoch": epoch, "num_epochs": epochs, "seconds": 2.1,
                     "learning_rate": 0.1, "train": train, "val_accuracy": start + (best - start) * gone}
                )  # fmt: skip
        return [*found, {"event": "note", "step": "select", "text": "8 of 54 candidates were timed"}]

    def _record(self) -> RunRecord:
        steps = [
            StepRecord(
                name="data", stage="data", key="d" * 64, status="cached", kind="evalset", digest="e" * 64
            )
        ]
        steps += [
            StepRecord(
                name=f"{row.stage}-{row.name}" if row.control else row.stage,
                stage=row.stage,
                key=row.name.encode().hex().ljust(64, "1"),
                inputs={"data": "data"},
                control=row.control,
                status="ran",
                digest=row.name.encode().hex().ljust(64, "2"),
                seconds=41.5,
                facts={"val_accuracy": 0.95},
            )
            for row in self.rows
        ]
        rows = [
            Row(
                name=row.name,
                title=row.title,
                role="control" if row.control else "stage",
                model_step=f"{row.stage}-{row.name}" if row.control else row.stage,
                graph_step="export",
                precision=row.precision,
                evalset="steps/evalset",
                probe=row.name != self.rows[-1].name,
            )
            for row in self.rows
        ]
        return RunRecord(
            recipe=self.recipe,
            run_id="8f31c2d09ab4",
            started_at="2026-11-20T10:41:07+00:00",
            finished_at="2026-11-20T11:02:44+00:00",
            command=["edgekd", "run", f"pipelines/{self.recipe}.yaml", "--set", "distill.epochs=20"],
            labels=self.classes,
            steps=tuple(steps),
            rows=tuple(rows),
            final=self.rows[-1].name,
            targets=self.targets,
            provenance=self._provenance(),
            not_measured=("openvino on pi5: the runtime is not installed there",),
        )

    def _provenance(self) -> dict[str, Any]:
        return {
            "versions": {"python": "3.11.9", "edgekd": "0.1.0", "torch": "2.9.1", "onnxruntime": "1.23.0"},
            "platform": "Linux-6.8.0-x86_64",
            "folder": "/home/ada/photos",
            "user": "ada_l",
            "git": "4be1f02",
            "git_remote": "git@git.example.org:ada/photos.git",
            "data": {"source": "image_folder", "digest": "9" * 64},
            "data_notes": list(self.notes),
            "settings": {"device": "cpu", "threads": 2, "seed": 0},
        }

    def _verdict(self, taken: Sequence[Measurement]) -> Verdict:
        results = [self._result(settings, taken) for settings in self.limits]
        outcomes = {one.outcome for one in results}
        overall: Outcome = (
            "fail" if "fail" in outcomes else "pass" if outcomes == {"pass"} else "inconclusive"
        )
        return Verdict(outcome=overall, results=tuple(results))

    def _result(self, settings: dict[str, Any], taken: Sequence[Measurement]) -> LimitResult:
        limit = Limit(**{"target": self.targets[0] if self.targets else "local", **settings})
        found = [one for one in taken if self._concerns(limit, one)]
        if not found or found[0].value is None or not found[0].validity.valid:
            reason = "not measured" if not found else f"invalid: {'; '.join(found[0].validity.reasons)}"
            decide, measurement = "measure again: `edgekd measure`", found[0] if found else None
            return LimitResult(
                limit=limit, outcome="inconclusive", reason=reason, decide=decide, measurement=measurement
            )
        outcome, reason = self._compared(limit, found[0], found[0].value)
        decide = "about 4,210 test images in all (2,210 more)" if outcome == "inconclusive" else None
        return LimitResult(limit=limit, outcome=outcome, reason=reason, decide=decide, measurement=found[0])

    def _concerns(self, limit: Limit, one: Measurement) -> bool:
        against = one.against.name if one.against else None
        same = one.quantity == limit.quantity and one.subject.name == self.rows[-1].name
        return same and limit.target in ("any", one.target) and against == limit.against

    def _compared(self, limit: Limit, one: Measurement, value: float) -> tuple[Outcome, str]:
        interval = one.interval or Interval(low=value, high=value, method="exact")
        floor, ceiling = limit.min or -1e300, 1e300 if limit.max is None else limit.max
        if interval.low >= floor and interval.high <= ceiling:
            return "pass", "the whole interval is inside the limit"
        if interval.high < floor or interval.low > ceiling:
            return "fail", "the whole interval is outside the limit"
        return "inconclusive", "the interval straddles the limit"


def noisy(measurement: Measurement) -> Measurement:
    """Every absolute latency invalid, as on a busy machine."""
    if not measurement.quantity.startswith("latency"):
        return measurement
    reasons = ("noise: p50 spread between processes is 0.312, over 0.1",)
    return measurement.model_copy(update={"validity": Validity(valid=False, reasons=reasons)})
