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
from edgekd.stages.method_check import Lineup, check_methods, trial_program
from edgekd.stages.stage import Control, Input, Inputs, KnownData, KnownStep, Product, Stage
from edgekd.stages.student import SPEC
from edgekd.stages.training_settings import DistillingConfig, estimate

if TYPE_CHECKING:
    from edgekd.networks.model import Model

NO_TEACHER = (MethodUse(name="none"),)


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


def ablations(config: DistillConfig, known: Mapping[str, Sequence[KnownStep]]) -> Sequence[Control]:
    """The same student, start, batches and number of updates, each without one term of its loss."""
    from edgekd.distill.ablation import learned_from

    if config.method == NO_TEACHER:
        return ()
    program = trial_program(config, Lineup.of(known, "student"))
    # Of networks that only the run knows, the program still has what the recipe leaves out.
    names = [term.name for term in learned_from(program) if term.name not in config.leave_out]
    if len(names) < 2:
        others = [term.name for term in program.terms if term.name not in (*names, *config.leave_out)]
        raise UsageError(
            _too_few(names, others),
            fix="`edgekd run` trains the student without a teacher beside: that is what this term bought",
        )
    return tuple(_without(config, name) for name in names)


def _too_few(names: Sequence[str], others: Sequence[str]) -> str:
    told = f"; {', '.join(others)} weigh nothing or train other networks" if others else ""
    return f"the student learns from {' and '.join(names) or 'nothing'} alone: nothing can be left out{told}"


def _without(config: DistillConfig, term: str) -> Control:
    row = "without-" + re.sub(r"[^a-z0-9_-]+", "-", term.lower())
    return Control(row, row, f"without {term}", {"leave_out": (*config.leave_out, term)})


def check(data: KnownData, config: DistillConfig, known: Mapping[str, Sequence[KnownStep]]) -> None:
    """Raise `UsageError` with everything that the methods need and the recipe does not give."""
    check_methods(data, config, Lineup.of(known, "student"))


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
