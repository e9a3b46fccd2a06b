"""Reports of a run or of a bundle, written into a folder in the formats asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekd.core.durable import write_text
from edgekd.core.errors import UsageError, close_names
from edgekd.report.collect import facts_of
from edgekd.report.facts import Facts
from edgekd.report.redact import redact as redacted
from edgekd.report.terminal import plain_text

FORMATS = {
    "html": "report.html",
    "json": "report.json",
    "md": "report.md",
    "junit": "junit.xml",
    "summary": "summary.md",
}

DEFAULT_FORMATS = ("html", "json", "md", "junit")


def render(
    run_folder: Path,
    out: Path | None = None,
    formats: Sequence[str] = DEFAULT_FORMATS,
    redact: bool = False,
) -> dict[str, Path]:
    """Write the reports of a run or bundle into `out` (by default its own `report/`); format -> file.

    Raises `UsageError` for an unknown format or a folder of another kind, `StoreError` when it cannot write.
    """
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"`{name}` is not a report format{close_names(name, FORMATS)}", choices=FORMATS)
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError("this is a file; reports go into a folder", where=str(out))
    facts = facts_of(run_folder)
    facts = redacted(facts) if redact else facts
    folder = out if out is not None else run_folder / "report"
    written = {}
    for name in formats:
        written[name] = folder / FORMATS[name]
        write_text(written[name], encodable(render_as(name, facts)))
    return written


def render_as(name: str, facts: Facts) -> str:
    """One format's text; a renderer is imported when it is asked for."""
    if name == "html":
        from edgekd.report.html import render_html

        return render_html(facts)
    if name == "json":
        from edgekd.report.json_report import render_json

        return render_json(facts)
    if name == "md":
        from edgekd.report.markdown import render_markdown

        return render_markdown(facts)
    if name == "junit":
        from edgekd.report.junit import render_junit

        return render_junit(facts)
    from edgekd.report.github_summary import render_github_summary

    return render_github_summary(facts)


def encodable(text: str) -> str:
    """The text without lone surrogates, which JSON may carry and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


def summarize(run_folder: Path) -> str:
    """The verdict, its limits and the waterfall as plain text for a terminal."""
    return encodable(plain_text(facts_of(run_folder)))
