"""Keeps what every session measured: `record()` appends it to the store's history, in a compact form."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from edgekd.core.config import Config
from edgekd.core.digest import of_data, of_file
from edgekd.core.errors import EdgekdError
from edgekd.core.measurement import Interval, Measurement, Quantity, Subject, Validity
from edgekd.core.run_record import RunRecord
from edgekd.data.evaluation import IMAGES
from edgekd.measure import accuracy
from edgekd.measure.findings import Item
from edgekd.measure.statistics import LEVEL
from edgekd.store.history import ARTIFACTS, RECIPES, HistoryLog
from edgekd.store.store import Store

SCHEMA_VERSION = 1
Kind = Literal["run", "measure", "bench", "audit"]
Right = npt.NDArray[np.bool_]
"""`[N]`: which images were answered rightly."""

_FACTS = (
    *("machine", "model", "soc", "cpu", "cpu_features", "vnni", "cores", "clusters", "cores_allowed"),
    *("cache_bytes", "governor", "clock_policies", "power_mode", "kernel", "os", "l4t", "libc", "python"),
    *("hypervisor", "emulated"),
)
_SETTINGS = ("kind", "threads", "cores", "options")
_PROTOCOL = ("name", "batch", "block")
_PARTS = ("process_ratios", "process_bytes", "process_p50_ms")
"""Process-level values, under the names that measurements give them."""
_DIGITS = 9


@dataclass(frozen=True)
class Occasion:
    """What a session was for: the command, the recipe and the run it belongs to, and the row that ships.

    data: digest of the test split, by which images are known to be the same in another size.
    """

    kind: Kind = "measure"
    recipe: str | None = None
    run_id: str | None = None
    final: str | None = None
    data: str | None = None

    @classmethod
    def of_run(cls, record: RunRecord, kind: Kind) -> Occasion:
        data = record.provenance.get("data", {})
        return cls(kind, record.recipe, record.run_id, record.final, data.get("test"))


class Answers(Config):
    """How one subject answered N images: digests of images, labels and predictions, and who was right."""

    n: int = Field(ge=1)
    images: str
    labels: str
    predictions: str
    right: str
    """One bit an image, compressed, in base64."""

    def unpacked(self) -> Right | None:
        """None when the bits are not what they should be."""
        try:
            packed = zlib.decompressobj().decompress(base64.b64decode(self.right), self._num_bytes)
        except (ValueError, zlib.error):
            return None
        if len(packed) != self._num_bytes:
            return None
        return np.unpackbits(np.frombuffer(packed, np.uint8), count=self.n).astype(np.bool_)

    @property
    def _num_bytes(self) -> int:
        return (self.n + 7) // 8


class Kept(Config):
    """One measurement without what its whole session shares; `subject` and `against` are rows' names."""

    quantity: Quantity
    unit: str
    value: float | None
    interval: Interval | None = None
    n: int = 0
    processes: int | None = None
    """Of a time: how many it rests on."""
    subject: str
    against: str | None = None
    validity: Validity = Validity()
    not_measured: str | None = None
    reused_from: str | None = None
    parts: tuple[float, ...] = ()
    """Process-level values: ratios of a speed-up, milliseconds of a p50, bytes of a memory peak."""
    p90_ratio: Interval | None = None
    """Of a speed-up: the same for the 90th percentile."""


class Entry(Config):
    """What one session found on one target."""

    schema_version: int = SCHEMA_VERSION
    id: str
    kind: Kind
    recipe: str | None = None
    run_id: str | None = None
    final: str | None = None
    data: str | None = None
    target: str
    taken_at: str
    subjects: dict[str, Subject]
    answers: dict[str, Answers] = {}
    device: dict[str, Any] = {}
    """Facts that decide what a time means: processor, settings, governor, kernel, runtime."""
    protocol: dict[str, Any] = {}
    measurements: tuple[Kept, ...]


def record(
    store: Store,
    occasion: Occasion,
    measurements: Sequence[Measurement],
    *,
    items: Sequence[Item] = (),
    classes: Sequence[str] = (),
    folder: Path | None = None,
) -> None:
    """Append what one session measured, an entry per target; the same session is never kept twice.

    `items` and `classes` are what was measured, `folder` is where the session left its logits: with them
    the answers image by image are kept, so that accuracies of two sessions can be paired. Raises
    `StoreError` when the history cannot be written.
    """
    log = HistoryLog(store)
    for target in dict.fromkeys(m.target for m in measurements):
        own = [m for m in measurements if m.target == target]
        answers = _answers(own, items, classes, folder) if folder else {}
        entry = _entry(occasion, own, answers)
        name = occasion.recipe or own[0].subject.digest[:16]
        log.append(RECIPES if occasion.recipe else ARTIFACTS, name, _plain(entry))


def _entry(occasion: Occasion, own: Sequence[Measurement], answers: dict[str, Answers]) -> Entry:
    """`own` are the measurements of one session on one target."""
    everyone = [s for m in own for s in (m.subject, m.against) if s is not None]
    latest = max(own, key=lambda m: m.taken_at)
    entry = Entry(
        id="",
        **vars(occasion),
        target=latest.target,
        taken_at=latest.taken_at,
        subjects={subject.name: subject for subject in everyone},
        answers=answers,
        device=facts_of(latest.device),
        protocol={name: latest.protocol[name] for name in _PROTOCOL if name in latest.protocol},
        measurements=tuple(_kept(m) for m in own),
    )
    return entry.model_copy(update={"id": of_data(_plain(entry))[:16]})


def _plain(entry: Entry) -> dict[str, Any]:
    """As JSON data, without defaults; what is not finite becomes null."""
    plain: dict[str, Any] = json.loads(entry.model_dump_json(exclude_defaults=True))
    return {"schema_version": entry.schema_version, **plain}


def _kept(m: Measurement) -> Kept:
    parts = next((m.detail[name] for name in _PARTS if name in m.detail), ())
    processes = m.protocol.get("processes")
    return Kept(
        quantity=m.quantity,
        unit=m.unit,
        value=m.value,
        interval=m.interval if m.interval and _finite(m.interval.low, m.interval.high) else None,
        n=m.n,
        processes=processes if isinstance(processes, int) else None,
        subject=m.subject.name,
        against=m.against.name if m.against else None,
        validity=m.validity,
        not_measured=m.not_measured,
        reused_from=m.reused_from,
        parts=tuple(float(f"{part:.{_DIGITS}g}") for part in parts),
        p90_ratio=_p90_ratio(m),
    )


def _p90_ratio(m: Measurement) -> Interval | None:
    found = m.detail.get("p90_ratio") or {}
    low, high = found.get("low"), found.get("high")
    if low is None or high is None or not _finite(low, high):
        return None
    level = m.interval.level if m.interval else LEVEL
    return Interval(low=low, high=high, level=level, method="student-t-log-processes")


def _finite(*values: float) -> bool:
    return all(map(math.isfinite, values))


def facts_of(device: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that must be alike for two times to be compared, flat: load and clocks are not among them."""
    facts = {name: device[name] for name in _FACTS if device.get(name) is not None}
    settings = device.get("target") or {}
    facts |= {f"target.{name}": settings[name] for name in _SETTINGS if settings.get(name)}
    for runtime, versions in (device.get("versions") or {}).items():
        facts |= {f"{runtime}.{name}": version for name, version in versions.items()}
    return facts


# --- answers image by image ---------------------------------------------------------------------------------


def _answers(
    own: Iterable[Measurement], items: Sequence[Item], classes: Sequence[str], folder: Path
) -> dict[str, Answers]:
    logits = {m.subject.name: m.samples for m in own if m.quantity == "accuracy" and m.samples}
    found = {item.subject.name: item for item in items if item.subject.name in logits}
    return dict(_read_answers(found, classes, {name: folder / str(logits[name]) for name in found}))


def _read_answers(
    items: Mapping[str, Item], classes: Sequence[str], logits: Mapping[str, Path]
) -> Iterator[tuple[str, Answers]]:
    """What can be read; a session whose logits are gone is kept without."""
    digests: dict[Path, str] = {}
    for name, item in items.items():
        try:
            labels = accuracy.read_labels(item.evalset, len(classes))
            said = accuracy.predictions(accuracy.read_array(logits[name]), item.labels, classes)
            if item.evalset not in digests:
                digests[item.evalset] = of_file(item.evalset / IMAGES)
        except (EdgekdError, OSError, IndexError, ValueError):
            continue
        if said.shape == labels.shape:
            yield name, packed(said, labels, digests[item.evalset])


def packed(said: accuracy.Labels, labels: accuracy.Labels, images: str) -> Answers:
    """The answers `said` to N images of the digest `images`, compact."""
    bits = zlib.compress(np.packbits(said == labels).tobytes(), 9)
    return Answers(
        n=len(labels),
        images=images,
        labels=accuracy.digest(labels),
        predictions=accuracy.digest(said),
        right=base64.b64encode(bits).decode(),
    )
