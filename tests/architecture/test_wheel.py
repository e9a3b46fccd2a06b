from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_carries_every_shipped_recipe_and_model(names: set[str]) -> None:
    for kind in ("pipelines", "models"):
        files = [p for p in (ROOT / kind).rglob("*") if p.is_file()]
        assert files
        for path in files:
            assert f"edgekd/_shipped/{kind}/{path.relative_to(ROOT / kind).as_posix()}" in names


def test_the_wheel_carries_the_catalogue_of_methods(names: set[str]) -> None:
    assert "edgekd/catalogue.yaml" in names


def test_the_wheel_carries_the_report_s_templates_and_no_tests(names: set[str]) -> None:
    assert any(name.startswith("edgekd/report/templates/") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)


def test_the_base_install_asks_for_nothing_heavy(names: set[str]) -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = " ".join(project["dependencies"])
    assert not any(heavy in base for heavy in ("torch", "sklearn", "scikit", "optuna", "plotly"))
    assert "torch" in " ".join(project["optional-dependencies"]["train"])
