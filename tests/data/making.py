"""Small data sets on disk and in memory for the data tests."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgekd.data.array_images import ArrayImages
from edgekd.data.cifar_files import CIFAR100, Layout
from edgekd.data.split import Split


def random_pixels(*shape: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def array_split(count: int = 20, side: int = 8, channels: int = 3, num_classes: int = 2) -> Split:
    pixels = random_pixels(count, side, side, channels)
    return Split("train", ArrayImages(pixels), np.arange(count) % num_classes)


def save_images(folder: Path, count: int, *, seed: int, size: tuple[int, int] = (12, 10)) -> list[Path]:
    """PNG files of smooth random content, so that no two are near-duplicates."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{seed}_{number:03d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        coarse = Image.fromarray(random_pixels(6, 6, 3, seed=seed * 1000 + number))
        coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC).save(path)
    return paths


def image_folder(root: Path, classes: dict[str, int], **options: tuple[int, int]) -> Path:
    for number, (name, count) in enumerate(classes.items()):
        save_images(root / name, count, seed=number + len(root.name) * 100, **options)
    return root


def write_idx(path: Path, array: npt.NDArray[np.uint8]) -> None:
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(header + array.tobytes())


def fashion_folder(root: Path, train: int = 60, test: int = 20) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", train), ("t10k", test)):
        write_idx(root / f"{prefix}-images-idx3-ubyte", random_pixels(count, 28, 28, seed=count))
        write_idx(root / f"{prefix}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10)
    return root


def cifar_arrays(layout: Layout, count: int, seed: int) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """(rows `[N, 3072]` as in the files, labels)."""
    return random_pixels(count, 3072, seed=seed), [row % layout.num_classes for row in range(count)]


def cifar_folder(root: Path, layout: Layout, *, is_binary: bool, count: int = 40, protocol: int = 2) -> Path:
    """The same images in either version; `count` images in each file."""
    root.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate((*layout.train, layout.test)):
        rows, labels = cifar_arrays(layout, count, seed)
        if is_binary:
            first = np.array(labels, np.uint8)[:, None]
            records = [np.zeros_like(first), first, rows] if layout is CIFAR100 else [first, rows]
            (root / f"{name}.bin").write_bytes(np.concatenate(records, axis=1).tobytes())
        else:
            content = {b"data": rows, layout.labels_key.encode(): labels, b"filenames": [b"a.png"] * count}
            (root / name).write_bytes(pickle.dumps(content, protocol=protocol))
    names = [f"class{number}" for number in range(layout.num_classes)]
    (root / layout.names_file[0]).write_text("\n".join(names))
    (root / layout.names_file[1]).write_bytes(pickle.dumps({layout.names_key: names}, protocol=protocol))
    return root
