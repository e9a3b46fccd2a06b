from __future__ import annotations

import json
from pathlib import Path

from edgekd.pipeline.recipe_schema import recipe_schema
from tests.cli.running import edgekd


def test_it_prints_the_schema_of_recipes_and_nothing_else(tmp_path: Path) -> None:
    done = edgekd("schema", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == recipe_schema()
