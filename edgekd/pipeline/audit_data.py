"""The images and classes that an audit judges by, written as evaluation sets, and what is odd about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from edgekd.core.artifact import Artifact
from edgekd.core.digest import of_data
from edgekd.core.errors import DataError
from edgekd.core.run_record import Finding
from edgekd.data import overlap
from edgekd.data.evaluation import IMAGES, LABELS, write_fitted
from edgekd.data.fitting import Fitting
from edgekd.data.foreign import Labeled, read_labeled
from edgekd.data.split import Split
from edgekd.measure.decidability import images_to_decide_share, share_is_decidable
from edgekd.pipeline.audit_model import Subject
from edgekd.pipeline.gate import limits
from edgekd.pipeline.gate_policy import GatePolicy
from edgekd.pipeline.recipe import load_recipe
from edgekd.store.store import Store

COPIES_MAX = 0.02
"""Of the images: more exact copies of others make intervals narrower than they are."""
CONTRADICTIONS_MAX = 0.005
LEAK_MAX = 0.005
NEAR_LEAK_MAX = 0.05
"""Near-duplicates are found in any large set of alike images; CIFAR-10's own test set has 3 % of them."""
_CHUNK = 512
_SHOWN = 6


@dataclass(frozen=True)
class Evaluation:
    """Labels are numbers of `classes`: the audited model's in the order of its outputs, then others."""

    split: Split
    classes: tuple[str, ...]
    own: tuple[str, ...]
    """The classes that the model knows."""
    notes: tuple[str, ...]

    @cached_property
    def split_digest(self) -> str:
        return self.split.digest()

    @property
    def digest(self) -> str:
        return of_data({"split": self.split_digest, "classes": list(self.classes)})

    @property
    def num_unknown(self) -> int:
        """Images of classes that the model has no output for."""
        return int((self.split.labels >= len(self.own)).sum())


def read_evaluation(given: str, subject: Subject) -> Evaluation:
    """Raises `DataError` for images that cannot be read, and for classes that are not the model's."""
    found = _read(given, subject)
    expected = subject.spec.images
    if expected is not None and len(found.split) != expected:
        raise DataError(
            f"holds {len(found.split):,} images, not the {expected:,} that `images` says",
            where=given,
            fix="bring back what is missing, or correct `images`",
        )
    own, notes = _own_classes(found, subject, given)
    split, classes, more = _numbered(found, own, given)
    return Evaluation(split, classes, own, (*found.notes, *notes, *more))


def _read(given: str, subject: Subject) -> Labeled:
    if not given.endswith((".yaml", ".yml")):
        return read_labeled(given, subject.fitting.channels)
    source = load_recipe(given).source
    dataset = source.open(source.split_seed)
    return Labeled(dataset.test, dataset.classes, dataset.notes)


def same_images(given: str, subject: Subject, evaluation: Evaluation) -> Evaluation:
    """The same images and labels for another model, which may take another number of channels."""
    images = _read(given, subject).split.images
    return replace(evaluation, split=replace(evaluation.split, images=images))


def _own_classes(found: Labeled, subject: Subject, given: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the outputs: as given, else the data's classes, else numbers."""
    named, count = subject.spec.labels, subject.num_classes
    if named is not None:
        _check_count(len(named), count, "`labels` names", subject)
        return named, ()
    if found.classes is not None:
        _check_count(len(found.classes), count, f"{given} has", subject)
        return found.classes, ("assumed: the outputs are the data's classes in their order (no `labels`)",)
    return tuple(map(str, range(count or int(found.split.labels.max()) + 1))), ()


def _check_count(named: int, outputs: int | None, who: str, subject: Subject) -> None:
    if outputs is not None and named != outputs:
        raise DataError(
            f"{who} {named} classes, and the model gives {outputs} scores",
            where=str(subject.path),
            fix="name every output, in order, in `labels: labels.txt`",
        )


def _numbered(
    found: Labeled, own: tuple[str, ...], given: str
) -> tuple[Split, tuple[str, ...], tuple[str, ...]]:
    """The split with labels that number `own` and, behind it, the classes of the data that are not in it."""
    labels = found.split.labels
    names = found.classes
    if names is not None and not set(names) & set(own):
        if not all(name.isdigit() and int(name) < len(own) for name in names):
            raise DataError(
                f"none of its classes ({_few(names)}) is among the model's ({_few(own)})",
                where=given,
                fix="call the folders as `labels` does",
            )
        numbers = np.array([int(name) for name in names], np.int64)
        note = "the data's classes are numbers: they were taken for the numbers of the outputs"
        return replace(found.split, labels=numbers[labels]), own, (note,)
    if names is None:
        if labels.max() >= len(own):
            raise DataError(f"labels go up to {labels.max()}, the model gives {len(own)} scores", where=given)
        return found.split, own, ()
    classes = (*own, *(name for name in names if name not in own))
    place = {name: number for number, name in enumerate(classes)}
    numbers = np.array([place[name] for name in names], np.int64)
    return replace(found.split, labels=numbers[labels]), classes, ()


def evaluation_set(evaluation: Evaluation, fitting: Fitting, store: Store) -> Artifact:
    """images.npy and labels.npy as the model takes them, made once. Raises `DataError`, `StoreError`."""
    key = of_data({"audited": evaluation.digest, "fitting": fitting.model_dump(mode="json")})
    with store.lock(key):
        found = store.lookup(key)
        if found is not None:
            return found
        folder = store.work_folder(key)
        write_fitted(evaluation.split, (*fitting.size, fitting.channels), fitting.apply, folder)
        facts = {
            "split": "test",
            "num_images": len(evaluation.split),
            "classes": list(evaluation.classes),
            "fitting": fitting.model_dump(mode="json"),
        }
        artifact = store.commit(
            key, kind="evalset", facts=facts, folder=folder, files=[IMAGES, LABELS], ingredients={}
        )
        store.discard_work(key)
        return artifact


# --- what is odd --------------------------------------------------------------------------------------------


def data_findings(
    evaluation: Evaluation, images: npt.NDArray[np.uint8], fitting: Fitting, train: str | None
) -> Iterator[Finding]:
    """What speaks against the images, uint8 `[N, H, W, C]` as the model takes them, and their labels."""
    yield from _classes_without_images(evaluation)
    found = overlap.prints(images)
    yield from _repeated(found, evaluation)
    if train is not None:
        yield from _leak(found, train, fitting)


def _classes_without_images(evaluation: Evaluation) -> Iterator[Finding]:
    counts = np.bincount(evaluation.split.labels, minlength=len(evaluation.classes))
    missing = [evaluation.own[number] for number in np.flatnonzero(counts[: len(evaluation.own)] == 0)]
    if missing:
        yield Finding(
            name="missing-classes",
            text=f"{len(missing)} of the model's {len(evaluation.own)} classes have no images: "
            f"{_few(missing)}",
            fix="evaluate on all classes, or accept it: what is judged is the rest",
        )
    if evaluation.num_unknown:
        unknown = evaluation.classes[len(evaluation.own) :]
        yield Finding(
            name="unknown-classes",
            text=f"{evaluation.num_unknown:,} images are of {len(unknown)} classes that the model does not "
            f"know ({_few(unknown)}); they count as wrong",
            fix="check the names in `labels`, or accept it",
        )


def _repeated(found: overlap.Prints, evaluation: Evaluation) -> Iterator[Finding]:
    total, copies = len(found.exact), overlap.copies(found)
    if copies > COPIES_MAX * total:
        yield Finding(
            name="copies",
            text=f"{copies:,} of {total:,} images are exact copies of others: only {total - copies:,} "
            "differ, so every interval is too narrow",
            fix="leave the copies out",
        )
    opposed = overlap.contradictions(found, evaluation.split.labels)
    if opposed:
        yield Finding(
            name="contradictions",
            text=f"{len(opposed):,} of {total:,} images equal another one of another class, for example "
            f"{_name(evaluation.split, opposed[0])}",
            fix="correct the labels",
            outcome="inconclusive" if len(opposed) > CONTRADICTIONS_MAX * total else "note",
        )


def _leak(found: overlap.Prints, train: str, fitting: Fitting) -> Iterator[Finding]:
    learned = read_labeled(train, fitting.channels, training=True)
    exact, near = overlap.shared(found, overlap.prints(_fitted(learned.split, fitting)))
    total = len(found.exact)
    if exact + near:
        matters = exact > LEAK_MAX * total or exact + near > NEAR_LEAK_MAX * total
        yield Finding(
            name="leak",
            text=f"{exact:,} of {total:,} images are in the training data, and {near:,} more are nearly so",
            fix="leave them out: what was learned by heart is no evidence",
            outcome="inconclusive" if matters else "note",
        )


def _fitted(split: Split, fitting: Fitting) -> Iterator[npt.NDArray[np.uint8]]:
    for start in range(0, len(split), _CHUNK):
        yield from map(fitting.apply, split.images.get(range(start, min(start + _CHUNK, len(split)))))


def too_few(gate: GatePolicy, targets: Sequence[str], num_images: int) -> Iterator[str]:
    """Limits on accuracy that so few images could not pass even without an error, and how many could."""
    for limit in limits(gate, targets):
        if limit.quantity != "accuracy" or limit.min is None or limit.min >= 1:
            continue
        if not share_is_decidable(num_images, limit.min, 1.0):
            needed = images_to_decide_share(num_images, num_images, limit.min)
            yield (
                f"{num_images:,} images cannot show an accuracy of {limit.min:.2%} even without an error: "
                f"at least {needed:,} are needed"
            )


def _name(split: Split, row: int) -> str:
    return split.ids[row] if split.ids is not None else f"image {row}"


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
