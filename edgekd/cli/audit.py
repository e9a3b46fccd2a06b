"""`edgekd audit`: somebody else's ONNX classifier through the same measurements and the same gate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.cli.options import (
    DEFAULT_STORE,
    FreshOption,
    JsonOption,
    QuietOption,
    StoreOption,
    WaitOption,
    waiting_for,
)

if TYPE_CHECKING:
    from edgekd.pipeline.audit import Audited
    from edgekd.pipeline.audit_spec import AuditSpec


def command(
    model: Annotated[Path | None, typer.Argument(help="The ONNX file.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Test images: a folder `<class>/<image>`, an .npz (images, labels), a folder with "
            "images.npy and labels.npy, or a recipe (.yaml)."
        ),
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Where to measure; repeatable; default: local.")
    ] = None,
    spec: Annotated[
        str | None, typer.Option(help="What the model takes and gives, and the limits; see --example.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one key of it: `--set gate.accuracy=95%`. Repeatable."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Another ONNX file, measured beside it on the same images.")
    ] = None,
    against_spec: Annotated[
        str | None, typer.Option(help="The other file's specification; default: the same.")
    ] = None,
    train_data: Annotated[
        str | None, typer.Option(help="What it was trained on: test images that are in it are found.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(help="Of the ONNX file; with any other nothing is measured.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="smoke, rapid, quick, normal or mlperf; default: quick.")
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(
            help="Choose a profile that fits (`5m`), and end resumably when the time is up; exit code 75."
        ),
    ] = None,
    wait: WaitOption = None,
    example: Annotated[bool, typer.Option("--example", help="Print a commented specification.")] = False,
    fresh: FreshOption = False,
    store: StoreOption = DEFAULT_STORE,
    quiet: QuietOption = False,
    json_: JsonOption = False,
) -> int:
    """Measure, check and judge anyone's ONNX classifier. Trains nothing; needs no torch.

    Before judging, the answers are looked at: accuracy near guessing, another preprocessing or order of
    classes that scores clearly better, NaN, dead classes, copies, leaks. With such a finding nothing passes.
    Without limits (`gate:` or --set) the verdict is inconclusive: the facts are measured, nothing was asked.
    `edgekd gate`, `report`, `show` and `history` read what it leaves. Exit code: 0 pass, 1 fail,
    3 inconclusive.
    """
    from edgekd.pipeline.audit_spec import EXAMPLE

    if example:
        typer.echo(EXAMPLE, nl=False)
        return 0
    if model is None or data is None:
        raise typer.BadParameter("name the model and its test images: `edgekd audit model.onnx --data DIR`")
    from edgekd.cli.display import display
    from edgekd.cli.run import parse_duration
    from edgekd.pipeline.audit import Request, audit
    from edgekd.store.store import Store

    changes = [*(set_ or ()), *_as_changes(sha256, protocol)]
    chosen = _spec(spec, changes)
    other = None if against is None else (against, _other_spec(against_spec, chosen))
    request = Request(
        model=model,
        data=data,
        spec=chosen,
        targets=tuple(target or ["local"]),
        against=other,
        train_data=train_data,
        max_seconds=parse_duration(time, hint="--time"),
        fresh=fresh,
    )
    with display(quiet=quiet or json_) as listener, waiting_for(wait):
        audited = audit(request, Store(store), [listener])
    _tell(audited, quiet=quiet, json_=json_)
    return audited.exit_code


def _as_changes(sha256: str | None, protocol: str | None) -> list[str]:
    given = {"sha256": sha256 and sha256.lower(), "protocol": protocol}
    return [f"{key}='{value}'" for key, value in given.items() if value is not None]


def _spec(file: str | None, changes: list[str]) -> AuditSpec:
    from edgekd.pipeline.audit_spec import load_spec

    return load_spec(file, changes)


def _other_spec(file: str | None, chosen: AuditSpec) -> AuditSpec:
    """The other model's own, or the same but for what is the audited file's alone."""
    if file is not None:
        return _spec(file, [])
    return chosen.model_copy(update={"sha256": None})


def _tell(audited: Audited, *, quiet: bool, json_: bool) -> None:
    import json

    from edgekd.cli.display import print_outcome
    from edgekd.report.render import render

    reports = render(audited.folder, audited.folder / "report")
    if json_:
        told = {
            "run": str(audited.folder),
            "verdict": audited.verdict.model_dump(mode="json"),
            "findings": [finding.model_dump(mode="json") for finding in audited.record.findings],
            "reports": {name: str(path) for name, path in reports.items()},
        }
        typer.echo(json.dumps(told))
        return
    if quiet:
        typer.echo(audited.verdict.outcome)
        return
    print_outcome(audited.folder)
    if not any(result.finding is None for result in audited.verdict.results):
        typer.echo("no limits were given, so nothing passes: `--set gate.accuracy=95%`, or `gate:` in --spec")
    typer.echo(f"report: {reports['html']}")
