"""Whether a program can run on given networks, before any compute is spent."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch

from edgekd.core.errors import EdgekdError, UnmetNeedsError
from edgekd.data.batch import Batch
from edgekd.distill.cast import ImageShape, assemble
from edgekd.distill.context import Context, Live, OutputCache, Progress, TermContext
from edgekd.distill.participant import Participant
from edgekd.distill.program import LOGITS, Built, Program, Term
from edgekd.distill.sources import LOOP
from edgekd.train.precision import Precision

_BATCH_SIZE = 4


def validate(
    program: Program,
    given: Mapping[str, Participant],
    image_shape: ImageShape,
    *,
    lost_taps: Collection[str] = (),
    streams: Collection[str] = (),
    batch_sizes: Mapping[str, int] | None = None,
    trial: bool = True,
) -> None:
    """Raise one `UnmetNeedsError` with everything the program needs and these networks do not give.

    given: role -> network, on any device (`meta` networks cost no memory); none is changed. image_shape:
    (C, H, W) of the batches. lost_taps: taps of the student that folding removes. batch_sizes: images in a
    batch of the loop (under `LOOP`) and of the streams, where known. trial: also compute every term once, on
    copies of the networks; without it their modules are not touched.
    """
    problems = [*_defects(program), *_missing_roles(program, given)]
    if not problems:
        problems = [
            *_tap_problems(program, given, frozenset(lost_taps)),
            *_label_problems(program, given),
            *_stream_problems(program, streams),
            *_batch_problems(program, batch_sizes or {}),
        ]
    if trial and not problems:
        problems = list(_trial(program, given, image_shape))
    if problems:
        raise UnmetNeedsError("the method cannot run on these networks", problems=problems)


def _defects(program: Program) -> Iterator[str]:
    """Mistakes of the method's author."""
    if not program.phases or not all(phase.turns and phase.share > 0 for phase in program.phases):
        yield "a program needs phases with turns and a positive share"
    for role in _named_roles(program):
        if role not in program.roles:
            yield f"role `{role}` is used and not declared; declared: {', '.join(program.roles)}"
    names = [term.name for term in program.terms]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"two terms are called `{name}`"
    for turn in program.turns:
        if not turn.terms or not turn.train:
            yield "a turn needs terms and a role to train"
    if isinstance(program.roles.get(program.deploy.role), Built):
        yield f"the deployed role `{program.deploy.role}` is not an image network"


def _named_roles(program: Program) -> tuple[str, ...]:
    turns = [role for turn in program.turns for role in turn.roles]
    hooks = [role for phase in program.phases for hook in phase.hooks for role in hook.changes]
    starts = [role for phase in program.phases for s in phase.start for role in (s.role, s.source)]
    deploy = (program.deploy.role, program.deploy.network)
    return tuple(dict.fromkeys([*turns, *hooks, *starts, *deploy]))


def _missing_roles(program: Program, given: Mapping[str, Participant]) -> Iterator[str]:
    for role in program.roles:
        network = program.network_of(role) if role in program.roles else None
        if network is not None and network not in given:
            yield f"it needs a network for its role `{role}` (given: {', '.join(given) or 'none'})"


def _tap_problems(program: Program, given: Mapping[str, Participant], lost: frozenset[str]) -> Iterator[str]:
    for term in program.terms:
        for role, taps in term.needs.outputs.items():
            network = program.network_of(role)
            if network is None:
                continue
            legal = {*given[network].taps, LOGITS}
            for tap in taps:
                if network == program.deploy.network and tap in lost:
                    yield (
                        f"term `{term.name}` reads the student's tap `{tap}`, which is lost when batch norm "
                        f"is folded for quantization; name one that is left in the method's parameters "
                        f"({', '.join(sorted(legal - lost))}), or quantize with `kd`"
                    )
                elif tap not in legal:
                    yield (
                        f"term `{term.name}` needs tap `{tap}` of `{role}`, which has: "
                        f"{', '.join(sorted(legal))}"
                    )


def _label_problems(program: Program, given: Mapping[str, Participant]) -> Iterator[str]:
    for term in program.terms:
        readers = [role for role, taps in term.needs.outputs.items() if LOGITS in taps]
        # Who reads the modules of several roles has their classifiers in hand.
        readers += term.needs.modules
        networks = dict.fromkeys(program.network_of(role) for role in readers)
        labels = {n: given[n].labels for n in networks if n is not None and given[n].labels is not None}
        if term.needs.same_labels and len(set(labels.values())) > 1:
            first = next(iter(labels))
            second = next(name for name in labels if labels[name] != labels[first])
            yield (
                f"term `{term.name}` compares the logits of `{first}` and `{second}`, whose classes differ "
                f"({_difference(labels[first], labels[second])}); give both the same labels in the same "
                "order (`lwf` takes a teacher of some of the student's classes)"
            )


def _difference(first: tuple[str, ...] | None, second: tuple[str, ...] | None) -> str:
    one, other = first or (), second or ()
    if len(one) != len(other):
        return f"{len(one)} and {len(other)} classes"
    where = next((n for n, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]), 0)
    return f"class {where} is `{one[where]}` and `{other[where]}`"


def _stream_problems(program: Program, streams: Collection[str]) -> Iterator[str]:
    for name in program.streams:
        if name not in streams:
            yield f"it needs the data stream `{name}` (given: {', '.join(streams) or 'none'})"


def _batch_problems(program: Program, sizes: Mapping[str, int]) -> Iterator[str]:
    told = set()
    for turn in program.turns:
        for term in turn.terms:
            supplies = turn.source.supplies(term.needs.views)
            streams = [stream for stream, views in supplies.items() if views] or [LOOP]
            size = min((sizes[stream] for stream in streams if stream in sizes), default=None)
            if size is not None and size < term.needs.least_batch and term.name not in told:
                told.add(term.name)
                yield (
                    f"term `{term.name}` compares the samples of a batch with one another: it needs "
                    f"{term.needs.least_batch} and gets {size}; give `batch_size: {term.needs.least_batch}` "
                    "or more, and as many images"
                )


def _trial(program: Program, given: Mapping[str, Participant], shape: ImageShape) -> Iterator[str]:
    """Every term once on copies of the networks."""
    copies = {name: participant.copy() for name, participant in given.items()}
    try:
        cast = assemble(program, copies, shape, seed=0)
    except (EdgekdError, RuntimeError, KeyError, IndexError) as error:
        yield f"a network or adapter cannot be built or run: {error}"
        return
    for role in cast.roles.values():
        role.module.eval()
    device = next(iter(cast.roles.values())).device
    streams = {name: _Black(views, shape, device) for name, views in program.streams.items()}
    live = Live(cast, Precision("fp32", "cpu"), 0, streams, {})
    for turn in program.turns:
        context = Context(
            live,
            turn,
            Progress(0, 0, 0.0),
            _Black(program.views, shape, device).batch(0),
            OutputCache(),
        )
        for term in turn.terms:
            yield from _trial_of_term(term, context)


@dataclass(frozen=True)
class _Black:
    """A stream of black images, all of class 0."""

    views: tuple[str, ...]
    shape: ImageShape
    device: torch.device

    def batch(self, number: int) -> Batch:
        labels = torch.zeros(_BATCH_SIZE, dtype=torch.int64, device=self.device)
        images = torch.zeros(_BATCH_SIZE, *self.shape, device=self.device)
        return Batch(dict.fromkeys(self.views, images), labels, torch.arange(_BATCH_SIZE, device=self.device))


def _trial_of_term(term: Term, context: Context) -> Iterator[str]:
    try:
        value = term.compute(TermContext(context, term))
    except (RuntimeError, ValueError, IndexError, EdgekdError) as error:
        yield f"term `{term.name}`: {error}"
        return
    if value.dim() != 0:
        yield f"term `{term.name}` gives shape {tuple(value.shape)} where a scalar belongs"
