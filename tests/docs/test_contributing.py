"""The examples of CONTRIBUTING.md, put where they say into a copy of the repository, work."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from textwrap import indent
from typing import TypeGuard

import numpy as np
import pytest

from edgekd.data.catalogue import SOURCES
from edgekd.testing.distill_contract import CHECKS
from tests.cli.running import environment
from tests.docs.reading import REPOSITORY, blocks, text_of
from tests.docs.test_recipes import CONTRIBUTED

pytestmark = [pytest.mark.runs, pytest.mark.timeout(300)]

BLOCKS = blocks(REPOSITORY / "CONTRIBUTING.md")
NAMES = ("logit-standardization", "plain_cnn", "npy_pair", "reference", "wrapped", "halve")
(METHOD,) = (block for block in BLOCKS if str(block.value("file")).startswith("edgekd/distill/methods/"))
_END_OF_LIST = "\n    ],\n"
_END_OF_EXAMPLES = "\n}\n"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with every example in it, as its contributor would have it."""
    folder = tmp_path_factory.mktemp("contributed")
    for name in ("edgekd", "tests", "pipelines", "models"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(REPOSITORY / "pyproject.toml", folder / "pyproject.toml")
    for block in BLOCKS:
        if (file := block.value("file")) is not None:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(block.text)
        if (catalogue := block.value("entry")) is not None:
            _insert(folder / catalogue, block.text, _END_OF_LIST, " " * 8, block.value("under"))
        if (rows := block.value("row")) is not None:
            (folder / rows).write_text((folder / rows).read_text() + block.text)
        if (examples := block.value("example")) is not None:
            _insert(folder / examples, block.text, _END_OF_EXAMPLES, " " * 4)
        if block.value("recipe") == CONTRIBUTED:
            (folder / "contributed.yaml").write_text(block.text)
    return folder


def _insert(file: Path, lines: str, before: str, margin: str, under: str | None = None) -> None:
    """Add `lines` where the text has `before`, or as the first ones of the mapping `under`."""
    text, new = file.read_text(), indent(lines, margin).rstrip("\n")
    place = before if under is None else f'"{under}": {{\n'
    assert place in text
    file.write_text(text.replace(place, f"\n{new}{place}" if under is None else f"{place}{new}\n", 1))


def _python(folder: Path, *arguments: str, path: str | None = None) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(PYTHONPATH=path or str(folder), PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_examples_are_as_lint_wants_them(checkout: Path) -> None:
    files = [str(block.value("file")) for block in BLOCKS if str(block.value("file")).endswith(".py")]
    catalogues = [str(block.value("entry")) for block in BLOCKS if block.value("entry")]
    _python(checkout, "-m", "ruff", "check", "--no-cache", *files, *catalogues)
    _python(checkout, "-m", "ruff", "format", "--no-cache", "--check", *files, *catalogues)


def test_the_groups_of_entry_points_are_those_of_the_registries() -> None:
    named = re.findall(r"`(edgekd\.[a-z]+)`", text_of(REPOSITORY / "CONTRIBUTING.md").split("Groups:")[1])
    code = "".join(path.read_text() for path in (REPOSITORY / "edgekd").rglob("*.py"))
    assert named and set(named) <= set(re.findall(r'group="(edgekd\.[a-z]+)"', code))


def test_every_example_is_listed(checkout: Path) -> None:
    families = {"methods": 0, "networks": 1, "data": 2, "backends": 3, "stages": 5}
    for family, number in families.items():
        rows = json.loads(_python(checkout, "-m", "edgekd", "list", family, "--json"))
        assert NAMES[number] in {row["name"] for row in rows}


def test_the_families_tests_run_on_the_examples_by_themselves(checkout: Path) -> None:
    files = (
        "distill/test_contract.py",
        "distill/test_survey_rows.py",
        "distill/methods",
        "networks/test_catalogue.py",
        "data/test_catalogue.py",
        "data/test_augment.py",
        "backends/test_catalogue.py",
        "targets/test_devices_file.py",
        "pipeline/test_recipe_schema.py",
    )
    chosen = " or ".join((*NAMES, "every_kind_of_target"))
    out = _python(
        checkout,
        *("-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-k", chosen),
        *(f"tests/{file}" for file in files),
    )
    for name in (*NAMES[:4], "halve", "every_kind_of_target"):
        assert f"{name}" in out, f"no test ran on {name}:\n{out}"


def _counted(module: ast.Module) -> int:
    """Lines of code without blank lines, docstrings, imports and the card."""
    lines: set[int] = set()
    for node in module.body:
        targets = [ast.unparse(target) for target in node.targets] if isinstance(node, ast.Assign) else []
        if not isinstance(node, ast.Import | ast.ImportFrom | ast.Expr) and targets != ["CARD"]:
            lines |= {n for each in ast.walk(node) if (n := getattr(each, "lineno", None)) is not None}
            lines -= {each.lineno for each in ast.walk(node) if _is_text(each)}
    return len(lines)


def _is_text(node: ast.AST) -> TypeGuard[ast.Expr]:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def test_a_method_is_ten_lines_beside_its_imports_and_its_card() -> None:
    assert _counted(ast.parse(METHOD.text)) <= 10


def test_a_package_of_ones_own_registers_a_method_and_runs_the_contract_on_it(tmp_path: Path) -> None:
    """The example as `my-method` of an installed package: module, entry point, and the test shown."""
    shown = {block.value("plugin"): block.text for block in BLOCKS if block.value("plugin")}
    points = tomllib.loads(shown["pyproject.toml"])["project"]["entry-points"]
    ((group, ((name, target),)),) = ((group, tuple(names.items())) for group, names in points.items())
    module = tmp_path / (target.partition(":")[0].replace(".", "/") + ".py")
    module.parent.mkdir()
    module.write_text(METHOD.text.replace(NAMES[0], name))
    facts = tmp_path / "my_package-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")
    (tmp_path / "test_my_method.py").write_text(shown["test_my_method.py"])
    path = f"{tmp_path}{os.pathsep}{REPOSITORY}"
    out = _python(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_method.py", path=path)
    assert f"{len(CHECKS)} passed" in out
    told = _python(tmp_path, "-m", "edgekd", "list", "methods", name, path=path)
    assert "plug-ins" in told and "CVPR 2024" in told


def test_the_recipe_of_all_examples_runs(checkout: Path) -> None:
    digits = SOURCES.load("digits")().open(0).train
    np.save(checkout / "images.npy", np.stack(digits.images.get(range(300))))
    np.save(checkout / "labels.npy", digits.labels[:300])
    out = _python(
        checkout,
        *("-m", "edgekd", "run", "contributed.yaml", "--until", "export", "--store", "store", "--json"),
    )
    record = json.loads((Path(json.loads(out)["run"]) / "record.json").read_text())
    steps = {step["name"]: step for step in record["steps"]}
    assert list(steps) == ["teacher", "student", "distill", "halve", "export"]
    assert steps["distill"]["facts"]["methods"] == ["logit-standardization"]
    assert steps["export"]["facts"]["backend"] == "reference"
    assert steps["export"]["facts"]["val_agreement"] == 1.0
