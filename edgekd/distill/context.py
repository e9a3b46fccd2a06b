"""What a term sees of one update: role outputs computed on demand, labels, adapters, memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from edgekd.core.errors import EdgekdError
from edgekd.core.seed import derive
from edgekd.data.batch import Batch
from edgekd.distill.cast import Cast
from edgekd.distill.participant import in_full_precision
from edgekd.distill.program import LOGITS, Term, Turn
from edgekd.train.precision import Precision
from edgekd.train.world import ALONE, World

Memory = MutableMapping[str, Tensor]


class UndeclaredError(EdgekdError):
    """A term touched something that its `Needs` do not declare: a defect of the method."""


class Recording(Protocol):
    """Answers of one frozen role on file; `edgekd.distill.recorded.Recorded` is one."""

    @property
    def taps(self) -> frozenset[str]: ...

    def read(self, batch: Batch, view: str, taps: Sequence[str]) -> dict[str, Tensor] | None: ...


class Stream(Protocol):
    """A further supply of batches, addressed by number so that training resumes anywhere."""

    def batch(self, number: int) -> Batch: ...


@dataclass(frozen=True)
class Progress:
    """Where an update stands: `fraction` in [0, 1) of the phase; `turn` and `repetition` within the step."""

    step: int
    epoch: int
    fraction: float
    turn: int = 0
    repetition: int = 0


@dataclass(frozen=True)
class Live:
    """Everything that lives as long as the training: networks, adapters, streams, memory, precision."""

    cast: Cast
    precision: Precision
    seed: int
    streams: Mapping[str, Stream]
    memory: MutableMapping[str, Memory]
    recorded: Mapping[str, Recording] = field(default_factory=dict)
    """Role -> its answers on file, for roles that nothing changes."""
    world: World = ALONE


@dataclass(frozen=True)
class _Key:
    role: str
    view: str
    batch: int
    input_grad: bool
    learns: bool
    """Outputs that were computed for a turn in which the role rests carry no graph."""


@dataclass(frozen=True)
class _Entry:
    values: dict[str, Tensor]
    mode: bool
    batch: Batch
    """Held so that no other batch can take its identity."""

    @property
    def has_graph(self) -> bool:
        return any(value.requires_grad for value in self.values.values())


class OutputCache:
    """Role outputs of one step, kept until an optimizer step makes them stale."""

    def __init__(self) -> None:
        self._entries: dict[_Key, _Entry] = {}
        self._leaves: dict[tuple[str, int], Tensor] = {}
        self.num_runs: dict[str, int] = {}
        """Forward passes by role since the cache was made."""

    def find(self, key: _Key, taps: Iterable[str], mode: bool) -> dict[str, Tensor] | None:
        entry = self._entries.get(key)
        if entry is None or entry.mode != mode or not set(taps) <= entry.values.keys():
            return None
        return entry.values

    def add(self, key: _Key, entry: _Entry) -> None:
        self._entries[key] = entry

    def count_run(self, role: str) -> None:
        self.num_runs[role] = self.num_runs.get(role, 0) + 1

    def leaf(self, view: str, batch: Batch) -> Tensor:
        """The view as a leaf that gathers input gradients."""
        key = (view, id(batch))
        if key not in self._leaves:
            self._leaves[key] = batch.views[view].detach().clone().requires_grad_(True)
        return self._leaves[key]

    def expire(self, changed: frozenset[str]) -> None:
        """Forget the outputs of `changed` roles and everything that hangs on a used-up graph."""
        self._entries = {
            key: entry
            for key, entry in self._entries.items()
            if key.role not in changed and not entry.has_graph
        }
        self._leaves.clear()


class Context:
    """One update of one turn. A role runs without gradient unless it learns or its input carries one."""

    def __init__(self, live: Live, turn: Turn, progress: Progress, given: Batch, cache: OutputCache) -> None:
        self._live = live
        self._turn = turn
        self._cache = cache
        self.progress = progress
        self.batch = given
        self.batch = turn.source.draw(self, given)

    def outputs(self, role: str, view: str = "x", *, input_grad: bool = False) -> dict[str, Tensor]:
        """Every tap that the turn's terms declare for `role`, computed once per view."""
        taps = self._turn.taps(role)
        participant = self._live.cast.roles[role]
        key = _Key(role, view, id(self.batch), input_grad, role in self._turn.trained)
        found = self._cache.find(key, taps, participant.module.training)
        if found is not None:
            return found
        values = None if input_grad else self._read(role, view, taps)
        if values is None:
            values = self._run(role, view, taps, input_grad)
        self._cache.add(key, _Entry(values, participant.module.training, self.batch))
        return values

    def _read(self, role: str, view: str, taps: tuple[str, ...]) -> dict[str, Tensor] | None:
        """From the answers on file, where they hold these taps of this batch."""
        recorded = self._live.recorded.get(role)
        return recorded.read(self.batch, view, taps) if recorded and recorded.taps >= set(taps) else None

    def _run(self, role: str, view: str, taps: tuple[str, ...], input_grad: bool) -> dict[str, Tensor]:
        images = self.images(view, input_grad=input_grad)
        self._cache.count_run(role)
        with self._gradient(role, images):
            return self._live.cast.roles[role].run(images, taps, self._live.precision.autocast())

    def images(self, view: str = "x", *, input_grad: bool = False) -> Tensor:
        """The view `[B, C, H, W]` in [0, 1]; with `input_grad` as the leaf that the outputs depend on."""
        return self._cache.leaf(view, self.batch) if input_grad else self.batch.views[view]

    def call(self, role: str, inputs: Tensor, tap: str = LOGITS) -> Tensor:
        """Run a role on any tensor, uncached; gradient flows through it even if the role does not learn."""
        with self._gradient(role, inputs):
            return self._live.cast.roles[role].run(inputs, (tap,), self._live.precision.autocast())[tap]

    def module(self, role: str) -> nn.Module:
        return self._live.cast.roles[role].module

    def adapters(self, term: str) -> Mapping[str, nn.Module]:
        return self._live.cast.adapters[term]

    def memory(self, owner: str) -> Memory:
        return self._live.memory.setdefault(owner, {})

    def generator(self, *names: str) -> torch.Generator:
        """A CPU generator for this update and these names: no random state outlives a step."""
        at = self.progress
        seed = derive(self._live.seed, "draw", at.step, at.turn, at.repetition, *names)
        return torch.Generator().manual_seed(seed)

    def stream(self, name: str) -> Batch:
        number = self.progress.step * self._turn.repeat + self.progress.repetition
        return self.world.share(self._live.streams[name].batch(number))

    @property
    def world(self) -> World:
        return self._live.world

    def _gradient(self, role: str, inputs: Tensor) -> torch.set_grad_enabled:
        return torch.set_grad_enabled(role in self._turn.trained or inputs.requires_grad)


class TermContext:
    """A context as one term may use it. Everything comes as float32 (float64 stays).

    Outputs of roles that do not learn in the turn carry no gradient. A role that learns and serves as a
    target is detached by the term. `touched` collects what was used.
    """

    def __init__(self, context: Context, term: Term) -> None:
        self._context = context
        self._term = term
        self.touched: set[tuple[str, ...]] = set()

    def logits(self, role: str, view: str = "x", *, input_grad: bool = False) -> Tensor:
        """`[B, num_classes]`."""
        return self.tap(role, LOGITS, view, input_grad=input_grad)

    def tap(self, role: str, tap: str, view: str = "x", *, input_grad: bool = False) -> Tensor:
        """`[B, C]` or `[B, C, H, W]`."""
        needs = self._term.needs
        self._touch(tap in needs.outputs.get(role, ()), "outputs", role, tap)
        self._touch(view in needs.views, "views", view)
        return self._whole(self._context.outputs(role, view, input_grad=input_grad)[tap])

    def images(self, view: str = "x", *, input_grad: bool = False) -> Tensor:
        """`[B, C, H, W]` in [0, 1]; with `input_grad` the leaf that outputs with it depend on."""
        self._touch(view in self._term.needs.views, "views", view)
        return self._whole(self._context.images(view, input_grad=input_grad))

    def _whole(self, tensor: Tensor) -> Tensor:
        """The rows of all processes for a term that compares samples; else this process's rows."""
        return self._context.world.gather(tensor) if self._term.needs.whole_batch else tensor

    @property
    def labels(self) -> Tensor:
        """int64 `[B]`."""
        self._touch(self._term.needs.labels, "labels")
        return self._whole(self._context.batch.labels)

    @property
    def indices(self) -> Tensor:
        """int64 `[B]`: positions in the data set, for per-sample stores."""
        self._touch(self._term.needs.indices, "indices")
        return self._whole(self._context.batch.indices)

    def call(self, role: str, inputs: Tensor, tap: str = LOGITS) -> Tensor:
        """Run a role on a tensor that the term computed."""
        self._touch(role in self._term.needs.calls, "calls", role)
        return in_full_precision(self._context.call(role, inputs, tap))

    def module(self, role: str) -> nn.Module:
        """The network itself, to read statistics or classifier weights from."""
        self._touch(role in self._term.needs.modules, "modules", role)
        return self._context.module(role)

    def adapter(self, name: str) -> nn.Module:
        self._touch(name in self._term.adapters, "adapters", name)
        return self._context.adapters(self._term.name)[name]

    @property
    def memory(self) -> Memory:
        """Tensors that the term keeps between updates; saved with the training state."""
        return self._context.memory(f"term:{self._term.name}")

    @property
    def progress(self) -> Progress:
        return self._context.progress

    def generator(self) -> torch.Generator:
        """Randomness of this term in this update."""
        return self._context.generator("term", self._term.name)

    def _touch(self, declared: bool, kind: str, *names: str) -> None:
        if not declared:
            raise UndeclaredError(
                f"term `{self._term.name}` used {kind} {':'.join(names)} without declaring it".rstrip(),
                fix=f"add it to the term's Needs({kind}=...)",
            )
        self.touched.add((kind, *names))
