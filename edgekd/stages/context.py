"""What a stage is given to work with: its folder, seed, data, targets, memory and a way to say things."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.artifact import Artifact
from edgekd.core.digest import of_data
from edgekd.core.events import Emit
from edgekd.core.preprocess import Preprocess
from edgekd.core.verdict import Limit
from edgekd.data.evaluation import write_evalset
from edgekd.data.split import UNLABELED, Dataset
from edgekd.store.store import Store

if TYPE_CHECKING:
    from edgekd.data.source import Source
    from edgekd.targets.target import Target


class Data:
    """The run's data set, and its evaluation sets written once per preprocessing."""

    def __init__(self, dataset: Dataset, source: Source, store: Store) -> None:
        self.dataset = dataset
        self.source = source
        self._store = store
        self.digests = {split.name: split.digest() for split in dataset.splits}

    @property
    def store_root(self) -> Path:
        return self._store.root

    def cache_folder(self, name: str) -> Path:
        """A folder of the store's evictable area."""
        return self._store.cache_folder(name)

    def of_classes(self, own: tuple[str, ...]) -> Data:
        """The images of these classes alone, as `Dataset.of_classes` takes them."""
        return Data(self.dataset.of_classes(own), self.source, self._store)

    @property
    def digest(self) -> str:
        return self._digest(self.digests)

    @property
    def labeled_digest(self) -> str:
        """For steps that never see unlabeled images; where there are none it equals `digest`."""
        return self._digest({name: digest for name, digest in self.digests.items() if name != UNLABELED})

    def _digest(self, splits: Mapping[str, str]) -> str:
        return of_data({"splits": dict(splits), "classes": list(self.dataset.classes)})

    def evalset(self, preprocess: Preprocess, split: str) -> Artifact:
        """`images.npy` (uint8 `[N, H, W, C]`, of the preprocess's size) and `labels.npy` of a split."""
        ingredients = {
            "evalset": self.digests[split],
            "size": list(preprocess.size),
            "resize": preprocess.resize,
            "channels": preprocess.num_channels,
        }
        key = of_data(ingredients)
        with self._store.lock(key):
            found = self._store.lookup(key)
            if found is not None:
                return found
            folder = self._store.work_folder(key)
            write_evalset(self.dataset.split(split), preprocess, folder)
            facts = {
                "split": split,
                "num_images": len(self.dataset.split(split)),
                "classes": list(self.dataset.classes),
            }
            artifact = self._store.commit(
                key,
                kind="evalset",
                facts=facts,
                folder=folder,
                files=["images.npy", "labels.npy"],
                ingredients=ingredients,
            )
            self._store.discard_work(key)
            return artifact


@dataclass(frozen=True)
class StageContext:
    """One step's surroundings. `folder` survives an interruption, so a step can resume from it."""

    folder: Path
    seed: int
    data: Data
    targets: Sequence[Target]
    limits: Sequence[Limit]
    journal: Callable[[str, Callable[[], Any]], Any]
    emit: Emit
    should_stop: Callable[[], bool]
    device: str = "auto"
    threads: int = 2
    trust_code: bool = False
    plans: Mapping[str, Any] | None = None
    """What later steps of the plan intend, as plain data: `precision` of the shipped graph."""
    target_facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unreached: Mapping[str, str] = field(default_factory=dict)
    """Target -> why it is out of reach from here."""
    basis: Mapping[str, Any] = field(default_factory=dict)
    """What any result of the step depends on beside its inputs: code, libraries, threads, number type."""

    @property
    def reached(self) -> list[Target]:
        """The targets that can be asked something."""
        return [target for target in self.targets if target.name not in self.unreached]

    def of_classes(self, own: tuple[str, ...]) -> StageContext:
        """The same with the images of these classes alone, numbered in this order."""
        return self if own == self.data.dataset.classes else replace(self, data=self.data.of_classes(own))
