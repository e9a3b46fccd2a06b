"""`edgekd doctor`: what this machine can do, and what cannot be measured here and why."""

from __future__ import annotations

import typer

from edgekd.cli.options import JsonOption


def command(json_: JsonOption = False) -> None:
    """Show cores, instruction set, governor, runtimes and extras found, and what cannot be measured here."""
    import json

    from edgekd.pipeline.diagnosis import diagnose

    found = diagnose()
    if json_:
        typer.echo(json.dumps(found.as_data(), indent=2))
        return
    for title, lines in found.sections.items():
        typer.echo(title)
        for line in lines:
            typer.echo(f"  {line}")
