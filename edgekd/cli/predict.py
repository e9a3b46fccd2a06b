"""`edgekd predict`: run a bundle on images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.options import JsonOption


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to show.")] = 1,
    json_: JsonOption = False,
) -> None:
    """Classify images with a bundle's artifact, through the runtime it ships for."""
    import json

    from edgekd.pipeline.bundle import read_bundle
    from edgekd.pipeline.prediction import predict_files

    read = read_bundle(bundle)
    read.verify()
    for prediction in predict_files(read, images, top):
        if json_:
            typer.echo(json.dumps(prediction.as_data()))
        else:
            shown = "  ".join(f"{label} {share:.3f}" for label, share in prediction.classes)
            typer.echo(f"{prediction.file}  {shown}")
