"""Runs a program: in this turn, train these roles on these terms. It never asks a method's name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.core.errors import UsageError
from edgekd.data.batch import Batch
from edgekd.distill.cast import ImageShape
from edgekd.distill.context import Live, OutputCache, Progress
from edgekd.distill.participant import Participant
from edgekd.distill.program import Phase, Program
from edgekd.distill.update import Rules, Update, hook_scope
from edgekd.train.record import LEARNING_RATE
from edgekd.train.seeding import seed_step
from edgekd.train.trainable import Position

Score = Callable[[Participant], float]
"""Validation accuracy, in [0, 1], of a network in evaluation mode."""

_ROUNDING = 1e-9


@dataclass(frozen=True)
class _Span:
    """A phase's part [begin, end) of the training."""

    begin: float
    end: float

    def within(self, fraction: float) -> float:
        return min(max((fraction - self.begin) / (self.end - self.begin), 0.0), 1.0)


class Engine:
    """A `Trainable` made of a program and live networks; `edgekd.distill.assembly.make_engine` builds it."""

    def __init__(
        self, program: Program, live: Live, rules: Rules, image_shape: ImageShape, score: Score
    ) -> None:
        self.program = program
        self._live = live
        self._rules = rules
        self._image_shape = image_shape
        self._score = score
        self._plain = live.cast.roles[program.deploy.network].copy()
        self._spans = _spans(program.phases)
        self._phase = -1
        self._updates: list[Update] = []
        self._best: dict[str, Tensor] | None = None
        self._progress = Progress(step=0, epoch=0, fraction=0.0)
        self.cache = OutputCache()
        """The last step's outputs."""

    @property
    def roles(self) -> Mapping[str, Participant]:
        return self._live.cast.roles

    @property
    def adapters(self) -> Mapping[str, Mapping[str, nn.Module]]:
        """Term -> name -> module."""
        return self._live.cast.adapters

    @property
    def phase(self) -> Phase:
        return self.program.phases[max(self._phase, 0)]

    def step(self, batch: Batch, position: Position) -> dict[str, float]:
        """One batch through all turns of the phase: unweighted value of every term, and weighted `total`.

        Beside them stands the `learning_rate` of the last turn.

        Raises `DivergedError` naming step and term before any weight of that turn has changed.
        """
        self._enter(self._phase_at(position.fraction))
        fraction = self._spans[self._phase].within(position.fraction)
        self._progress = Progress(position.step, position.epoch, fraction)
        self.cache = OutputCache()
        world = self._live.world
        batch = world.share(batch).placed(self._live.precision.place)
        values: dict[str, float] = {}
        with torch.random.fork_rng(devices=self._cuda_devices()):
            seed_step(self._live.seed, position.step, world.rank)
            for update in self._updates:
                new = update.run(batch, self._progress, self.cache)
                values |= new | {"total": values.get("total", 0.0) + new["total"]}
        for role in sorted(self.program.changing):
            world.average_buffers(self.roles[role].module)
        for hook in self.phase.hooks:
            hook.after_step(hook_scope(hook, self._live, self._progress))
        values = world.average(values)
        return values | {LEARNING_RATE: self._updates[-1].learning_rate}

    def end_epoch(self, position: Position) -> None:
        for hook in self.phase.hooks:
            hook.after_epoch(hook_scope(hook, self._live, self._progress))

    def evaluate(self) -> float:
        """Validation accuracy of the plain network with the weights that would be deployed now."""
        world = self._live.world
        accuracy = world.told(self._score(self._network(self._present())) if world.leads else 0.0)
        for hook in self.phase.hooks:
            hook.after_evaluation(hook_scope(hook, self._live, self._progress), accuracy)
        return accuracy

    def keep(self) -> None:
        self._best = _copied(self._present())

    def deployed(self, *, best: bool = True) -> nn.Module:
        """A plain network on the CPU, in evaluation mode, with the best weights kept, else the present."""
        kept = self._best if best else None
        module = copy.deepcopy(self._network(kept or self._present()).module).cpu()
        # Another layout of the weights may round differently; a model read from a file is contiguous.
        return module.to(memory_format=torch.contiguous_format)

    def _present(self) -> Mapping[str, Tensor]:
        deploy = self.program.deploy
        return deploy.extract(self.roles[deploy.role].module.state_dict())

    def _network(self, state: Mapping[str, Tensor]) -> Participant:
        self._plain.module.load_state_dict(dict(state), strict=True)
        self._plain.module.eval()
        return self._plain

    def _phase_at(self, fraction: float) -> int:
        # Sums of shares are not exact: a step that begins a phase may lie a rounding before its begin.
        reached = [number for number, span in enumerate(self._spans) if fraction >= span.begin - _ROUNDING]
        # A re-estimated training length must not lead back into a phase that is over.
        return max(reached[-1], self._phase)

    def _enter(self, phase: int) -> None:
        while self._phase < phase:
            if self._phase >= 0:
                for hook in self.phase.hooks:
                    hook.after_phase(hook_scope(hook, self._live, self._progress))
            self._phase += 1
            for start in self.phase.start:
                state = self.roles[start.source].module.state_dict()
                self.roles[start.role].module.load_state_dict(state)
            self._prepare_updates()

    def _prepare_updates(self) -> None:
        self._updates = [
            Update(self.phase, turn, number, self._live, self._rules, self._image_shape)
            for number, turn in enumerate(self.phase.turns)
        ]

    def _cuda_devices(self) -> list[torch.device]:
        devices = {role.device for role in self.roles.values()}
        return [device for device in devices if device.type == "cuda"]

    def state(self) -> dict[str, Any]:
        """Roles that the program changes, adapters, the phase's optimizers, memory and the best weights."""
        changing = sorted(self.program.changing)
        live = {
            "phase": self._phase,
            "roles": {name: self.roles[name].module.state_dict() for name in changing},
            "adapters": {
                term: {name: module.state_dict() for name, module in modules.items()}
                for term, modules in self.adapters.items()
            },
            "optimizers": [update.optimizer.state_dict() for update in self._updates],
            "memory": self._live.memory,
            "precision": self._live.precision.state(),
            "best": self._best,
        }
        return {key: _copied(value) for key, value in live.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state()`. Raises `UsageError` for the state of another program."""
        try:
            self._load(state)
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise UsageError(
                f"the checkpoint does not fit this method and these networks: {error}",
                fix="start the step afresh (`--fresh`)",
            ) from error

    def _load(self, state: dict[str, Any]) -> None:
        for name in self.program.changing:
            self.roles[name].module.load_state_dict(state["roles"][name])
        for term, modules in self.adapters.items():
            for name, module in modules.items():
                module.load_state_dict(state["adapters"][term][name])
        self._phase = int(state["phase"])
        self._updates = []
        if self._phase >= 0:
            self._prepare_updates()
        for update, optimizer in zip(self._updates, state["optimizers"], strict=True):
            update.optimizer.load_state_dict(_copied(optimizer))
        self._live.memory.clear()
        self._live.memory.update(_copied(state["memory"]))
        self._live.precision.load_state(state["precision"])
        self._best = _copied(state["best"])


def _copied(value: Any) -> Any:
    """Nested plain containers whose tensors share no memory with the live ones."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list | tuple) else value


def _spans(phases: tuple[Phase, ...]) -> tuple[_Span, ...]:
    """Each phase's part of [0, 1), in proportion to the shares."""
    total = sum(phase.share for phase in phases)
    spans, begin = [], 0.0
    for phase in phases:
        end = begin + phase.share / total
        spans.append(_Span(begin, end))
        begin = end
    return tuple(spans)
