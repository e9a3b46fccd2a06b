"""Shows a run as it happens: live progress on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.events import Emit

if TYPE_CHECKING:
    from rich.progress import Progress

_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def display(*, quiet: bool = False) -> Iterator[Emit]:
    """Yield the listener for this standard error: a live display, plain lines, or silence."""
    if quiet:
        yield lambda event: None
    elif sys.stderr.isatty():
        with _live() as emit:
            yield emit
    else:
        yield PlainLines()


def print_outcome(run_folder: Path) -> None:
    """The verdict and the waterfall of a run, in color on a terminal."""
    from edgekd.report.collect import facts_of
    from edgekd.report.render import encodable
    from edgekd.report.terminal import panel, plain_text

    facts = facts_of(run_folder)
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(panel(facts))
    else:
        print(encodable(plain_text(facts)))


class PlainLines:
    """One line an event, progress at most every ten seconds."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, event: Mapping[str, Any]) -> None:
        line = describe(event)
        if line is None and self._is_due(event):
            line = f"    {event.get('text', '')} {event['done']}/{event['total']}"
        if line is not None:
            self._last = time.monotonic()
            print(line, file=sys.stderr, flush=True)

    def _is_due(self, event: Mapping[str, Any]) -> bool:
        due = time.monotonic() - self._last > _SECONDS_BETWEEN_LINES
        return due and event["event"] == "progress" and "done" in event


def describe(event: Mapping[str, Any]) -> str | None:
    """An event as a line of text; None for those that only move a progress bar."""
    kind = event["event"]
    if kind == "run":
        return f"{event['recipe']}: {event['num_steps']} steps, then one session that measures everything"
    if kind == "step":
        number = f"[{event['number']}/{event['of']}] " if "number" in event else ""
        return f"{number}{event['step']}" + (f": {event['text']}" if event.get("text") else "")
    if kind == "step_done":
        return f"    {_outcome(event)}"
    if kind in ("note", "retry", "lost"):
        return f"    {event.get('text') or event.get('reason')}"
    if kind == "end":
        return str(event["text"])
    if kind == "progress" and event.get("epoch_end"):
        return f"    {_epoch(event)}"
    return None


def _outcome(event: Mapping[str, Any]) -> str:
    seconds = f" in {event['seconds']:.1f} s" if event.get("status") == "ran" else ""
    facts = event.get("facts", {})
    told = [tell(facts[name]) for name, tell in _FACTS.items() if facts.get(name) is not None]
    return f"{event['status']}{seconds}" + (f": {', '.join(told)}" if told else "")


_FACTS: dict[str, Callable[[Any], str]] = {
    "summary": str,
    "val_accuracy": lambda v: f"val accuracy {v:.2%}",
    "num_parameters": lambda v: f"{v:,} parameters",
    "precision": str,
    "size_bytes": lambda v: f"{v / 1000:.1f} kB",
}


def _epoch(event: Mapping[str, Any]) -> str:
    terms = " ".join(f"{name} {value:.4f}" for name, value in event.get("train", {}).items())
    val = event.get("val_accuracy")
    accuracy = f"  val {val:.2%}" if val is not None else ""
    return f"epoch {event['epoch']}/{event['num_epochs']}  {terms}{accuracy}"


@contextmanager
def _live() -> Iterator[Emit]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield _LiveLines(progress)


class _LiveLines:
    """A line for what is done, and one moving bar for what is going on."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("starting", total=None, text="")

    def __call__(self, event: Mapping[str, Any]) -> None:
        from rich.markup import escape

        kind = event["event"]
        if kind == "progress" and not event.get("epoch_end"):
            self._progress.update(
                self._task, completed=event["done"], total=event["total"], text=escape(event.get("text", ""))
            )
            return
        line = describe(event)
        if kind == "step":
            self._progress.reset(self._task, total=None, description=escape(line or ""), text="")
        if kind == "progress":
            self._progress.update(self._task, text=escape(_epoch(event)))
        elif line is not None:
            style = "bold" if kind in ("run", "step") else "dim" if event.get("status") == "cached" else ""
            self._progress.console.print(escape(line), style=style, highlight=False)
