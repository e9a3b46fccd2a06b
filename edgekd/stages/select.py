"""The select stage: the student that scores best among those within the gate's budget."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from edgekd.core.durable import write_json
from edgekd.core.errors import UsageError
from edgekd.search.strategy import STRATEGIES
from edgekd.stages.context import StageContext
from edgekd.stages.latency import LatencyConfig, SpaceKey
from edgekd.stages.method_check import Lineup, check_methods
from edgekd.stages.stage import Input, Inputs, KnownData, KnownStep, Product, Stage, StageConfig
from edgekd.stages.student import SPEC, architecture
from edgekd.stages.training_settings import DistillingConfig, estimate

if TYPE_CHECKING:
    from edgekd.search.latency_table import LatencyTable
    from edgekd.search.scorer import ScoreCandidate
    from edgekd.search.space import Candidate
    from edgekd.search.timing import P50, Timed


class SelectConfig(DistillingConfig):
    """What is searched, and how candidates are scored: the keys of training are of the short training."""

    space: SpaceKey = "resnet_small"
    margin: Annotated[float, Field(ge=0, lt=1, description="share of every limit that is left free")] = 0.1
    strategy: str = Field("shortlist", description="which candidates are trained for a while")
    strategy_keys: dict[str, Any] = Field(default_factory=dict, description="the strategy's own keys")

    @model_validator(mode="after")
    def _known_strategy(self) -> SelectConfig:
        try:
            STRATEGIES.load(self.strategy).model_validate(self.strategy_keys)
        except ValidationError as error:
            told = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
            raise ValueError(f"strategy_keys: {'; '.join(told)}") from None
        except UsageError as error:
            raise ValueError(f"strategy: {error}") from None
        return self

    epochs: Annotated[int, Field(ge=1, description="of the short training that scores a candidate")] = 3
    num_timed: Annotated[int, Field(ge=8, description="candidates that are exported and timed")] = 8
    protocol: Literal["smoke", "rapid", "quick", "normal"] = Field(
        "smoke", description="how long each candidate is timed"
    )
    latency: str | None = Field(None, description="step that made the table, or a table's .json to pin it")
    teacher: str | None = Field(None, description="step that gives the teacher; default: the first")

    @property
    def pinned(self) -> Path | None:
        """The pinned table's file, if the recipe names one."""
        is_file = self.latency is not None and self.latency.endswith(".json")
        return Path(str(self.latency)) if is_file else None

    def files(self) -> Sequence[Path]:
        return () if self.pinned is None else (self.pinned,)

    def device_facts(self) -> Mapping[str, Mapping[str, Any]]:
        from edgekd.search.latency_table import read_table

        return {} if self.pinned is None else read_table(self.pinned).devices


def before(config: SelectConfig) -> Sequence[tuple[str, StageConfig]]:
    if config.latency is not None:
        return ()
    latency = LatencyConfig(
        space=config.space, num_timed=config.num_timed, protocol=config.protocol, teacher=config.teacher
    )
    return (("latency", latency),)


def run(context: StageContext, config: SelectConfig, inputs: Inputs) -> Product:
    from edgekd.search.budget import from_limits
    from edgekd.search.scorer import Scorer
    from edgekd.search.selection import choose
    from edgekd.stages.candidates import candidates_of, spec_of

    table = _table(config, inputs)
    budget = from_limits(context.limits, table.teacher_p50_ms, config.margin)
    candidates = candidates_of(context, config.space)
    scorer = Scorer(
        _short_training(context, config, inputs),
        num_val=len(context.data.dataset.val),
        journal=context.journal,
    )
    selection = choose(
        candidates,
        table,
        budget,
        scorer,
        STRATEGIES.load(config.strategy).model_validate(config.strategy_keys),
        _remeasure(context, config, table),
        journal=context.journal,
    )
    winner = selection.winner
    context.emit({"event": "note", "text": f"selected {winner.id} of {len(candidates)}"})
    write_json(context.folder / "candidate.json", json.loads(winner.model_dump_json()))
    product = architecture(context, spec_of(context, winner), {"candidate": winner.id, "summary": winner.id})
    measured = {"selection": selection.model_dump(mode="json")}
    return Product(product.kind, product.facts, [SPEC, "candidate.json"], measured)


def _table(config: SelectConfig, inputs: Inputs) -> LatencyTable:
    from edgekd.search.latency_table import TABLE, read_table

    path = config.pinned if config.pinned is not None else inputs["latency"][0].path(TABLE)
    return read_table(path)


def _short_training(context: StageContext, config: SelectConfig, inputs: Inputs) -> ScoreCandidate:
    from edgekd.networks.initialize import init_weights
    from edgekd.networks.model import build_model
    from edgekd.stages.candidates import spec_of
    from edgekd.stages.model_files import load
    from edgekd.stages.model_files import score as val_score
    from edgekd.stages.training import train

    teachers = [load(artifact, trust_code=context.trust_code) for artifact in inputs.get("teacher", ())]

    def score(candidate: Candidate, effort: float) -> float:
        model = build_model(spec_of(context, candidate), trust_code=context.trust_code)
        init_weights(model.module, context.seed, "student")
        context.emit({"event": "note", "text": f"short training of {candidate.id}"})
        epochs = max(1, round(config.epochs * effort))
        train(
            context,
            config,
            model,
            teachers=teachers,
            settings=config.distillation,
            num_epochs=epochs,
            name=f"score-{candidate.id}-{epochs}",
        )
        return val_score(context, model)

    return score


def _remeasure(context: StageContext, config: SelectConfig, table: LatencyTable) -> Any:
    from edgekd.stages.candidates import Workbench

    backend = str(table.protocol.get("backend", "onnx"))
    bench = Workbench(context, backend, table.precision, config.protocol)

    def remeasure(candidate: Candidate) -> Timed:
        timed = bench.time([candidate])[candidate.id]
        return timed.model_copy(update={"p50_ms": {**timed.p50_ms, **_from_table(context, table, candidate)}})

    return remeasure


def _from_table(context: StageContext, table: LatencyTable, candidate: Candidate) -> dict[str, P50]:
    """What a pinned table says of the targets that are out of reach, where nothing can be timed again."""
    from edgekd.search.timing import P50

    (row,) = table.rows_for([candidate])
    known = {name: one for name, one in row.latency.items() if name in context.unreached}
    return {name: P50(value=x.p50_ms, spread=x.measured_spread, again=False) for name, x in known.items()}


def check(data: KnownData, config: SelectConfig, known: Mapping[str, Sequence[KnownStep]]) -> None:
    """Raise `UsageError` with everything that the short training needs and the recipe does not give, and for
    a pinned table that is none."""
    if config.pinned is not None and config.pinned.is_file():
        config.device_facts()
    check_methods(data, config, Lineup(None, tuple(known.get("teacher", ()))))


STAGE = Stage(
    name="select",
    summary="the student that scores best within the budget",
    config=SelectConfig,
    run=run,
    produces="architecture",
    inputs=(
        Input("latency", ("latency",), optional=True),
        Input("teacher", ("model",), optional=True, first=True),
    ),
    reads=("data", "limits", "targets", "plans"),
    sources=(
        "edgekd.networks",
        "edgekd.train",
        "edgekd.distill",
        "edgekd.data",
        "edgekd.search",
        "edgekd.stages.candidates",
        "edgekd.stages.training",
    ),
    libraries=("torch", "numpy"),
    before=before,
    estimate=lambda config, num_images: 4 * estimate(config, num_images) + 10.0,
    check=check,
)
