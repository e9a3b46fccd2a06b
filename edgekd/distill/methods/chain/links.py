"""The links of a chain: phases in which one role learns, from labels or from roles that rest.

The phases of a chain share the epochs, so every network of a chain gets its share of them and no more; the
learning-rate schedule runs once in each phase.
"""

from __future__ import annotations

from dataclasses import replace

from edgekd.distill.hooks import Hook
from edgekd.distill.method import STUDENT, Roster
from edgekd.distill.program import Fresh, Given, Phase, Role, Term, student_turn


def from_labels(roster: Roster, role: str, *, share: float = 1.0, hooks: tuple[Hook, ...] = ()) -> Phase:
    """`role` learns from the labels alone.

    A recipe's task weight says what labels count beside a teacher, so it does not scale this phase.
    """
    task = replace(roster.task, weight=None).term(role, name=f"task:{role}")
    return Phase(f"{role} learns from labels", (student_turn((task,), role),), share, hooks)


def from_terms(role: str, terms: tuple[Term, ...], *, share: float = 1.0) -> Phase:
    """`role` learns from `terms`, which read roles that rest."""
    return Phase(f"{role} learns by {terms[-1].name}", (student_turn(terms, role),), share)


def task_terms(roster: Roster, role: str, weight: float) -> tuple[Term, ...]:
    """Cross-entropy with the labels at the recipe's weight, else `weight`; nothing where that is zero."""
    task = roster.task.term(role, weight=weight, name=f"task:{role}")
    return (task,) if task.weight else ()


def generations(count: int) -> tuple[str, ...]:
    """`generation1`, `generation2`, ... and last the student itself, which is what is deployed."""
    return (*(f"generation{number + 1}" for number in range(count - 1)), STUDENT)


def cast_generations(names: tuple[str, ...]) -> dict[str, Role]:
    """The student as given, every earlier generation with its architecture and weights of its own."""
    return {name: Given() if name == STUDENT else Fresh(STUDENT) for name in names}
