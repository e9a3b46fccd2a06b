"""Asks a device for the logits of every item, part by part, so that a lost link costs one part at most."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekd.core.digest import of_data, of_file
from edgekd.core.errors import AbsentRuntimeError, TargetError
from edgekd.measure.accuracy import Logits
from edgekd.measure.device import Device
from edgekd.measure.findings import Item, utc_now
from edgekd.measure.parts import GatheredLogits, Images, Part
from edgekd.measure.protocol import Protocol

_LOGITS = "logits.npy"

Once = Callable[[str, str, Callable[[], Mapping[str, Any]]], Mapping[str, Any]]
"""`once(key, text, ask)`: the answer remembered under `key`, or that of `ask`."""


class Sets:
    """The evaluation sets of some items, each cut once; what was cut out is gone on leaving."""

    def __init__(self, items: Sequence[Item], protocol: Protocol, folder: Path) -> None:
        self._items = tuple(items)
        self._images: dict[Path, Images] = {}
        for number, path in enumerate(dict.fromkeys(self.path(item) for item in items)):
            (folder / str(number)).mkdir()
            self._images[path] = Images(
                path,
                folder / str(number),
                most_bytes=protocol.part_bytes,
                most_images=protocol.part_images,
                batch=protocol.batch,
            )

    @staticmethod
    def path(item: Item) -> Path:
        return (item.evalset / "images.npy").resolve()

    def of(self, item: Item) -> Images:
        return self._images[self.path(item)]

    def grouped(self) -> Iterator[tuple[Images, list[Item]]]:
        """Every set with the items that are asked for it."""
        for path, images in self._images.items():
            yield images, [item for item in self._items if self.path(item) == path]

    @property
    def num_answers(self) -> int:
        """How many processes it takes to ask everything."""
        return sum(len(self.of(item).parts) for item in self._items)


@contextmanager
def open_sets(items: Sequence[Item], protocol: Protocol) -> Iterator[Sets]:
    """Raises `DataError` for images that cannot be read."""
    with tempfile.TemporaryDirectory(prefix="edgekd-parts-") as folder:
        yield Sets(items, protocol, Path(folder))


class Asked:
    """The logits of every item from one device, and what its agent said beside."""

    def __init__(self, sets: Sets, device: Device, protocol: Protocol, folder: Path, once: Once) -> None:
        self._sets, self._device, self._protocol = sets, device, protocol
        self._folder, self._once = folder, once
        self._profiles: dict[str, Mapping[str, Any]] = {}
        self._gathered: dict[str, GatheredLogits] = {}
        self.absent: dict[str, str] = {}
        """Subject -> why the device has no runtime for it: nothing of it was answered."""

    def ask(self, key: str, text: str) -> None:
        """Ask for all parts that are not remembered under `key` and what belongs to each; `text` is shown.

        Raises `ModelError` and `DataError` for what cannot be run, `TargetError` when the device is lost: the
        parts before it then stay.
        """
        for images, items in self._sets.grouped():
            for item in items:
                path = self._folder / f"{item.subject.name}.logits.npy"
                self._gathered[item.subject.name] = GatheredLogits(path, images.parts)
            for part in images.parts:
                for item in self._present(items):
                    self._try(key, text, item, part, last=item is self._present(items)[-1])

    def _present(self, items: Sequence[Item]) -> list[Item]:
        return [item for item in items if item.subject.name not in self.absent]

    def _try(self, key: str, text: str, item: Item, part: Part, *, last: bool) -> None:
        try:
            self._part(key, text, item, part, last=last)
        except AbsentRuntimeError as error:
            self.absent[item.subject.name] = error.what

    def logits(self, item: Item) -> Logits:
        """All rows float32 `[N, C]` of an item, in the order of its images."""
        return self._gathered[item.subject.name].finish()

    def profile(self, item: Item) -> Mapping[str, Any]:
        """Which kernels ran, and where."""
        return self._profiles[item.subject.name]

    def _part(self, key: str, text: str, item: Item, part: Part, *, last: bool) -> None:
        name, count = item.subject.name, len(self._sets.of(item).parts)
        content = [of_file(item.path), part.digest, item.preprocess.model_dump(mode="json")]
        own = f"{key}/{name}/{of_data(content)[:24]}" + (f"/{part.number}" if count > 1 else "")
        text = f"{text} of {name}" + (f", part {part.number + 1} of {count}" if count > 1 else "")

        def ask() -> Mapping[str, Any]:
            return self._ask(item, part, remove=last and count > 1)

        answer = self._once(own, text, ask)
        if not self._gathered[name].holds(part, answer["rows_sha256"]):
            answer = self._once(f"{own}/{utc_now()}", text, ask)
        if part.number == 0:
            self._profiles[name] = answer["result"]["profile"]

    def _ask(self, item: Item, part: Part, *, remove: bool) -> dict[str, Any]:
        logits = self._gathered[item.subject.name]
        entry = entry_of(self._device, item, self._sets.of(item).file(part))
        answer = self._device.call(
            "accuracy",
            [entry],
            out=_LOGITS,
            profile=part.number == 0,
            remove=[entry["images"]] if remove else [],
            **self._protocol.request(),
        )
        if remove:
            self._device.forget(entry["images"])
        with logits.receiving(part) as temporary:
            self._device.pull(_LOGITS, temporary)
            if of_file(temporary) != answer["result"]["logits_sha256"]:
                raise TargetError("the logits arrived damaged", where=self._device.target.name)
        return {**answer, "rows_sha256": logits.digest(part)}


def entry_of(device: Device, item: Item, images: Path | None = None) -> dict[str, Any]:
    """What a request says of an item, after pushing what it needs."""
    return device.artifact(
        item.subject.name, item.path, backend=item.subject.backend, images=images, preprocess=item.preprocess
    )
