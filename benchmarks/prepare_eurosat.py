"""Unpack the shared EuroSAT RGB subset to an image folder, which `image_folder` reads.

    python benchmarks/prepare_eurosat.py ../shared/data/eurosat-rgb-7500 data/eurosat
    data: {source: image_folder, root: data/eurosat}

Writes train/, val/ and test/ (5,250 / 750 / 1,500 JPEG files of 64x64 pixels in 10 classes).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from unpacking import members, verified

from edgekd.core.errors import DataError, EdgekdError

ARCHIVE = "eurosat_rgb_7500.zip"
SHA256 = "5d7d25fd24d6c4bd04af67d745976ce3360fa2eb48b31acc9274b9502d9176e6"
ALLOWED = r"(train|val|test)/[A-Za-z]+/[A-Za-z]+_\d+\.jpg"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help=f"folder with {ARCHIVE}, or the file itself")
    parser.add_argument("out", type=Path, help="folder to write train/, val/ and test/ to")
    arguments = parser.parse_args()
    try:
        prepare(arguments.path, arguments.out)
    except EdgekdError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"wrote {arguments.out}; use it with  data: {{source: image_folder, root: {arguments.out}}}")
    return 0


def prepare(path: Path, out: Path) -> None:
    """Unpack beside `out`, then rename; raises `DataError` when `out` exists already."""
    if out.exists() and any(out.iterdir()):
        raise DataError("exists already and is not empty", where=str(out), fix="choose another folder")
    archive = verified(path / ARCHIVE if path.is_dir() else path, SHA256)
    partial = out.with_name(f".{out.name}.partial")
    for name, content in members(archive, ALLOWED):
        target = partial / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    if out.exists():
        out.rmdir()
    partial.rename(out)


if __name__ == "__main__":
    raise SystemExit(main())
