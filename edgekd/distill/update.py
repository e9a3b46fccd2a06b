"""One turn's update: terms, backward, clipping, optimizer step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn

from edgekd.core.errors import DivergedError, UsageError
from edgekd.data.batch import Batch
from edgekd.distill.cast import ImageShape, reached_by
from edgekd.distill.context import Context, Live, OutputCache, Progress, TermContext
from edgekd.distill.hooks import Hook, HookScope
from edgekd.distill.program import Phase, Term, Train, Turn
from edgekd.distill.weights import weight_at
from edgekd.train.optimizer import OptimizerConfig, make_optimizer, set_learning_rate
from edgekd.train.schedule import ScheduleConfig


@dataclass(frozen=True)
class Rules:
    """How every update is made; the schedule runs once per phase. gradient_clip: largest L2 norm."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    gradient_clip: float | None = None

    def for_turn(self, turn: Turn) -> OptimizerConfig:
        """The optimizer's settings with the turn's overrides."""
        return OptimizerConfig.model_validate(self.optimizer.model_dump() | dict(turn.optimizer))


class Update:
    """A turn with its optimizer."""

    def __init__(
        self, phase: Phase, turn: Turn, number: int, live: Live, rules: Rules, image_shape: ImageShape
    ) -> None:
        self._turn = turn
        self._hooks = phase.hooks
        self._number = number
        self._live = live
        self._rules = rules
        self._where = f"phase `{phase.name}`, turn {number + 1}"
        self._learning = {train.role: self._trained_names(train, image_shape) for train in turn.train}
        self._prepare()
        self._config = rules.for_turn(turn)
        self.optimizer = make_optimizer(self._config, self._parameters())

    def _trained_names(self, train: Train, image_shape: ImageShape) -> frozenset[str]:
        role = self._live.cast.roles[train.role]
        names = self._live.cast.trainable[train.role]
        if train.up_to is not None:
            names &= reached_by(role, train.up_to, image_shape)
        if not names:
            raise UsageError(
                f"role `{train.role}` has no parameter to train",
                where=self._where,
                fix="hand its network over with parameters that require gradients",
            )
        return names

    def _parameters(self) -> Iterator[nn.Parameter]:
        """Of the roles that learn and of the adapters; those that require a gradient are taken."""
        for train in self._turn.train:
            yield from self._live.cast.roles[train.role].module.parameters()
        for term in self._turn.terms:
            for adapter in self._live.cast.adapters[term.name].values():
                yield from adapter.parameters()

    def run(self, batch: Batch, progress: Progress, cache: OutputCache) -> dict[str, float]:
        """`repeat` updates; of the last, the unweighted value of every term and the weighted `total`."""
        values: dict[str, float] = {}
        self._prepare()
        for repetition in range(self._turn.repeat):
            at = Progress(progress.step, progress.epoch, progress.fraction, self._number, repetition)
            values = self._once(batch, at, cache)
            cache.expire(self._turn.trained)
        return values

    def _prepare(self) -> None:
        """Modes and gradient flags: what learns in this turn, and nothing else."""
        for name, role in self._live.cast.roles.items():
            role.module.train(self._turn.mode(name) == "train")
            learning = self._learning.get(name, frozenset())
            for key, parameter in role.module.named_parameters():
                parameter.requires_grad_(key in learning)

    def _once(self, batch: Batch, progress: Progress, cache: OutputCache) -> dict[str, float]:
        context = Context(self._live, self._turn, progress, batch, cache)
        terms = {term.name: self._value(term, context) for term in self._turn.terms}
        first, *rest = [weight * value for weight, value in terms.values()]
        total: Tensor = sum(rest, start=first)
        self.optimizer.zero_grad(set_to_none=True)
        precision = self._live.precision
        precision.backward(total)
        self._live.world.average_gradients(self._parameters())
        for hook in self._hooks:
            hook.before_update(hook_scope(hook, self._live, progress), self._turn.trained)
        factor = self._rules.schedule.factor(progress.fraction)
        set_learning_rate(self.optimizer, self._config.learning_rate * factor)
        precision.step(self.optimizer, max_norm=self._rules.gradient_clip)
        precision.end_update()
        values = {name: float(value.detach()) for name, (_, value) in terms.items()}
        return values | {"total": float(total.detach())}

    @property
    def learning_rate(self) -> float:
        """Of the last update."""
        return float(self.optimizer.param_groups[0]["lr"])

    def _value(self, term: Term, context: Context) -> tuple[float, Tensor]:
        value = term.compute(TermContext(context, term))
        number = float(value.detach())
        if not math.isfinite(number):
            raise DivergedError(
                f"term `{term.name}` became {number} at step {context.progress.step}",
                where=self._where,
                fix="lower the learning rate or the term's weight, or set a gradient clip",
            )
        return weight_at(term.weight, context.progress.fraction), value


def hook_scope(hook: Hook, live: Live, progress: Progress) -> HookScope:
    """The live modules and the hook's own memory."""
    modules = {name: role.module for name, role in live.cast.roles.items()}
    return HookScope(modules, progress, live.memory.setdefault(f"hook:{hook.name}", {}))
