"""The choose stage: of the exported artifacts, the fastest that keeps the limits on validation data."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.artifact import Artifact
from edgekd.core.choice import CHOICE, Candidate, ChoiceRecord
from edgekd.core.errors import AbsentRuntimeError, ModelError, UsageError
from edgekd.stages.context import StageContext
from edgekd.stages.stage import Input, Inputs, KnownData, KnownStep, Product, Stage, StageConfig

if TYPE_CHECKING:
    from edgekd.measure.probes import Timing
    from edgekd.search.fastest import Choice
    from edgekd.stages.on_validation import Trial, Tried


class ChooseConfig(StageConfig):
    """Which artifacts are compared, and how."""

    candidates: list[str] | None = Field(
        None, description="steps whose artifacts are compared; default: everything that was exported"
    )
    protocol: Literal["smoke", "rapid", "quick", "normal"] = Field(
        "rapid", description="how long each candidate is timed"
    )
    certain: bool = Field(
        True,
        description="a limit is kept where its whole interval on val is inside; false: where its value is",
    )


def run(context: StageContext, config: ChooseConfig, inputs: Inputs) -> Product:
    from edgekd.search.fastest import choose
    from edgekd.stages.on_validation import Trial

    graphs = _named(inputs["candidates"])
    trial = Trial(context, inputs["references"], config.protocol, config.certain)
    tried: dict[str, Tried] = {}
    absent: dict[str, str] = {}
    for number, (name, graph) in enumerate(graphs.items()):
        text = f"{name} on val"
        context.emit({"event": "progress", "done": number, "total": len(graphs), "text": text})
        try:
            tried[name] = trial.held(name, graph, trial.answers_of(graph))
        except (AbsentRuntimeError, ModelError) as error:
            absent[name] = error.what
            context.emit({"event": "note", "text": f"{name} is no candidate: {error.what}"})
    if not tried:
        raise UsageError(
            f"no candidate runs on every target: {'; '.join(f'{n}: {why}' for n, why in absent.items())}",
            where="choose",
            fix="edgekd device setup TARGET --backend NAME",
        )
    times = trial.times({name: graphs[name] for name in tried})
    choice = choose([one.contender for one in tried.values()], [time.speedup for time in times.values()])
    chosen = graphs[choice.winner]
    context.emit({"event": "note", "text": f"{choice.winner} ships: {choice.reason}"})
    return Product(
        "graph",
        {**chosen.facts, "row_title": f"ships: {choice.winner}", "summary": choice.winner},
        _copied(context, chosen),
        {CHOICE: _record(choice, tried, times, trial, absent).model_dump(mode="json")},
    )


def _named(graphs: Sequence[Artifact]) -> dict[str, Artifact]:
    """As people call them; of equal names the later ones get a number, of equal files there is one."""
    named: dict[str, Artifact] = {}
    for graph in graphs:
        if any(graph.digest == other.digest for other in named.values()):
            continue
        backend, precision = BACKENDS.load(graph.facts["backend"]), graph.facts["precision"].upper()
        name = f"{backend.title} {precision}"
        same = sum(other == name or other.startswith(f"{name} (") for other in named)
        named[f"{name} ({same + 1})" if same else name] = graph
    return named


def _copied(context: StageContext, graph: Artifact) -> list[str]:
    for name in graph.manifest.files:
        (context.folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(graph.path(name), context.folder / name)
    return list(graph.manifest.files)


def _record(
    choice: Choice,
    tried: Mapping[str, Tried],
    times: Mapping[str, Timing],
    trial: Trial,
    absent: Mapping[str, str],
) -> ChoiceRecord:
    candidates = [
        Candidate(
            name=name,
            standing=one.contender.standing,
            limits=tuple(one.limits),
            val_accuracy=one.contender.accuracy,
            size_bytes=one.contender.size_bytes,
            p50_ms={target: timing.of(name).p50_ms for target, timing in times.items()},
            slowness=choice.slowness[name],
        )
        for name, one in tried.items()
    ]
    return ChoiceRecord(
        winner=choice.winner,
        reason=choice.reason,
        num_images=trial.num_images,
        protocol=trial.protocol,
        certain=trial.certain,
        candidates=tuple(sorted(candidates, key=lambda one: one.slowness)),
        absent=dict(absent),
        not_asked=tuple(limit.source for limit in trial.not_asked),
    )


def check(data: KnownData, config: ChooseConfig, known: Mapping[str, Sequence[KnownStep]]) -> None:
    """Raise `UsageError` without a limit on what artifacts answer: the fastest could then be anything."""
    from edgekd.stages.on_validation import BOUND_BY_ANSWERS

    if not any(limit.quantity in BOUND_BY_ANSWERS for limit in data.limits):
        raise UsageError(
            "the gate bounds no accuracy, so the fastest artifact would ship whatever it answers",
            fix="add a limit to `gate:`, for example `accuracy_drop: {max: 1pt, against: student}`",
        )
    if len(known.get("candidates", ())) < 2:
        raise UsageError(
            "there is one candidate, and nothing to choose",
            fix="export more: `export: {backends: [onnx, openvino], beside: [fp16, fp32]}`",
        )


def without_target(config: ChooseConfig, known: bool) -> str:
    return "times the candidates there; leave `choose` out, or measure where the target is in reach"


STAGE = Stage(
    name="choose",
    summary="of the exported artifacts, the fastest that keeps the limits",
    config=ChooseConfig,
    run=run,
    produces="graph",
    inputs=(
        Input("candidates", ("graph",), many=True, every=True),
        Input("references", ("model",), many=True, every=True),
        Input("model", ("model",)),
    ),
    reads=("data", "limits", "targets"),
    sources=("edgekd.networks", "edgekd.search", "edgekd.measure", "edgekd.backends"),
    libraries=("torch", "onnxruntime"),
    row="shipped",
    title="ships",
    check=check,
    without_target=without_target,
    estimate=lambda config, num_images: 60.0,
)
