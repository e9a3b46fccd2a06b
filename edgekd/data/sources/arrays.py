"""The `arrays` source: your own images as NumPy arrays in one file."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from edgekd.data.assembling import Plan
from edgekd.data.npz_dataset import open_npz
from edgekd.data.paths import existing_file
from edgekd.data.source import Source
from edgekd.data.split import Dataset


class Arrays(Source):
    """An .npz file with `x_train` (uint8 [N, H, W] or [N, H, W, C]) and `y_train` (integers [N]).

    Optional: `x_val`, `y_val`, `x_test`, `y_test`, and `classes` (the class names, text).
    """

    file: Path = Field(description="The .npz file.")
    val: float = Field(0.1, gt=0, lt=1, description="Share held out for val where the file has none.")
    test: float = Field(0.2, gt=0, lt=1, description="Share held out for test where the file has none.")
    limit: int | None = Field(
        None, ge=20, description="Use at most this many images for train and val; test stays whole."
    )
    memory_mb: int = Field(4096, ge=1, description="Refuse a file whose arrays take more memory than this.")

    def read(self, seed: int) -> Dataset:
        where = f"data source `arrays` at {self.file}"
        plan = Plan(seed, self.calibration, self.val, self.test, self.limit)
        return open_npz(existing_file(self.file, where), where, plan, self.memory_mb << 20)
