"""The distill stage: train the student with the teacher, and beside it the same student without one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import Field

from edgekd.core.errors import UsageError
from edgekd.core.spec import ModelSpec
from edgekd.distill.settings import MethodUse
from edgekd.stages.context import StageContext
from edgekd.stages.network_check import trial_labels, trial_taps
from edgekd.stages.stage import Control, Input, Inputs, Product, Stage
from edgekd.stages.student import SPEC
from edgekd.stages.training_settings import DistillingConfig, estimate

if TYPE_CHECKING:
    from edgekd.data.source import Source
    from edgekd.distill.program import Program
    from edgekd.networks.model import Model

NO_TEACHER = (MethodUse(name="none"),)
_USUAL_TAPS = [*(f"stage{n}{end}" for n in (1, 2, 3) for end in ("", ":pre")), "embedding", "logits"]
"""What networks by hand have."""


class DistillConfig(DistillingConfig):
    """How the student learns, from whom."""

    student: str | None = Field(None, description="step that gives the student; default: the nearest")
    teachers: list[str] | None = Field(None, description="steps that give the teachers; default: the first")


def run(context: StageContext, config: DistillConfig, inputs: Inputs) -> Product:
    from edgekd.networks.initialize import init_weights
    from edgekd.networks.model import build_model
    from edgekd.stages.model_files import load, save_scored
    from edgekd.stages.training import train

    (student,) = inputs["student"]
    teachers = [load(artifact, trust_code=context.trust_code) for artifact in inputs.get("teachers", ())]
    if student.kind == "architecture":
        spec = ModelSpec.model_validate_json(student.path(SPEC).read_bytes())
        model = build_model(spec, trust_code=context.trust_code, files_root=student.folder)
        init_weights(model.module, context.seed, "student")
    else:
        model = load(student, trust_code=context.trust_code)
    history = train(
        context,
        config,
        model,
        teachers=teachers,
        settings=config.distillation,
        num_epochs=paced_epochs(inputs),
    )
    facts = {
        "history": history,
        "num_epochs": len(history),
        "methods": [use.name for use in config.method],
    }
    left_out = _left_out(config, model, teachers) if config.leave_out else {}
    return save_scored(context, model, {**facts, **left_out})


def _left_out(config: DistillConfig, model: Model, teachers: Sequence[Model]) -> dict[str, Any]:
    """What each term that the student learned without stands for."""
    from edgekd.distill.ablation import ingredients
    from edgekd.stages.training import program_for

    found = ingredients(config.distillation, lambda settings: program_for(settings, model, teachers))
    return {"left_out": [asdict(found[name]) for name in config.leave_out]}


def paced_epochs(inputs: Inputs) -> int | None:
    """A control trains exactly as long as the step it is compared with, also when that had `time:`."""
    return int(inputs["pace"][0].facts["num_epochs"]) if "pace" in inputs else None


def controls(config: DistillConfig) -> Sequence[Control]:
    """The same student, start, batches and number of updates, without a teacher."""
    if config.method == NO_TEACHER:
        return ()
    changes = {"method": NO_TEACHER, "task_weight": None, "leave_out": ()}
    return (Control("control", "undistilled", "same student, no teacher", changes),)


def ablations(config: DistillConfig, known: Mapping[str, Sequence[Any]]) -> Sequence[Control]:
    """The same student, start, batches and number of updates, each without one term of its loss."""
    from edgekd.distill.ablation import learned_from

    if config.method == NO_TEACHER:
        return ()
    program = _trial_program(config, known)
    if program is None:
        raise UsageError(
            "its terms depend on the networks, which are not known before the run",
            fix="name them by hand (`student: {network: ...}`)",
        )
    names = [term.name for term in learned_from(program)]
    if len(names) < 2:
        raise UsageError(
            _too_few(names, [term.name for term in program.terms if term.name not in names]),
            fix="`edgekd run` trains the student without a teacher beside: that is what this term bought",
        )
    return tuple(_without(config, name) for name in names)


def _too_few(names: Sequence[str], others: Sequence[str]) -> str:
    told = f"; {', '.join(others)} weigh nothing or train other networks" if others else ""
    return f"the student learns from {' and '.join(names) or 'nothing'} alone: nothing can be left out{told}"


def _without(config: DistillConfig, term: str) -> Control:
    row = "without-" + re.sub(r"[^a-z0-9_-]+", "-", term.lower())
    return Control(row, row, f"without {term}", {"leave_out": (*config.leave_out, term)})


def check(source: Source, config: DistillConfig, known: Mapping[str, Sequence[Any]]) -> None:
    """Raise `UsageError` where a method needs taps, teachers or images that the recipe does not give."""
    from edgekd.stages.training import check_streams

    program = _trial_program(config, known)
    if program is not None:
        check_streams(program, source)


def _trial_program(config: DistillConfig, known: Mapping[str, Sequence[Any]]) -> Program | None:
    """What the step would run. Where a network is not known yet, that of usual ones, or None."""
    from edgekd.distill.compose import build_program, teacher_roles

    feeders = known.get("teachers", ())
    student, teachers = trial_taps(known.get("student", ())), trial_taps(feeders)
    labels = dict(zip(teacher_roles(len(feeders)), trial_labels(feeders), strict=True))
    is_known = bool(student) and teachers is not None
    try:
        return build_program(
            config.distillation,
            num_teachers=len(feeders),
            student_taps=student[0] if student else _USUAL_TAPS,
            teacher_taps=teachers if teachers is not None else [_USUAL_TAPS] * len(feeders),
            labels={role: names for role, names in labels.items() if names is not None},
        )
    except UsageError:
        if is_known:
            raise
        return None


STAGE = Stage(
    name="distill",
    summary="train the student with the teacher",
    config=DistillConfig,
    run=run,
    produces="model",
    inputs=(
        Input("student", ("architecture",)),
        Input("teachers", ("model",), many=True, optional=True, first=True),
    ),
    sources=("edgekd.networks", "edgekd.train", "edgekd.distill", "edgekd.data"),
    libraries=("torch", "numpy"),
    row="distilled",
    title="distilled student",
    controls=controls,
    ablations=ablations,
    estimate=estimate,
    check=check,
)
