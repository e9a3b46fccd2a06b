"""The distill stage: train the student with the teacher, and beside it the same student without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from edgekd.core.spec import ModelSpec
from edgekd.distill.settings import MethodUse
from edgekd.stages.context import StageContext
from edgekd.stages.network_check import trial_taps
from edgekd.stages.stage import Control, Input, Inputs, Product, Stage
from edgekd.stages.student import SPEC
from edgekd.stages.training_settings import DistillingConfig, estimate

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
    methods = [use.name for use in config.method]
    return save_scored(context, model, {"history": history, "num_epochs": len(history), "methods": methods})


def paced_epochs(inputs: Inputs) -> int | None:
    """A control trains exactly as long as the step it is compared with, also when that had `time:`."""
    return int(inputs["pace"][0].facts["num_epochs"]) if "pace" in inputs else None


def controls(config: DistillConfig) -> Sequence[Control]:
    """The same student, start, batches and number of updates, without a teacher."""
    if config.method == NO_TEACHER:
        return ()
    changes = {"method": NO_TEACHER, "task_weight": None}
    return (Control("control", "undistilled", "same student, no teacher", changes),)


def check(source: object, config: DistillConfig, known: Mapping[str, Sequence[Any]]) -> None:
    """Raise `UsageError` where a method needs taps or teachers that the named networks do not give."""
    from edgekd.distill.compose import build_program

    student, teachers = trial_taps(known.get("student", ())), trial_taps(known.get("teachers", ()))
    if student and teachers is not None:
        build_program(
            config.distillation,
            num_teachers=len(teachers),
            student_taps=student[0],
            teacher_taps=teachers,
        )


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
    estimate=estimate,
    check=check,
)
