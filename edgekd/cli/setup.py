"""`edgekd setup`: the environment of a converter that must not stand beside edgekd."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    backend: Annotated[str, typer.Argument(help="A backend with a converter of its own: litert.")],
) -> None:
    """Make the environment in which a backend's heavy converter runs, apart from edgekd's own.

    It lies in the user's cache folder, is made under another name and takes its place when it is whole:
    interrupted, what was there before stays. What is needed on a device is another matter: `edgekd device
    setup`.

        edgekd setup litert
    """
    from edgekd.backends.catalogue import BACKENDS

    made = BACKENDS.load(backend).make_environment(lambda line: typer.echo(line, err=True))
    typer.echo(made)
