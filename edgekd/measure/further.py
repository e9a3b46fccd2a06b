"""What the measurements beside a session share: which device it is, and a measurement made of an estimate."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekd.core.durable import write_text
from edgekd.core.errors import TargetError, UsageError
from edgekd.core.measurement import Measurement, Quantity, Validity
from edgekd.measure.answers import entry_of
from edgekd.measure.assemble import UNITS
from edgekd.measure.device import Device, open_device, wrong_device
from edgekd.measure.estimate import Estimate
from edgekd.measure.findings import Emit, Findings, Item, utc_now
from edgekd.measure.parts import Images
from edgekd.measure.protocol import Protocol
from edgekd.targets.target import Target


class Rig:
    """One open device, known to be itself, for timing single artifacts."""

    def __init__(self, device: Device, protocol: Protocol, folder: Path, emit: Emit, seed: int) -> None:
        """`folder` keeps raw results. Raises `UsageError` on an emulated, `TargetError` on a wrong device."""
        self.device, self.protocol, self.folder, self._emit = device, protocol, folder, emit
        self.found = Findings(device.target, protocol, seed)
        facts = self.call("facts", deadline_s=60)["facts"]
        if facts["emulated"]:
            reason = f"an emulated device has no times of its own ({facts['emulated']})"
            raise UsageError(reason, where=device.target.name)
        if problems := wrong_device(device.target, facts):
            raise TargetError("; ".join(problems), where=device.target.name)

    @property
    def facts(self) -> Mapping[str, Any]:
        return self.found.facts[0]

    def call(self, mode: str, *entries: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        """One process of the agent by the protocol; its result. What the agent says beside is noted."""
        request = {**self.protocol.request(), "seed": self.found.seed % 2**32, **fields}
        answer = self.device.call(mode, entries, **request)
        self.found.note({**answer, "taken_at": utc_now()})
        return answer if mode == "facts" else dict(answer["result"])

    def entry(self, item: Item, images: Path) -> dict[str, Any]:
        """What a request says of an item that is run on `images`."""
        return entry_of(self.device, item, images)

    def tell(self, done: int, total: int, text: str) -> None:
        self._emit({"event": "progress", "done": done, "total": total, "text": text})

    def keep(self, name: str, content: Mapping[str, Any]) -> str:
        """Write a raw result beside the session's; returns its path as the measurements file sees it."""
        whole = {"schema_version": 1, "device": self.found.device, "taken_at": self.found.taken_at, **content}
        text = json.dumps(whole, separators=(",", ":"), allow_nan=False) + "\n"
        write_text(self.folder / self.device.target.name / name, text)
        return f"{self.folder.name}/{self.device.target.name}/{name}"

    def measurement(
        self, quantity: Quantity, item: Item, estimate: Estimate, samples: str | None, **how: Any
    ) -> Measurement:
        """`how` is added to what the measurement says of its protocol."""
        target = self.device.target
        problems = (*self.found.wrong_device, *estimate.problems)
        about = {"seed": self.found.seed, "threads": target.threads, "pinned": target.cores, **how}
        return Measurement(
            quantity=quantity,
            unit=UNITS[quantity],
            value=estimate.value,
            interval=estimate.interval,
            n=estimate.n,
            subject=item.subject,
            target=target.name,
            device=self.found.device,
            protocol={**self.protocol.model_dump(mode="json"), **about},
            validity=Validity(valid=not problems, reasons=tuple(dict.fromkeys((*problems, *estimate.notes)))),
            not_measured=estimate.missing,
            detail=estimate.detail,
            samples=samples,
            taken_at=self.found.taken_at,
        )


@contextmanager
def open_rig(target: Target, protocol: Protocol, folder: Path, emit: Emit, seed: int) -> Iterator[Rig]:
    """Raises `TargetError` and, on an emulated device, `UsageError`."""
    with open_device(target) as device:
        yield Rig(device, protocol, folder, emit, seed)


def timing_images(item: Item, protocol: Protocol, folder: Path) -> Path:
    """The images that an item is timed with: all of its set, or as many as a device may be asked to take."""
    images = Images(
        item.evalset / "images.npy",
        folder,
        most_bytes=protocol.part_bytes,
        most_images=protocol.part_images,
        batch=protocol.batch,
    )
    return images.some()
