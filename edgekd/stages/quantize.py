"""The quantize stage: fold, calibrate, then train in INT8 with the teacher still teaching."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from edgekd.backends.names import ProfileName
from edgekd.stages.context import StageContext
from edgekd.stages.distill import paced_epochs
from edgekd.stages.method_check import Lineup, check_methods
from edgekd.stages.stage import Control, Input, Inputs, KnownData, KnownStep, Product, Stage
from edgekd.stages.training_settings import DistillingConfig, estimate

if TYPE_CHECKING:
    from edgekd.networks.model import Model
    from edgekd.quant.settings import QuantSettings

_WHEN = re.compile(r"ptq_drop\s*>\s*(\d+(?:\.\d+)?)\s*pt")


def _checked_when(text: str) -> str:
    if _WHEN.fullmatch(text.strip()) is None:
        raise ValueError("the condition is of the form `ptq_drop > 0.3pt`")
    return text


class QuantizeConfig(DistillingConfig):
    """How the student is quantized. Training starts from the calibrated network."""

    profile: ProfileName = Field(
        "auto", description="which runtime's Q/DQ placement: ort_x86, tensorrt; auto: of what ships"
    )
    weight_bits: Literal["auto", 7, 8] = Field(
        "auto", description="auto: 8, but 7 where a target's x86 CPU lacks VNNI and would overflow"
    )
    percentile: float = Field(99.99, gt=50, le=100, description="of calibration values that a range covers")
    learn_steps: bool = Field(True, description="whether training moves the step sizes (LSQ)")
    float_modules: tuple[str, ...] = Field((), description="paths of modules that stay in float")
    epochs: Annotated[int, Field(ge=0, description="of training in INT8; 0: calibration only")] = 5
    learning_rate: Annotated[float | None, Field(gt=0, description="peak")] = 5e-4
    weight_decay: Annotated[float, Field(ge=0, description="not applied to norms, biases and steps")] = 0.0
    schedule: Literal["cosine", "one_cycle", "step", "constant"] = Field(
        "cosine", description="of the learning rate"
    )
    keep: Literal["last", "best"] = Field("best", description="which epoch's weights (best on val)")
    when: Annotated[str, AfterValidator(_checked_when)] | None = Field(
        None, description="train only if calibration alone loses more on val, as `ptq_drop > 0.3pt`"
    )
    model: str | None = Field(None, description="step that gives the model; default: the nearest")
    teachers: list[str] | None = Field(None, description="steps that give the teachers; default: the first")

    @property
    def least_drop(self) -> float | None:
        """The drop, as a fraction, above which training is worth it; None: always."""
        match = _WHEN.fullmatch(self.when.strip()) if self.when else None
        return float(match[1]) / 100 if match else None


def run(context: StageContext, config: QuantizeConfig, inputs: Inputs) -> Product:
    from edgekd.stages.model_files import load, save_scored
    from edgekd.stages.post_training import calibrated, finalized, quant_settings

    (source,) = inputs["model"]
    original = load(source, trust_code=context.trust_code)
    settings = quant_settings(config, context.target_facts, (context.plans or {}).get("profile"))
    model = calibrated(context, original, settings)
    decided = _decide(context, config, source.facts["val_accuracy"], model)
    history: list[Mapping[str, Any]] = []
    if decided["trained"]:
        history = _train(context, config, model, inputs)
    finalized(model)
    if decided["trained"] and config.keep == "best":
        model = _better(context, decided, model, lambda: calibrated(context, original, settings))
    return save_scored(
        context,
        model,
        {
            "history": history,
            "num_epochs": len(history),
            **decided,
            **_facts(settings, model, config.epochs > 0 and not decided["trained"]),
        },
    )


def _decide(
    context: StageContext, config: QuantizeConfig, float_accuracy: float, model: Model
) -> dict[str, Any]:
    """Whether to train: asked for, and calibration alone loses enough on val."""
    from edgekd.stages.model_files import score

    ptq_accuracy = score(context, model)
    drop = float_accuracy - ptq_accuracy
    least = config.least_drop
    trained = config.epochs > 0 and (least is None or drop > least)
    if config.epochs > 0 and not trained:
        text = f"calibration alone loses {drop * 100:.2f} points on val: no training in INT8 ({config.when})"
        context.emit({"event": "note", "text": text})
    return {"ptq_val_accuracy": ptq_accuracy, "ptq_drop": drop, "trained": trained}


def _better(
    context: StageContext, decided: dict[str, Any], trained: Model, again: Callable[[], Model]
) -> Model:
    """The calibrated network where training made it worse on val: epoch 0 is one of the epochs."""
    from edgekd.stages.model_files import score
    from edgekd.stages.post_training import finalized

    if score(context, trained) >= decided["ptq_val_accuracy"]:
        return trained
    decided["trained"] = False
    context.emit({"event": "note", "text": "training in INT8 made val worse: the calibrated network is kept"})
    calibrated_only = again()
    finalized(calibrated_only)
    return calibrated_only


def _train(
    context: StageContext, config: QuantizeConfig, model: Model, inputs: Inputs
) -> list[Mapping[str, Any]]:
    from edgekd.stages.model_files import load
    from edgekd.stages.training import train

    teachers = [load(artifact, trust_code=context.trust_code) for artifact in inputs.get("teachers", ())]
    return train(
        context,
        config,
        model,
        teachers=teachers,
        settings=config.distillation,
        num_epochs=paced_epochs(inputs),
    )


def _facts(settings: QuantSettings, model: Model, left_out: bool) -> dict[str, Any]:
    """`row_title` keeps the waterfall from claiming a training that there was not."""
    from edgekd.quant.prepare import int8_operations
    from edgekd.quant.quantized_module import QuantizedModule

    assert isinstance(model.module, QuantizedModule)
    return {
        "profile": settings.profile,
        "weight_bits": settings.weight_bits,
        **({"row_title": "INT8, calibrated"} if left_out else {}),
        "int8_operations": int8_operations(model.module),
    }


def controls(config: QuantizeConfig) -> Sequence[Control]:
    """Post-training quantization of the same student: what did training in INT8 buy?"""
    if config.epochs == 0:
        return ()
    changes = {"epochs": 0, "time": None, "when": None}
    return (Control("ptq", "ptq", "calibrated only (PTQ)", changes),)


def check(data: KnownData, config: QuantizeConfig, known: Mapping[str, Sequence[KnownStep]]) -> None:
    """Raise `UsageError` with what the methods need and the recipe, or the folded student, does not give."""
    if config.epochs > 0:
        check_methods(data, config, Lineup.of(known, "model"), folded=True)


def without_target(config: QuantizeConfig, known: bool) -> str | None:
    if known or config.weight_bits != "auto":
        return None
    return "`weight_bits: auto` asks its CPU; give `weight_bits: 8`, or 7 if it is an x86 CPU without VNNI"


STAGE = Stage(
    name="quantize",
    summary="INT8, with the teacher still teaching",
    config=QuantizeConfig,
    run=run,
    produces="model",
    quantizes=True,
    inputs=(
        Input("model", ("model",)),
        Input("teachers", ("model",), many=True, optional=True, first=True),
    ),
    reads=("data", "targets", "plans"),
    sources=(
        "edgekd.networks",
        "edgekd.train",
        "edgekd.distill",
        "edgekd.data",
        "edgekd.quant",
        "edgekd.backends.profile",
        "edgekd.stages.post_training",
        "edgekd.stages.training",
    ),
    libraries=("torch", "numpy"),
    row="quantized",
    title="trained in INT8",
    controls=controls,
    estimate=estimate,
    check=check,
    without_target=without_target,
)
