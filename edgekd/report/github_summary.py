"""A few lines for a job summary: the verdict, its limits and what would decide them."""

from __future__ import annotations

from edgekd.report.facts import Facts
from edgekd.report.judged import verdict_sentence
from edgekd.report.markdown import SIGNS, escape, limits_table


def render_github_summary(facts: Facts) -> str:
    """Markdown for `$GITHUB_STEP_SUMMARY`."""
    head = f"### {SIGNS[facts.outcome]} {escape(facts.recipe)}: {facts.outcome or 'not judged'}"
    controls = [f"- {escape(one.question)} **{one.answer.capitalize()}.**" for one in facts.controls]
    parts = [head, verdict_sentence(facts.outcome, facts.limits), limits_table(facts), "\n".join(controls)]
    return "\n\n".join(part for part in parts if part) + "\n"
