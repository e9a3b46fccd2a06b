"""Terms that compare how the samples of a batch relate to one another in student and teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from edgekd.core.errors import UsageError
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.relate import samples
from edgekd.distill.method import Roster, TapPairs
from edgekd.distill.program import Needs, Term
from edgekd.distill.weights import Weight

EMBEDDING = "embedding"
"""The tap in front of the classifier."""

Compare = Callable[[Tensor, Tensor], Tensor]
"""(student's rows [B, d_s], teacher's rows [B, d_t]) -> scalar."""


def embedding_pairs(roster: Roster, wanted: Mapping[str, str] | None) -> TapPairs:
    """`wanted`, or the embeddings of both. Raises `UsageError` when a name is not a tap."""
    return roster.pairs(wanted or {EMBEDDING: EMBEDDING})


def last_stage_pairs(roster: Roster, wanted: Mapping[str, str] | None) -> TapPairs:
    """`wanted`, or the last stages of both. Raises `UsageError` when a name is not a tap."""
    pairs = roster.pairs(wanted)
    return pairs if wanted else pairs[-1:]


def relation_term(
    name: str, roster: Roster, pairs: TapPairs, compare: Compare, weight: Weight, *, least: int = 2
) -> Term:
    """Sum over the tap pairs of `compare` on the batch's features, flattened to one row per sample.

    The teacher's rows are detached. The term raises `UsageError` for a batch of fewer than `least` samples.
    """
    student, teacher = roster.student, roster.teacher

    def compute(context: TermContext) -> Tensor:
        values = []
        for mine, theirs in pairs:
            rows = samples(context.tap(student, mine))
            require_batch(name, len(rows), least)
            values.append(compare(rows, samples(context.tap(teacher, theirs)).detach()))
        return sum(values[1:], start=values[0])

    needs = pair_needs(roster, pairs, whole_batch=True, least_batch=least)
    return Term(name, compute, needs, weight)


def pair_needs(roster: Roster, pairs: TapPairs, *, whole_batch: bool, least_batch: int = 1) -> Needs:
    """Student's and teacher's taps of the pairs."""
    mine, theirs = zip(*pairs, strict=True)
    outputs = {roster.student: tuple(dict.fromkeys(mine)), roster.teacher: tuple(dict.fromkeys(theirs))}
    return Needs(outputs=outputs, whole_batch=whole_batch, least_batch=least_batch)


def require_batch(term: str, count: int, least: int) -> None:
    """Raises `UsageError` when a term that relates samples to one another gets too few of them."""
    if count < least:
        raise UsageError(
            f"term `{term}` compares the samples of a batch with one another, needs {least} and got {count}",
            fix=f"train with a batch size of {least} or more",
        )
