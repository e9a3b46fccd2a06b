"""`edgekd bench`: is this model faster than that one?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgekd.cli.options import DEFAULT_STORE, JsonOption, StoreOption, WaitOption, waiting_for


def command(
    models: Annotated[
        list[Path],
        typer.Argument(
            help="Two or more files of any backend (.onnx, .xml, .pte, ...); the first is the baseline."
        ),
    ],
    target: Annotated[str, typer.Option(help="Where: a name of edgekd-devices.yaml, or local.")] = "local",
    profile: Annotated[
        str, typer.Option("--profile", "--protocol", help="smoke, rapid, quick, normal or mlperf.")
    ] = "quick",
    baseline: Annotated[
        str | None, typer.Option(help="The model that the others are compared with; default: the first.")
    ] = None,
    backend: Annotated[
        list[str],
        typer.Option(
            help="In whose runtime a file runs that several take, as .onnx (onnx, tensorrt); default: onnx. "
            "Several: in each of them."
        ),
    ] = [],  # noqa: B006 - typer reads it, and nothing changes it
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            "--evalset",
            help="Time on real images: a folder of image files, or one with images.npy (uint8 [N,H,W,C]). "
            "Default: random numbers.",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the runtime; default: the target's.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=2, help="Fresh processes; default: the profile's, which is 5.")
    ] = None,
    until_decided: Annotated[
        bool,
        typer.Option(
            "--until-decided",
            help="Add as many processes again and again until every pair is decided, up to 20 in all. Every "
            "look is judged so much more strictly that looking often claims nothing more often.",
        ),
    ] = False,
    expect: Annotated[
        Literal["faster", "not-slower"] | None,
        typer.Option(help="What every pair must show; decides the exit code."),
    ] = None,
    wait: WaitOption = None,
    store: StoreOption = DEFAULT_STORE,
    json_: JsonOption = False,
) -> int:
    """Time files side by side, each in its own runtime, and say which is faster, or that it cannot be told.

    The suffix tells whose file it is; `edgekd list backends` names the formats. Needs no torch.

    All models are timed in every round of every process, so that what disturbs one disturbs all. A pair is
    `faster` or `slower` only if the interval over processes excludes 1 and the difference is at least 1 %;
    everything else is `cannot tell`, with the number of processes that would decide it.
    An interrupted command goes on where it was when it is given again.

    Exit code: 0 the comparison was made. With --expect: 0 every pair is as expected (`not-slower`: a loss of
    1 % is excluded), 1 one is not (`faster`: a gain of 1 % is excluded), 3 it cannot be told.
    """
    import json

    from edgekd.cli.display import display
    from edgekd.pipeline.bench import Bench, find_target, protocol_of, run_bench
    from edgekd.pipeline.bench_files import find_baseline, name_models
    from edgekd.report.comparison import comparison_text
    from edgekd.report.render import encodable
    from edgekd.store.store import Store

    named = name_models(models, backend)
    bench = Bench(
        models=named,
        baseline=find_baseline(baseline, named),
        target=find_target(target, threads),
        protocol=protocol_of(profile, processes),
        given=images,
        until_decided=until_decided,
        expected=expect,
    )
    kept = Store(store) if (store / "layout.json").is_file() else None
    with display(quiet=json_) as listener, waiting_for(wait):
        result = run_bench(bench, kept, listener)
    if json_:
        typer.echo(json.dumps(result.as_data(), indent=2, allow_nan=False))
        return result.exit_code
    for name, changes in result.changes.items():
        typer.echo(f"{name} was changed to be timed: {'; '.join(changes)}", err=True)
    text = comparison_text(
        result.comparisons,
        result.measurements,
        design=bench.design,
        device=result.device,
        target=bench.target.name,
        profile=bench.protocol.name,
        cap=bench.protocol.most_processes,
    )
    typer.echo(encodable(text), nl=False)
    return result.exit_code
