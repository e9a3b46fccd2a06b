"""What lies in an image folder: which files belong to which split and class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgekd.core.errors import DataError
from edgekd.data.decode import SUFFIXES

SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test",)}
EXPECTED = "`<class>/<image>` or `train|val|test/<class>/<image>`"
_LISTED = 10


@dataclass(frozen=True)
class Listing:
    """Image files, in sorted order, of one part: `names` are relative to the root, `labels` by class."""

    names: tuple[str, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class FolderLayout:
    """`parts` has `train` alone (class/file), or also `val` and `test` (split/class/file)."""

    classes: tuple[str, ...]
    parts: dict[str, Listing]
    notes: tuple[str, ...]


def read_layout(root: Path, where: str) -> FolderLayout:
    """List an image folder without decoding anything; classes and files are sorted by name.

    Raises `DataError` for a folder without classes, an empty class, a split that lacks, or classes that
    differ between splits, or a folder that may not be read.
    """
    try:
        return _read(root, where)
    except OSError as error:
        raise DataError(f"cannot list: {error}", where=where) from error


def _read(root: Path, where: str) -> FolderLayout:
    folders = _folders(root)
    splits = _split_folders(root, folders)
    if splits:
        _require_splits(splits, where)
        ignored = [name for name in folders if root / name not in splits.values()]
    else:
        splits, ignored = {"train": root}, []
    if not _folders(splits["train"]):
        raise DataError("holds no class folders", where=where, fix=f"arrange the images as {EXPECTED}")
    classes = _classes(splits, where)
    files = {
        split: {name: image_files(folder / name) for name in classes} for split, folder in splits.items()
    }
    _refuse_empty(files, where)
    parts = {split: _listing(root, classes, images) for split, images in files.items()}
    return FolderLayout(classes, parts, tuple(_notes(splits.values(), classes, ignored)))


def _folders(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _split_folders(root: Path, folders: list[str]) -> dict[str, Path]:
    """Split -> folder, for folders that are named like a split and hold folders, not images.

    A class may be called `train`: then its folder holds images.
    """
    return {
        split: root / name
        for split, names in SPLIT_FOLDERS.items()
        for name in folders
        if name.lower() in names and _folders(root / name)
    }


def _require_splits(splits: dict[str, Path], where: str) -> None:
    missing = [split for split in ("train", "test") if split not in splits]
    if missing:
        raise DataError(
            f"has {', '.join(p.name for p in splits.values())} but no `{'`, `'.join(missing)}` folder",
            where=where,
            fix="add it (only val is held out of train by itself), or put the class folders into one folder",
        )


def _classes(splits: dict[str, Path], where: str) -> tuple[str, ...]:
    """The classes of train; a folder in val or test that is no class of train is an error."""
    classes = tuple(_folders(splits["train"]))
    for split, folder in splits.items():
        unknown = sorted(set(_folders(folder)) - set(classes))
        if unknown:
            raise DataError(
                f"`{split}` has classes that train lacks: {', '.join(unknown[:_LISTED])}",
                where=where,
                choices=classes[:_LISTED],
            )
    return classes


def image_files(folder: Path) -> list[Path]:
    """Image files below a folder, by suffix, sorted; subfolders (say one a patient) are followed."""
    if not folder.is_dir():
        return []
    return sorted(p for p in _visible(folder) if p.suffix.lower() in SUFFIXES)


def _visible(folder: Path) -> Iterable[Path]:
    # A dangling link is kept, so that it is reported as undecodable instead of being passed over.
    paths = (p for p in folder.rglob("*") if not p.name.startswith("."))
    return (p for p in paths if p.is_file() or (p.is_symlink() and not p.is_dir()))


def _refuse_empty(files: dict[str, dict[str, list[Path]]], where: str) -> None:
    for split, by_class in files.items():
        if not any(by_class.values()):
            raise DataError(
                f"no images in `{split}`", where=where, fix=f"known suffixes: {', '.join(sorted(SUFFIXES))}"
            )
    empty = [name for name, paths in files["train"].items() if not paths]
    if empty:
        raise DataError(
            f"{len(empty)} class folders hold no images: {', '.join(empty[:_LISTED])}",
            where=where,
            fix="add images or remove the folders",
        )


def _listing(root: Path, classes: tuple[str, ...], files: dict[str, list[Path]]) -> Listing:
    names = [
        (path.relative_to(root).as_posix(), label) for label, c in enumerate(classes) for path in files[c]
    ]
    return Listing(tuple(name for name, _ in names), tuple(label for _, label in names))


def _notes(folders: Iterable[Path], classes: tuple[str, ...], ignored: list[str]) -> Iterable[str]:
    if ignored:
        yield f"folders beside the splits were ignored: {', '.join(ignored[:_LISTED])}"
    paths = [path for folder in folders for name in classes for path in _visible(folder / name)]
    others = sorted(
        {path.suffix.lower() or path.name for path in paths if path.suffix.lower() not in SUFFIXES}
    )
    if others:
        yield f"files that are no images by their suffix were ignored: {', '.join(others[:_LISTED])}"
    if root_files := [p for folder in folders for p in folder.iterdir() if p.suffix.lower() in SUFFIXES]:
        yield f"{len(root_files)} images outside any class folder were ignored (first: {root_files[0].name})"
