"""The latency stage: a table of what the candidates of a space take on every target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from edgekd.backends.names import AUTO, BackendOrAuto
from edgekd.stages.context import StageContext
from edgekd.stages.network_check import KnownSpace
from edgekd.stages.stage import Input, Inputs, Product, Stage, StageConfig

SpaceKey = Annotated[
    str | dict[str, Any] | list[dict[str, Any]],
    KnownSpace,
    Field(description="a space's name (`edgekd list spaces`) or one written out"),
]
_GROUP = 4
"""Candidates that one session interleaves, and that a kill may lose."""


class LatencyConfig(StageConfig):
    """How the table is made."""

    space: SpaceKey = "resnet_small"
    num_timed: Annotated[int, Field(ge=8, description="candidates that are exported and timed")] = 8
    precision: Literal["auto", "fp32", "fp16", "bf16", "int8"] = Field(
        "auto", description="auto: the precision that this recipe ships"
    )
    protocol: Literal["smoke", "rapid", "quick", "normal"] = Field(
        "smoke", description="how long each is timed"
    )
    backend: BackendOrAuto = Field(
        AUTO, description="format and runtime that are timed; auto: those of the graph that this recipe ships"
    )
    teacher: str | None = Field(None, description="step that gives the teacher; default: the first")

    def runs_in(self) -> Sequence[str]:
        return () if self.backend == AUTO else (self.backend,)

    def shipping(self, backend: str) -> Self:
        return self.model_copy(update={"backend": backend}) if self.backend == AUTO else self


def run(context: StageContext, config: LatencyConfig, inputs: Inputs) -> Product:
    from edgekd.search.features import describe_all
    from edgekd.search.latency_table import TABLE, write_table
    from edgekd.search.timing import Conditions, Timed, build_table
    from edgekd.stages.candidates import TEACHER, Workbench, candidates_of, median_p50

    teachers = inputs.get("teacher", ())
    precision = shipped_precision(context, config.precision)
    bench = Workbench(context, config.backend, precision, config.protocol, teachers[0] if teachers else None)
    teacher_times: list[Timed] = []

    def journal(key: str, compute: Any) -> Any:
        plain = context.journal(key, compute)
        if key.startswith("time/") and TEACHER in plain:
            teacher_times.append(Timed.model_validate(plain[TEACHER]))
        return plain

    candidates = candidates_of(context, config.space)
    table = build_table(
        candidates,
        describe_all(candidates),
        bench.time,
        config.num_timed,
        Conditions(
            precision=precision,
            protocol={"name": config.protocol, "backend": config.backend},
            devices={name: dict(facts) for name, facts in context.target_facts.items()},
            seed=context.seed,
        ),
        journal=journal,
        group_size=_GROUP,
    )
    table = table.model_copy(update={"teacher_p50_ms": median_p50(teacher_times)})
    write_table(context.folder / TABLE, table)
    facts = {
        "summary": f"{table.num_timed} of {len(candidates)} candidates timed in {precision}",
        "precision": precision,
        "num_candidates": len(candidates),
        "num_timed": table.num_timed,
        "teacher_p50_ms": table.teacher_p50_ms,
        "predictors": {name: p.model_dump(mode="json") for name, p in table.predictors.items()},
    }
    return Product("latency", facts, [TABLE])


def shipped_precision(context: StageContext, written: str) -> Any:
    return (context.plans or {}).get("precision", "fp32") if written == "auto" else written


def without_target(config: LatencyConfig, known: bool) -> str:
    return "times candidates there; pin a table that was timed on it: `select: {latency: FILE.json}`"


STAGE = Stage(
    name="latency",
    summary="a table of measured latencies over a space",
    config=LatencyConfig,
    run=run,
    produces="latency",
    inputs=(Input("teacher", ("model",), optional=True, first=True),),
    reads=("labeled_data", "targets", "plans"),
    sources=(
        "edgekd.networks",
        "edgekd.quant",
        "edgekd.backends",
        "edgekd.measure",
        "edgekd.search",
        "edgekd.stages.candidates",
        "edgekd.stages.post_training",
    ),
    libraries=("torch", "onnx", "onnxscript", "onnxruntime"),
    estimate=lambda config, num_images: 6.0 * config.num_timed,
    without_target=without_target,
)
