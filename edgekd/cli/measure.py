"""`edgekd measure`: measure a run or a bundle again, on this machine or on its targets."""

from __future__ import annotations

from typing import Annotated

import typer

from edgekd.cli.options import DEFAULT_STORE, JsonOption, StoreOption


def command(
    what: Annotated[
        str | None,
        typer.Argument(help="A run (folder or recipe name), or a bundle's folder; default: latest run."),
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Where; repeatable; default: the run's targets, or local.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="smoke, rapid, quick, normal or mlperf; default: the recipe's.")
    ] = None,
    evalset: Annotated[
        str | None,
        typer.Option(help="For a bundle: a folder with images.npy (uint8 [N,H,W,C]) and labels.npy."),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    json_: JsonOption = False,
) -> None:
    """Measure the artifacts of a run, or of a bundle, in one session. Needs no torch.

    A run's measurements are replaced, so that `edgekd gate` and `edgekd report` read the new ones.
    """
    from edgekd.cli.display import display
    from edgekd.pipeline.remeasure import remeasure
    from edgekd.store.store import Store

    with display(quiet=json_) as listener:
        measurements = remeasure(Store(store), what, target, protocol, evalset, listener)
    for m in measurements:
        if json_:
            typer.echo(m.model_dump_json())
        elif m.against is None:
            value = f"{m.value:.5g} {m.unit}" if m.value is not None else f"not measured: {m.not_measured}"
            typer.echo(f"{m.target:<8} {m.subject.name:<12} {m.quantity:<20} {value}")
