"""The card of a method: where it comes from, what it computes, how our form differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from edgekd.core.config import Config

Knowledge = Literal["none", "response", "feature", "relation", "mixed"]
Scheme = Literal["none", "offline", "online", "self", "adversarial", "data-free", "chain"]


class Card(Config):
    """`equation` is in our reduction convention; `defaults` says how the paper's numbers became ours.

    `zero_at_match`: the term is 0 when the student's outputs equal the teacher's. `permutation_invariant`:
    the order of the samples in a batch does not change it. `composable`: may stand beside other methods.
    `num_teachers`: the fewest it works with. `may_rise`: names of terms that need not fall in training (what
    an adversary answers to, an entropy that is maximized). `cost`: what it adds to an update of the student
    alone, and what it keeps in memory (b: batch size, N: training images). `kinds`: names of terms whose
    knowledge is of another kind than `knowledge`, or of one kind where that is `mixed`.
    """

    name: str
    title: str
    paper: str
    equation: str
    catalogue_id: str
    knowledge: Knowledge
    scheme: Scheme
    needs: str
    defaults: str
    cost: str = ""
    deviations: tuple[str, ...] = ()
    zero_at_match: bool = True
    permutation_invariant: bool = True
    composable: bool = True
    num_teachers: int = 1
    may_rise: tuple[str, ...] = ()
    kinds: Mapping[str, Knowledge] = {}
