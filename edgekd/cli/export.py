"""`edgekd export`: the student of a recipe as an artifact for every runtime, compared if asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd.cli.options import (
    DEFAULT_STORE,
    DEFAULT_THREADS,
    DeviceOption,
    JsonOption,
    MaxTimeOption,
    QuietOption,
    RecipeArgument,
    SetOption,
    StoreOption,
    ThreadsOption,
    WaitOption,
    waiting_for,
)

if TYPE_CHECKING:
    from edgekd.pipeline.exporting import ExportedFile


def command(
    recipe: RecipeArgument,
    backends: Annotated[
        str,
        typer.Option(help="Names with commas between (`edgekd list backends`), or `installed` for all here."),
    ] = "installed",
    beside: Annotated[
        str,
        typer.Option(
            help="Precisions in which every backend also gets the float student: `fp16`, `bf16`, `fp32`."
        ),
    ] = "",
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Measure all on the recipe's targets: accuracy, same answers, latency, memory, load, size.",
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also copy the artifacts into this folder.")
    ] = None,
    set_: SetOption = None,
    max_time: MaxTimeOption = None,
    wait: WaitOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = DEFAULT_THREADS,
    store: StoreOption = DEFAULT_STORE,
    quiet: QuietOption = False,
    json_: JsonOption = False,
) -> int:
    """Export a recipe's student for several runtimes; with --compare, measure them side by side.

    What was trained is taken from the store; what was not is trained first. The recipe's own backend comes
    first and stays what ships. A comparison is a run like any other, with a report that shows all runtimes;
    its exit code is 0 whatever the gate says, 4 when a target is lost. A runtime that is not on a target is
    told, not measured, and no error.

        edgekd export quickstart --compare
        edgekd export recipe.yaml --backends onnx,openvino --beside fp16 --out artifacts
    """
    from dataclasses import replace

    from edgekd.cli.display import display
    from edgekd.cli.run import parse_duration
    from edgekd.pipeline.exporting import copy_out, exported_files, only_exports, plan_of_exports
    from edgekd.pipeline.run import run
    from edgekd.pipeline.surroundings import Settings
    from edgekd.pipeline.validation import check_recipe
    from edgekd.report.render import render
    from edgekd.store.store import Store

    plan = plan_of_exports(recipe, backends=_words(backends), beside=_words(beside), overrides=set_ or ())
    check_recipe(plan)
    settings = Settings(device=device, threads=threads, max_seconds=parse_duration(max_time))
    if not compare:
        plan = only_exports(plan)
        settings = replace(settings, until=plan.steps[-1].name)
    with waiting_for(wait), display(quiet=quiet or json_) as listener:
        outcome = run(plan, Store(store), settings, [listener])
    files = exported_files(outcome.record, outcome.folder)
    copies = [] if out is None else copy_out(files, out)
    reports = render(outcome.folder, outcome.folder / "report") if outcome.verdict is not None else {}
    if json_:
        _print_json(outcome.folder, files, copies, reports)
        return _exit_code(outcome.lost)
    typer.echo("\n".join(_lines(files, copies)))
    if outcome.verdict is not None:
        typer.echo("\n".join(["", *_compared(outcome.folder), "", f"report: {reports['html']}"]))
    return _exit_code(outcome.lost)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _exit_code(lost: tuple[str, ...]) -> int:
    from edgekd.core.errors import TargetError

    return TargetError.exit_code if lost else 0


def _lines(files: list[ExportedFile], copies: list[Path]) -> Iterator[str]:
    from edgekd.report.formatting import show

    for one in files:
        if one.not_executed is not None:
            told = f"not executed: {one.not_executed}"
        else:
            told = "" if one.agreement is None else f"answers {one.agreement:.2%} of val as torch does"
        yield f"{one.backend} {one.precision}, {show('size_bytes', one.size_bytes)}: {told}"
        yield f"  {one.files[0]}"
    yield from (f"copied: {path}" for path in copies)


def _compared(folder: Path) -> Iterator[str]:
    from edgekd.report.collect import facts_of
    from edgekd.report.terminal import printable, runtime_lines

    groups = facts_of(folder).runtimes
    for group in groups:
        yield from map(printable, runtime_lines(group))
    if not groups:
        yield "nothing to compare: one backend, one precision; see `edgekd list backends`, `--beside fp16`"


def _print_json(
    folder: Path, files: list[ExportedFile], copies: list[Path], reports: dict[str, Path]
) -> None:
    import json
    from dataclasses import asdict

    from edgekd.report.collect import facts_of

    compared: list[Any] = [asdict(group) for group in facts_of(folder).runtimes] if reports else []
    content = {
        "run": str(folder),
        "artifacts": [{**asdict(one), "files": [str(path) for path in one.files]} for one in files],
        "copies": [str(path) for path in copies],
        "compared": compared,
        "report": {name: str(path) for name, path in reports.items()},
    }
    typer.echo(json.dumps(content, indent=2, allow_nan=False))
