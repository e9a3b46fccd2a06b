"""A training scheme as plain data: which roles exist, who learns from what and in which order.

A program names roles and never touches a live module; `edgekd.distill.engine` runs it.

    Program
      roles    name -> where a network comes from (given, same architecture, copy, built)
      phases   in order, each with a share of the training
        turns  in this turn, train these roles on these terms, with batches from this source
          terms  (context) -> scalar, with what it needs and what it weighs
        hooks  what happens between the updates (EMA, stale copies, gradient surgery)
      deploy   which role is shipped
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from edgekd.data.sampling import Sampler
from edgekd.distill.sources import LOOP, Labeled, Source
from edgekd.distill.weights import Weight

if TYPE_CHECKING:
    from edgekd.distill.context import TermContext
    from edgekd.distill.hooks import Hook
    from edgekd.distill.participant import Participant
    from edgekd.networks.tap import Tap

LOGITS = "logits"
"""The tap that every image network has: what its forward pass returns."""

Mode = Literal["train", "eval"]
Shapes = Mapping[tuple[str, str], tuple[int, ...]]
"""(role, tap) -> shape of one sample: `(C,)` or `(C, H, W)`; under `IMAGES` that of the batches' images."""
IMAGES = ("", "images")
"""Where `Shapes` says how large the images are that the loop gives, `(C, H, W)`."""
ModuleBuilder = Callable[[Shapes], nn.Module]
StateDict = Mapping[str, Tensor]


@dataclass(frozen=True)
class Given:
    """A network handed to the engine under the role's name, used with the weights it has."""


@dataclass(frozen=True)
class Fresh:
    """The architecture of another role, initialized from the stream (seed, role)."""

    like: str


@dataclass(frozen=True)
class CopyOf:
    """A copy of another role, with the weights that one starts from. A hook may refresh it."""

    role: str


@dataclass(frozen=True)
class Built:
    """Made by `builder` from the shapes of the image networks' taps; weights from (seed, role).

    For networks that are not fed images: generators, discriminators, paraphrasers, banks.
    """

    builder: ModuleBuilder


@dataclass(frozen=True)
class Head:
    """A further module on a network, run with the values at `taps` once the network is through.

    `builder` gets the shapes of the role's taps. The head's output is a tap under the head's name; `inner`
    (name -> point within it) adds taps `head:name`.
    """

    taps: tuple[str, ...]
    builder: ModuleBuilder
    inner: Mapping[str, Tap] = field(default_factory=dict)


def _unchanged(participant: Participant) -> Participant:
    return participant


@dataclass(frozen=True)
class Derived:
    """A copy of another role, changed by `transform` (branches), then given `heads` (exits, gates) by name.

    `transform` may change the copy in place; weights it adds come from (seed, role), those of a head from
    (seed, role, head). `edgekd.distill.heads.without_heads` gives a state dict back without the heads.
    """

    of: str
    transform: Callable[[Participant], Participant] = _unchanged
    heads: Mapping[str, Head] = field(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    """A network of the catalogue with the deployed network's classes; weights from (seed, role).

    It takes what the deployed network takes. For peers and assistants of another size.
    """

    network: str
    args: Mapping[str, Any] = field(default_factory=dict)


Role = Given | Fresh | CopyOf | Built | Derived | Architecture


@dataclass(frozen=True)
class Needs:
    """Everything a term may touch; touching anything else is an error.

    outputs: role -> taps (`logits` is one). calls: roles run on tensors that the term computes.
    modules: roles whose module is read itself (batch-norm statistics, classifier weights).
    views: names of the batch's views. same_labels: the roles' logits mean the same classes. whole_batch: the
    value compares samples with one another, so on several processes it is computed on all of their samples.
    least_batch: the fewest samples that it can be computed on.
    """

    outputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    labels: bool = False
    indices: bool = False
    views: tuple[str, ...] = ("x",)
    calls: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    same_labels: bool = True
    whole_batch: bool = False
    least_batch: int = 1

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.outputs, *self.calls, *self.modules)))


@dataclass(frozen=True)
class Term:
    """One summand of a turn's loss: `weight * compute(context)`.

    `compute` returns a scalar. `adapters` are modules that the term owns: built before the optimizers,
    trained by every turn that carries the term, in no deployed model.
    """

    name: str
    compute: Callable[[TermContext], Tensor]
    needs: Needs
    weight: Weight = 1.0
    adapters: Mapping[str, ModuleBuilder] = field(default_factory=dict)


@dataclass(frozen=True)
class Train:
    """A role that learns in a turn; `up_to` keeps to the parameters that the tap depends on."""

    role: str
    up_to: str | None = None


@dataclass(frozen=True)
class Turn:
    """In this turn, train these roles on these terms.

    A role is in train mode if it learns and in eval mode otherwise, unless `modes` says so. `optimizer`
    overrides fields of the engine's optimizer settings. `repeat` updates follow one another per step.
    """

    train: tuple[Train, ...]
    terms: tuple[Term, ...]
    source: Source = field(default_factory=Labeled)
    repeat: int = 1
    modes: Mapping[str, Mode] = field(default_factory=dict)
    optimizer: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trained(self) -> frozenset[str]:
        return frozenset(train.role for train in self.train)

    def mode(self, role: str) -> Mode:
        return self.modes.get(role, "train" if role in self.trained else "eval")

    def taps(self, role: str) -> tuple[str, ...]:
        """What the turn's terms read of a role, without repetition."""
        taps = [tap for term in self.terms for tap in term.needs.outputs.get(role, ())]
        return tuple(dict.fromkeys([*taps, *self.source.outputs.get(role, ())]))

    @property
    def roles(self) -> tuple[str, ...]:
        """Every role that the turn runs or trains."""
        read = [role for term in self.terms for role in term.needs.roles]
        trained = [train.role for train in self.train]
        return tuple(dict.fromkeys([*trained, *read, *self.source.roles]))


@dataclass(frozen=True)
class Start:
    """When the phase begins, `role` takes the weights that `source` has then."""

    role: str
    source: str


@dataclass(frozen=True)
class Phase:
    """`share` of the training spent on `turns`, in order, once per batch.

    The learning-rate schedule and the weight schedules run from 0 to 1 within each phase.
    """

    name: str
    turns: tuple[Turn, ...]
    share: float = 1.0
    hooks: tuple[Hook, ...] = ()
    start: tuple[Start, ...] = ()


def _whole(state: StateDict) -> StateDict:
    return state


@dataclass(frozen=True)
class Deploy:
    """What is shipped: the weights of `role`, read by `extract`, in the plain network given as `network`.

    `extract` turns the role's state dict into one that loads strictly into the plain network (one branch
    of several, the trunk without its exits).
    """

    role: str = "student"
    network: str = "student"
    extract: Callable[[StateDict], StateDict] = _whole


@dataclass(frozen=True)
class Program:
    """A whole training: roles, phases and what is deployed."""

    roles: Mapping[str, Role]
    phases: tuple[Phase, ...]
    deploy: Deploy = field(default_factory=Deploy)
    sampler: Sampler = "shuffled"

    @property
    def turns(self) -> tuple[Turn, ...]:
        return tuple(turn for phase in self.phases for turn in phase.turns)

    @property
    def terms(self) -> tuple[Term, ...]:
        """Every term once; a term may stand in several turns."""
        terms = [term for turn in self.turns for term in turn.terms]
        return tuple({id(term): term for term in terms}.values())

    @property
    def views(self) -> tuple[str, ...]:
        """The views that the loop's batches must carry."""
        return self._supplied().get(LOOP, ("x",))

    @property
    def streams(self) -> Mapping[str, tuple[str, ...]]:
        """The further streams that the turns draw from -> the views that their batches must carry."""
        return {stream: views for stream, views in self._supplied().items() if stream != LOOP}

    def _supplied(self) -> Mapping[str, tuple[str, ...]]:
        """Stream (or `LOOP`) -> views, `x` always among them."""
        found: dict[str, dict[str, None]] = {}
        for turn in self.turns:
            wanted = dict.fromkeys(view for term in turn.terms for view in term.needs.views)
            for stream, views in turn.source.supplies(tuple(wanted)).items():
                found.setdefault(stream, {"x": None}).update(dict.fromkeys(views))
        return {stream: tuple(views) for stream, views in found.items()}

    @cached_property
    def changing(self) -> frozenset[str]:
        """Roles whose weights or statistics differ after training from what they were before."""
        trained = [role for turn in self.turns for role in turn.trained]
        moving = [role for turn in self.turns for role, mode in turn.modes.items() if mode == "train"]
        hooked = [role for phase in self.phases for hook in phase.hooks for role in hook.changes]
        started = [start.role for phase in self.phases for start in phase.start]
        return frozenset([*trained, *moving, *hooked, *started])

    def network_of(self, role: str) -> str | None:
        """The given network whose architecture a role has; None for a built or derived one."""
        origin = self.roles[role]
        match origin:
            case Given():
                return role
            case Fresh(like=other) | CopyOf(role=other):
                return self.network_of(other)
            case Built() | Derived() | Architecture():
                return None

    def takes_images(self, role: str) -> bool:
        """Whether a role is fed images, so that its taps have shapes before training."""
        origin = self.roles[role]
        match origin:
            case Given() | Derived() | Architecture():
                return True
            case Fresh(like=other) | CopyOf(role=other):
                return self.takes_images(other)
            case Built():
                return False

    def with_hook(self, hook: Hook) -> Program:
        """The same program with `hook` in every phase."""
        phases = tuple(replace(phase, hooks=(*phase.hooks, hook)) for phase in self.phases)
        return replace(self, phases=phases)


def student_turn(terms: tuple[Term, ...], student: str = "student") -> Turn:
    """The turn of every offline scheme: the student alone learns."""
    return Turn(train=(Train(student),), terms=terms)
