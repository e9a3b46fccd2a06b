"""`edgekd schema`: the JSON Schema of recipes, for editors."""

from __future__ import annotations

import typer


def command() -> None:
    """Print the JSON Schema of recipes; point your editor's YAML support at it."""
    import json

    from edgekd.pipeline.recipe_schema import recipe_schema

    typer.echo(json.dumps(recipe_schema(), indent=2))
