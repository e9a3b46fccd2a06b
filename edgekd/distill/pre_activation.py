"""What methods on pre-activations share: pairs of taps, a connector for each, weights of the stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from edgekd.distill.adapters import connector
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.regress import as_map
from edgekd.distill.method import Roster, TapPairs
from edgekd.distill.program import Needs, Term

Distance = Callable[[TermContext, str, Tensor, Tensor], Tensor]
"""(context, teacher's tap, connected student, teacher) -> mean over batch and elements; maps of one shape."""


def pre_activation_pairs(roster: Roster, wanted: Mapping[str, str] | None) -> TapPairs:
    """`wanted` (student's tap -> teacher's), or the `:pre` taps of the stages, matched from the deepest up.

    Raises `UsageError` when a name is not a tap or the networks have no stages.
    """
    return roster.pairs(wanted or {f"{mine}:pre": f"{theirs}:pre" for mine, theirs in roster.pairs(None)})


def stage_weights(sizes: Sequence[int]) -> list[float]:
    """2^(l - L) n_l / n_L for l = 1..L, where a sample of the teacher's l-th map has n_l elements.

    Heo et al. (2019a, 2019c) add up squared errors over elements and weight stage l by 2^(l - L). On means
    over elements these are the same weights times n_L: about 1 each, as a stage halves the elements.
    """
    last = len(sizes) - 1
    return [2.0 ** (stage - last) * size / sizes[last] for stage, size in enumerate(sizes)]


def connected_term(
    name: str,
    student: str,
    teacher: str,
    pairs: TapPairs,
    distance: Distance,
    weight: float,
    *,
    modules: tuple[str, ...] = (),
) -> Term:
    """sum_l stage_weight_l distance(connector_l(student's map), teacher's map); `pairs` from shallow to deep.

    modules: roles whose module `distance` reads.
    """

    def compute(context: TermContext) -> Tensor:
        connected = [context.adapter(mine)(context.tap(student, mine)) for mine, _ in pairs]
        teachers = [as_map(context.tap(teacher, theirs)) for _, theirs in pairs]
        distances = [
            distance(context, theirs, *maps)
            for (_, theirs), *maps in zip(pairs, connected, teachers, strict=True)
        ]
        weights = stage_weights([features[0].numel() for features in teachers])
        first, *rest = [w * value for w, value in zip(weights, distances, strict=True)]
        return sum(rest, start=first)

    mine, theirs = zip(*pairs, strict=True)
    needs = Needs(outputs={student: mine, teacher: theirs}, modules=modules)
    adapters = {m: connector((student, m), (teacher, t)) for m, t in pairs}
    return Term(name, compute, needs, weight, adapters)
