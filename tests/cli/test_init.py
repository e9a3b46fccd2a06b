from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.cli.running import edgekd


def _data(folder: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (120, 8, 8), dtype=np.uint8)
    np.savez(folder / "data.npz", x_train=images, y_train=np.arange(120) % 3)


def test_the_recipe_it_writes_validates(tmp_path: Path) -> None:
    _data(tmp_path)
    made = edgekd("init", "mine.yaml", "--data", "data.npz", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "edgekd run mine.yaml" in made.stdout
    checked = edgekd("validate", "mine.yaml", folder=tmp_path)
    assert checked.returncode == 0, checked.stderr


def test_an_existing_recipe_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("mine: true\n")
    done = edgekd("init", "mine.yaml", folder=tmp_path)
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert (tmp_path / "mine.yaml").read_text() == "mine: true\n"


def test_data_that_nothing_reads_shows_what_was_expected(tmp_path: Path) -> None:
    done = edgekd("init", "mine.yaml", "--data", "nowhere", folder=tmp_path)
    assert done.returncode == 2
    assert "image_folder" in done.stderr
    assert not (tmp_path / "mine.yaml").exists()
