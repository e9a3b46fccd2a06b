"""`edgekd measure`: measure a run, here or made elsewhere, or a bundle, on this machine or on targets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.cli.options import DEFAULT_STORE, JsonOption, StoreOption, WaitOption, waiting_for

if TYPE_CHECKING:
    from edgekd.pipeline.further import Wish

_FURTHER = "Instead of a session"


def command(
    what: Annotated[
        str | None,
        typer.Argument(
            help="A run (folder or recipe name), a folder that `edgekd run --bundle` made, or a bundle's; "
            "default: latest run."
        ),
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Where; repeatable; default: the run's targets, or local.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="smoke, rapid, quick, normal or mlperf; default: the recipe's, or quick."),
    ] = None,
    evalset: Annotated[
        str | None,
        typer.Option(help="For a bundle: a folder with images.npy (uint8 [N,H,W,C]) and labels.npy."),
    ] = None,
    row: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=_FURTHER,
            help="Of a run: which artifact; repeatable; default: the one that ships.",
        ),
    ] = None,
    soak: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_FURTHER,
            metavar="DURATION",
            help="Run without a pause for so long (`10m`): the last minute's median / the first one's, and "
            "when the device says that it throttled. A single process, so without an interval.",
        ),
    ] = None,
    offline: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_FURTHER,
            min=1,
            metavar="BATCH",
            help="Images a second in batches of this size, ready before timing. Needs a graph whose batch is "
            "free (edgekd's own are).",
        ),
    ] = None,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            "--layers",
            rich_help_panel=_FURTHER,
            help="Time of every kernel, from a profiled session of its own. A table to read, never judged.",
        ),
    ] = False,
    sweep: Annotated[
        bool,
        typer.Option(
            "--sweep",
            rich_help_panel=_FURTHER,
            help="p50 by number of threads and by cores (each cluster of big.LITTLE). Settings take turns; "
            "rows are not paired.",
        ),
    ] = False,
    end_to_end: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=_FURTHER,
            metavar="DIR",
            help="Decode, resize, normalize and infer the image files below DIR on the device (the first 64 "
            "by name), and compare its resizing with the one that evaluation sets are made by.",
        ),
    ] = None,
    loadgen: Annotated[
        bool,
        typer.Option(
            "--loadgen",
            rich_help_panel=_FURTHER,
            help="Let MLCommons' LoadGen drive the artifact, on this machine only (extra `loadgen`). No "
            "MLPerf result.",
        ),
    ] = False,
    wait: WaitOption = None,
    store: StoreOption = DEFAULT_STORE,
    json_: JsonOption = False,
) -> None:
    """Measure the artifacts of a run, or of a bundle, in one session. Needs no torch.

    A run's measurements are replaced, so that `edgekd gate` and `edgekd report` read the new ones. With an
    option that asks for something else, only that is measured, and put beside the session's measurements.

    A folder OUT of `edgekd run --bundle` gets a sealed session for each target, in OUT/measurements: copy
    those of several machines together, then judge them with `edgekd gate OUT`.

    Interrupted, the same command goes on where it was; after one that came to its end it measures anew.
    """
    from edgekd.cli.run import parse_duration
    from edgekd.pipeline.further import Wish

    wish = Wish(
        soak_s=parse_duration(soak, hint="--soak"),
        batch=offline,
        layers=profile,
        sweep=sweep,
        end_to_end=end_to_end,
        loadgen=loadgen,
    )
    with waiting_for(wait):
        if wish:
            _measure_further(Path(store), what, target, protocol, evalset, row or [], wish, json_)
        else:
            _measure_session(Path(store), what, target, protocol, evalset, row or [], json_)


def _measure_session(
    store: Path,
    what: str | None,
    target: list[str] | None,
    protocol: str | None,
    evalset: str | None,
    row: list[str],
    json_: bool,
) -> None:
    from edgekd.cli.display import display
    from edgekd.pipeline.remeasure import remeasure
    from edgekd.store.store import Store

    if row:
        raise typer.BadParameter("a session measures every row", param_hint="--row")
    with display(quiet=json_) as listener:
        measurements = remeasure(Store(store), what, target, protocol, evalset, listener)
    for m in measurements:
        if json_:
            typer.echo(m.model_dump_json())
        elif m.against is None:
            value = f"{m.value:.5g} {m.unit}" if m.value is not None else f"not measured: {m.not_measured}"
            typer.echo(f"{m.target:<8} {m.subject.name:<12} {m.quantity:<20} {value}")


def _measure_further(
    store: Path,
    what: str | None,
    target: list[str] | None,
    protocol: str | None,
    evalset: str | None,
    row: list[str],
    wish: Wish,
    json_: bool,
) -> None:
    import json

    from edgekd.cli.display import display
    from edgekd.pipeline.further import measure_further
    from edgekd.report.further import further_text
    from edgekd.report.render import encodable
    from edgekd.store.store import Store

    with display(quiet=json_) as listener:
        found = measure_further(Store(store), what, target, protocol, evalset, row, wish, listener)
    if json_:
        typer.echo(json.dumps(found.as_data(), indent=2, allow_nan=False))
        return
    typer.echo(encodable(further_text(found.measurements, found.tables)))
    typer.echo(f"raw results: {found.folder}", err=True)
