"""A run's TensorRT artifact for a device out of reach: the kit goes out, its result comes back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekd.backends.tensorrt.kit import MOST_IMAGES, write_kit
from edgekd.backends.tensorrt.kit_record import KitRecord, write_record
from edgekd.backends.tensorrt.kit_result import RESULT, read_manifest, read_result
from edgekd.core.artifact import Artifact
from edgekd.core.errors import DataError, UsageError
from edgekd.core.preprocess import Preprocess
from edgekd.core.run_record import LOCKED_RECIPE, RunRecord
from edgekd.data.evaluation import IMAGES
from edgekd.pipeline.portable.folder import find_portable
from edgekd.pipeline.recipe import load_recipe
from edgekd.pipeline.run_folder import again, find_run, read_record, step_artifact
from edgekd.pipeline.sealed_folder import check_inside, making_folder
from edgekd.pipeline.session import graph_digest
from edgekd.stages.context import Data
from edgekd.store.store import Store

BACKEND = "tensorrt"
USUAL_IMAGES = 16


@dataclass(frozen=True)
class Candidate:
    """A TensorRT artifact of a run, by the name of its row, or of its step where there are no rows yet."""

    name: str
    artifact: Artifact
    evalset: Path | None
    """Folder of the images that it is measured on."""

    @property
    def digest(self) -> str:
        return graph_digest(self.artifact)

    @property
    def path(self) -> Path:
        return self.artifact.path(self.artifact.facts["file"])

    @property
    def precision(self) -> str:
        return str(self.artifact.facts["precision"])


@dataclass(frozen=True)
class WrittenKit:
    """What was written, and how many images of which split are in it."""

    folder: Path
    artifact: str
    precision: str
    images: int
    split: str


@dataclass(frozen=True)
class StoredKit:
    """What came back, and the file of the run that keeps it."""

    path: Path
    record: KitRecord


def write(store: Store, run: str | None, out: Path, *, row: str | None, images: int) -> WrittenKit:
    """Write the kit of a run's TensorRT artifact into `out`, which is new or empty; whole or not at all.

    Raises `UsageError` where the run has no such artifact, or several and none is named, or `out` is taken.
    """
    if not 1 <= images <= MOST_IMAGES:
        raise UsageError(f"a kit takes 1 to {MOST_IMAGES} images, not {images}", where="--images")
    _check_new(out)
    folder, record = _opened(store, run)
    chosen = _chosen(list(candidates(record, folder)), row, record, folder)
    chosen.artifact.verify()
    pixels, split = _images(chosen, folder, store, images)
    preprocess = Preprocess.model_validate(chosen.artifact.facts["preprocess"])
    with making_folder(out) as temporary:
        write_kit(chosen.path, preprocess.apply(pixels), temporary, chosen.precision)
    return WrittenKit(out, chosen.name, chosen.precision, len(pixels), split)


def read(store: Store, kit: Path, run: str | None) -> StoredKit:
    """Check the kit in the folder `kit` and its result against the run, and keep what it says with the run.

    Raises `DataError` for a result that cannot be believed and for the kit of another artifact.
    """
    manifest = read_manifest(kit)
    folder, record = _opened(store, run)
    found = list(candidates(record, folder))
    chosen = next((one for one in found if one.digest == manifest.model_sha256), None)
    if chosen is None:
        here = ", ".join(f"{one.name} ({one.digest[:12]})" for one in found) or "none"
        raise DataError(
            f"it is a kit of another artifact ({manifest.model_sha256[:12]}) than those of this run: {here}",
            where=str(kit),
            fix="name the run that the kit was written from: `edgekd kit read FOLDER RUN`",
        )
    chosen.artifact.verify()
    if manifest.precision != chosen.precision:
        raise DataError(f"it says {manifest.precision}, the artifact is {chosen.precision}", where=str(kit))
    if not (kit / RESULT).is_file():
        fix = f"run `sh kit/run.sh` on the device, and copy its {RESULT} into this folder"
        raise DataError("the kit has no result yet", where=str(kit), fix=fix)
    facts = read_result(kit, kit / RESULT, chosen.path)
    now = datetime.now(UTC).replace(microsecond=0).isoformat()
    told = KitRecord(artifact=chosen.name, model_sha256=chosen.digest, read_at=now, **facts)
    return StoredKit(write_record(folder, told), told)


def candidates(record: RunRecord, folder: Path) -> Iterator[Candidate]:
    """The run's TensorRT artifacts: those of its rows, or of its steps where it has no rows yet."""
    steps = {
        step.name: step
        for step in record.steps
        if step.kind == "graph" and step.folder is not None and step.facts.get("backend") == BACKEND
    }
    rows = [row for row in record.rows if row.graph_step in steps]
    for row in rows:
        check_inside(row.evalset, folder)
        yield Candidate(row.name, step_artifact(record, folder, row.graph_step), folder / row.evalset)
    for name in steps if not rows else ():
        yield Candidate(name, step_artifact(record, folder, name), None)


def _opened(store: Store, run: str | None) -> tuple[Path, RunRecord]:
    """Of a portable run its own record, and nothing is gathered: no device has measured it yet."""
    portable = find_portable(run)
    if portable is not None:
        portable.verify()
        return portable.folder, portable.record
    folder = find_run(store, run)
    return folder, read_record(folder)


def _check_new(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(
            "there is something already", where=str(out), fix="name a new folder: `--out FOLDER`"
        )


def _chosen(found: list[Candidate], row: str | None, record: RunRecord, folder: Path) -> Candidate:
    names = [one.name for one in found]
    if not found:
        raise UsageError(
            "the run has no TensorRT artifact",
            where=str(folder),
            fix=f"edgekd export {record.recipe} --backends onnx,{BACKEND}",
        )
    if row is not None:
        named = next((one for one in found if one.name == row), None)
        if named is None:
            raise UsageError(f"`{row}` is no TensorRT artifact of the run", where="--row", choices=names)
        return named
    shipped = [one for one in found if one.name == record.final] or found
    if len(shipped) > 1:
        raise UsageError("the run has several TensorRT artifacts", choices=names, fix=f"--row {names[0]}")
    return shipped[0]


def _images(chosen: Candidate, folder: Path, store: Store, count: int) -> tuple[npt.NDArray[np.uint8], str]:
    """uint8 `[N, H, W, C]`, evenly from the whole set (it may be sorted by class), and the split's name."""
    evalset, split = chosen.evalset, "test"
    if evalset is None:
        evalset, split = _validation(chosen, folder, store), "validation"
    path = evalset / IMAGES
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        fix = again(read_record(folder))
        raise UsageError(f"the evaluation set cannot be read: {error}", where=str(path), fix=fix) from error
    places = np.unique(np.linspace(0, len(pixels) - 1, min(count, len(pixels))).round().astype(int))
    return np.array(pixels[places]), split


def _validation(chosen: Candidate, folder: Path, store: Store) -> Path:
    """Of a run that only exports: the validation images that its export was checked on."""
    recipe = load_recipe(str(folder / LOCKED_RECIPE))
    data = Data(recipe.source.open(recipe.source.split_seed), recipe.source, store)
    preprocess = Preprocess.model_validate(chosen.artifact.facts["preprocess"])
    return data.evalset(preprocess, "val").folder
