"""What happens between updates: averaged copies, stale copies, gradient surgery."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgekd.distill.context import Memory, Progress


@dataclass(frozen=True)
class HookScope:
    """What a hook works on: the live modules by role, where training stands, and its own saved tensors."""

    roles: Mapping[str, nn.Module]
    progress: Progress
    memory: Memory


class Hook:
    """Base of all hooks: does nothing. A hook keeps no state of its own; it belongs in `scope.memory`."""

    @property
    def name(self) -> str:
        """Unique within a program."""
        return type(self).__name__

    @property
    def changes(self) -> tuple[str, ...]:
        """Roles whose weights it writes."""
        return ()

    def before_update(self, scope: HookScope, trained: frozenset[str]) -> None:
        """Between a turn's backward pass and its optimizer step: gradients are there to be changed."""

    def after_step(self, scope: HookScope) -> None:
        """After all turns of one batch."""

    def after_epoch(self, scope: HookScope) -> None:
        """After the last batch of an epoch, before it is evaluated."""

    def after_evaluation(self, scope: HookScope, accuracy: float) -> None:
        """After the deployed role was scored on the validation data."""

    def after_phase(self, scope: HookScope) -> None:
        """When the next phase is about to begin; not after the last one."""


@dataclass(frozen=True)
class Follower(Hook):
    """Base of hooks by which `role` takes its weights from `of`."""

    kind: ClassVar[str]
    """In the hook's name, with the role: what its memory is saved under."""
    role: str
    of: str

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.role}"

    @property
    def changes(self) -> tuple[str, ...]:
        return (self.role,)

    def copy(self, scope: HookScope) -> None:
        scope.roles[self.role].load_state_dict(scope.roles[self.of].state_dict())


@dataclass(frozen=True)
class Ema(Follower):
    """`role` follows `of`: role = d role + (1 - d) of, over parameters and floating buffers, every step.

    d = min(decay, (1 + n) / (10 + n)) at the n-th update, so that the start does not linger; integer
    buffers are copied.
    """

    kind = "ema"
    decay: float = 0.999

    def after_step(self, scope: HookScope) -> None:
        count = scope.memory.setdefault("updates", torch.zeros((), dtype=torch.int64))
        count += 1
        decay = min(self.decay, (1 + int(count)) / (10 + int(count)))
        follow(scope.roles[self.role], scope.roles[self.of], decay)


@dataclass(frozen=True)
class StaleCopy(Follower):
    """`role` is set to `of` every `every` steps and stays so between."""

    kind = "stale"
    every: int

    def after_step(self, scope: HookScope) -> None:
        if (scope.progress.step + 1) % self.every == 0:
            self.copy(scope)


@dataclass(frozen=True)
class Snapshot(Follower):
    """`role` takes the weights of `of` once, at the first step at or after `at` (a fraction of the phase).

    A phase too short to have such a step leaves it the last weights.
    """

    kind = "snapshot"
    at: float

    def after_step(self, scope: HookScope) -> None:
        if scope.progress.fraction >= self.at:
            self._take(scope)

    def after_phase(self, scope: HookScope) -> None:
        self._take(scope)

    def _take(self, scope: HookScope) -> None:
        taken = scope.memory.setdefault("taken", torch.zeros((), dtype=torch.int64))
        if not taken:
            self.copy(scope)
            taken += 1


@dataclass(frozen=True)
class BestCopy(Follower):
    """`role` takes the weights of `of` whenever the deployed network scores its best so far."""

    kind = "best"

    def after_evaluation(self, scope: HookScope, accuracy: float) -> None:
        best = scope.memory.setdefault("best", torch.full((), -1.0, dtype=torch.float64))
        if accuracy > float(best):
            self.copy(scope)
            best.fill_(accuracy)


@torch.no_grad()
def follow(average: nn.Module, source: nn.Module, decay: float) -> None:
    """average = decay * average + (1 - decay) * source, in place; integer state is copied."""
    pairs = list(zip(average.state_dict().values(), source.state_dict().values(), strict=True))
    for kept, new in pairs:
        if not kept.is_floating_point():
            kept.copy_(new)
    floating = [pair for pair in pairs if pair[0].is_floating_point()]
    kept_all: list[Tensor] = [kept for kept, _ in floating]
    torch._foreach_lerp_(kept_all, [new for _, new in floating], 1.0 - decay)
