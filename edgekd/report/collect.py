"""The facts of a run or of a bundle, gathered from its folder."""

from __future__ import annotations

from pathlib import Path

from edgekd.report.ablation import ablations_of
from edgekd.report.caveats import caveats_of, not_measured_of
from edgekd.report.checks import checks_of
from edgekd.report.choice import choice_of
from edgekd.report.classes import classes_of
from edgekd.report.controls import controls_of
from edgekd.report.curves import curves_of
from edgekd.report.facts import Facts, StepFact
from edgekd.report.judged import limits_of
from edgekd.report.kit import kit_problems, kits_of
from edgekd.report.predictions import Predictions
from edgekd.report.reading import Source, read
from edgekd.report.runtimes import runtimes_of
from edgekd.report.samples import distributions_of
from edgekd.report.waterfall import baseline_name, waterfall


def facts_of(folder: Path) -> Facts:
    """Raises `UsageError` when the folder is neither a run nor a bundle, or is damaged."""
    return collect(read(folder))


def collect(source: Source) -> Facts:
    record = source.record
    predictions = Predictions(source)
    return Facts(
        recipe=record.recipe,
        run_id=record.run_id,
        started_at=record.started_at,
        finished_at=record.finished_at,
        seed=record.seed,
        outcome=source.verdict.outcome if source.verdict else None,
        limits=limits_of(source),
        targets=waterfall(source, predictions),
        controls=controls_of(source, predictions),
        curves=curves_of(source),
        distributions=distributions_of(source),
        classes=classes_of(source, predictions),
        caveats=(*caveats_of(source), *kit_problems(source)),
        not_measured=not_measured_of(source),
        steps=_steps(source),
        provenance=record.provenance,
        command=tuple(record.command),
        recipe_text=source.recipe_text,
        ablations=ablations_of(source, predictions),
        runtimes=runtimes_of(source),
        choice=choice_of(source),
        checks=checks_of(source),
        kits=kits_of(source),
        baseline=baseline_name(source),
        made=any(step.inputs for step in record.steps),
    )


def _steps(source: Source) -> tuple[StepFact, ...]:
    return tuple(
        StepFact(
            name=step.name,
            stage=step.stage,
            status=step.status,
            control=step.control,
            key=step.key,
            digest=step.digest,
            seconds=step.seconds,
            facts=step.facts,
        )
        for step in source.record.steps
    )
