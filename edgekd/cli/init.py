"""`edgekd init`: a first recipe, made from a look at your data, your teacher and your targets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    recipe: Annotated[Path, typer.Argument(help="The recipe file to write.")] = Path("recipe.yaml"),
    data: Annotated[
        str, typer.Option(help="A folder or file of images, or the name of a built-in data set.")
    ] = "digits",
    teacher: Annotated[
        str | None,
        typer.Option(
            help="A weights file (.safetensors, .pt, .pth), an .onnx, a shipped model, or torchvision/NAME. "
            "Default: one is trained."
        ),
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="Architecture of the weights file, as `resnet_cifar:depth=56`.")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Where the artifact will run; repeatable; default local.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Look at the data, the teacher and the targets, and write a recipe that validates."""
    from edgekd.pipeline.first_recipe import write_first_recipe

    for line in write_first_recipe(recipe, data, teacher, network, target or ["local"], force=force):
        typer.echo(line)
