"""Unpack the shared lossless CIFAR-10 (WebP mosaics) to its binary version, which `cifar10` reads.

    python benchmarks/prepare_cifar10.py ../shared/data/cifar10-lossless data/cifar10
    data: {source: cifar10, root: data/cifar10}

Writes data_batch_1..5.bin (50,000 images, official order), test_batch.bin (the first 1,000 test images: the
rest were not to be had lossless) and batches.meta.txt. Needs Pillow with WebP.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from unpacking import members, verified

from edgekd.core.durable import write_bytes, write_text
from edgekd.core.errors import DataError, EdgekdError
from edgekd.data.cifar_files import CIFAR10, to_records

SHA256 = {
    "cifar10_a.zip": "df435a5248cdac26f280d4254334792597124934539ffecac681ea7846dcb1e5",
    "cifar10_b.zip": "78de2793d232ff382e7ae6edc827ab9cce1e527d06405712e1c9c6505fc93dc2",
    "labels.json": "c507e6463ef614cfe5aa3dc2bef5157946f558a25bc11ddff349b849f7d89c0a",
}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ROWS, COLUMNS, SIDE = 25, 40, 32
ALLOWED = r"(train|test)/b\d\d\.webp"

Pixels = npt.NDArray[np.uint8]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="folder with cifar10_a.zip, cifar10_b.zip and labels.json")
    parser.add_argument("out", type=Path, help="folder to write the binary version to")
    arguments = parser.parse_args()
    try:
        prepare(arguments.path, arguments.out)
    except EdgekdError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"wrote {arguments.out}; use it with  data: {{source: cifar10, root: {arguments.out}}}")
    return 0


def prepare(path: Path, out: Path) -> None:
    """Raises `DataError` for files that are missing or not the expected ones."""
    labels = json.loads(verified(path / "labels.json", SHA256["labels.json"]).read_text())
    mosaics: dict[str, Pixels] = {}
    for part in ("cifar10_a.zip", "cifar10_b.zip"):
        for name, content in members(verified(path / part, SHA256[part]), ALLOWED):
            mosaics[name] = tiles(content)
    train = np.concatenate([m for name, m in sorted(mosaics.items()) if name.startswith("train/")])
    test = np.concatenate([m for name, m in sorted(mosaics.items()) if name.startswith("test/")])
    records = to_records(train, np.array(labels["train"], np.uint8))
    for name, batch in zip(CIFAR10.train, np.split(records, len(CIFAR10.train)), strict=True):
        write_bytes(out / f"{name}.bin", batch.tobytes())
    test_records = to_records(test, np.array(labels["test"][: len(test)], np.uint8))
    write_bytes(out / f"{CIFAR10.test}.bin", test_records.tobytes())
    write_text(out / CIFAR10.names_file[0], "\n".join(CLASSES) + "\n")


def tiles(content: bytes) -> Pixels:
    """The 1,000 images of one mosaic, uint8 `[1000, 32, 32, 3]`, row by row."""
    mosaic = np.asarray(Image.open(io.BytesIO(content), formats=["WEBP"]).convert("RGB"))
    if mosaic.shape != (ROWS * SIDE, COLUMNS * SIDE, 3):
        raise DataError(f"a mosaic of shape {mosaic.shape}")
    grid = mosaic.reshape(ROWS, SIDE, COLUMNS, SIDE, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(grid).reshape(-1, SIDE, SIDE, 3)


if __name__ == "__main__":
    raise SystemExit(main())
