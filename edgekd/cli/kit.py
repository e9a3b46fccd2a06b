"""`edgekd kit`: TensorRT on a device that edgekd does not reach."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.cli.options import DEFAULT_STORE, JsonOption, RunArgument, StoreOption

if TYPE_CHECKING:
    from edgekd.backends.tensorrt.kit_record import KitRecord

app = typer.Typer(
    no_args_is_help=True,
    help="TensorRT on a device out of reach: a folder that is run there, and what comes back of it.",
)


@app.command("write")
def write(
    run: RunArgument = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder to make; new or empty.")
    ] = Path("kit"),
    row: Annotated[
        str | None,
        typer.Option(help="Which artifact, by its row's name; default: what ships, or the only one."),
    ] = None,
    images: Annotated[
        int, typer.Option(help="How many images its answers are compared on; they go along. At most 64.")
    ] = 16,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write a folder that builds, checks and times a run's TensorRT artifact where edgekd is not.

    It holds the artifact, a few preprocessed images (no labels or names) and the logits that ONNX Runtime
    gives without any optimization. Copy it to a machine with TensorRT 10 or 11 and trtexec, run `sh run.sh`
    there, bring the folder back, and `edgekd kit read FOLDER` puts what it found beside the verdict. The
    images are test images of a finished run, and validation images of one that only exported.

        edgekd kit write quickstart --out kit
        scp -r kit jetson: && ssh jetson 'sh kit/run.sh' && scp jetson:kit/result.json kit/
        edgekd kit read kit quickstart
    """
    from edgekd.pipeline.kit import write as write_kit
    from edgekd.store.store import Store

    made = write_kit(Store(store), run, out, row=row, images=images)
    typer.echo(
        f"{made.folder}: {made.artifact} ({made.precision}), {made.images} {made.split} images in it\n"
        f"on the device: sh {made.folder.name}/run.sh; back here: edgekd kit read {made.folder}"
    )


@app.command("read")
def read(
    folder: Annotated[Path, typer.Argument(help="The kit's folder, with the result.json of the device.")],
    run: RunArgument = None,
    store: StoreOption = DEFAULT_STORE,
    json_: JsonOption = False,
) -> None:
    """Check a kit's result and keep it with the run, so that `edgekd report` shows it.

    Nothing in it is believed: its form, sizes and digests are checked, the kit must be of an artifact of this
    run, and its logits are compared anew with what the artifact answers here. One result is kept for each
    device. The gate never judges it: it stands beside the verdict.
    """
    from edgekd.pipeline.kit import read as read_kit
    from edgekd.report.kit import kit_lines
    from edgekd.report.terminal import printable
    from edgekd.store.store import Store

    stored = read_kit(Store(store), folder, run)
    if json_:
        typer.echo(_json(stored.path, stored.record))
        return
    typer.echo("\n".join(map(printable, kit_lines(stored.record))))
    typer.echo(f"kept: {stored.path}; `edgekd report` shows it")


def _json(path: Path, record: KitRecord) -> str:
    import json

    content = {"kept": str(path), **record.model_dump(mode="json")}
    return json.dumps(content, indent=2, allow_nan=False)
