"""Every recipe that the documentation shows loads and plans, and the table of shipped recipes is true."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from edgekd.core.errors import MissingDependencyError
from edgekd.core.shipped import shipped_recipes
from edgekd.pipeline.plan import make_plan
from edgekd.pipeline.recipe import load_recipe
from edgekd.pipeline.validation import check_recipe
from tests.docs.reading import REPOSITORY, Block, all_blocks, text_of

CONTRIBUTED = "contributed"
"""The recipe that needs the examples of CONTRIBUTING.md, which has a test of its own."""

RECIPES = [
    block
    for block in all_blocks()
    if block.language == "yaml" and "steps:" in block.text and block.value("recipe") != CONTRIBUTED
]


@pytest.mark.parametrize("block", RECIPES, ids=lambda block: block.document)
def test_a_recipe_in_the_documentation_validates(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(block.text)
    plan = make_plan(load_recipe("recipe.yaml"))
    for file in {file for step in plan.steps for file in step.config.files()}:
        if not file.is_absolute():
            file.touch()
    try:
        check_recipe(plan)
    except MissingDependencyError as error:
        pytest.skip(error.what)


def test_the_documentation_shows_a_recipe() -> None:
    assert RECIPES


def test_the_table_of_shipped_recipes_is_fresh() -> None:
    rows = []
    for name, path in shipped_recipes().items():
        data = yaml.safe_load(path.read_text())
        source = data.get("data", {}).get("source", "digits")
        rows.append(f"| [{name}]({path.name}) | {data['description']} | `{source}` |")
    table = [line for line in text_of(REPOSITORY / "pipelines" / "README.md").splitlines() if "](" in line]
    shown = [line for line in table if line.startswith("|")]
    assert shown == rows, "pipelines/README.md should hold these rows:\n" + "\n".join(rows)
