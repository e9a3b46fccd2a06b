"""Training without some of a program's terms: what is left to do then, and what each term stands for.

Leaving a term out changes nothing else: the other weights, the batches and the number of updates stay. What
only that term needed goes with it: adapters, a discriminator's turn, a phase (its share falls to the others),
the teacher's forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgekd.core.errors import UsageError, close_names
from edgekd.distill.catalogue import card
from edgekd.distill.program import CopyOf, Derived, Fresh, Phase, Program, Role, Start, Term, Turn
from edgekd.distill.settings import DistillSettings, MethodUse
from edgekd.distill.weights import weight_at

LABELS = "labels"
"""The kind of what cross-entropy with the labels teaches, beside the kinds of a card."""
_TASK = "task"
"""How the name of every cross-entropy with the labels begins (edgekd/distill/method.py `Task`)."""
_FRACTIONS = tuple(step / 100 for step in range(100))


@dataclass(frozen=True)
class Ingredient:
    """A term of the student's loss: the method that brings it (None: the task itself), the kind of knowledge
    that it carries, and its weight when a phase begins and when it ends."""

    term: str
    method: str | None
    knowledge: str
    weight: tuple[float, float]


def learned_from(program: Program) -> tuple[Term, ...]:
    """The terms that have a weight in the turns that train what is deployed."""
    return tuple(term for term in _of_student(program) if _counts(term))


def without(program: Program, names: Sequence[str]) -> Program:
    """The same training without the terms called `names`.

    Raises `UsageError` for a name that is no term of the turns that train what is deployed, and where nothing
    would be left to learn from.
    """
    if not names:
        return program
    legal = [term.name for term in _of_student(program)]
    for name in names:
        if name not in legal:
            raise UsageError(_unknown(program, name, legal), choices=legal, fix="name one of these terms")
    left = [term.name for term in learned_from(program) if term.name not in names]
    if not left:
        raise UsageError(
            f"without {_listed(names)} there is nothing left that the student learns from",
            fix="leave out fewer terms",
        )
    return _pruned(program, frozenset(names))


def ingredients(
    settings: DistillSettings, program_of: Callable[[DistillSettings], Program]
) -> dict[str, Ingredient]:
    """Every term that the student learns from, by its name. `program_of` builds a program from settings."""
    whole = program_of(settings.model_copy(update={"leave_out": ()}))
    owners = _owners(settings, program_of)
    return {term.name: _ingredient(term, owners) for term in _of_student(whole)}


def _ingredient(term: Term, owners: Mapping[str, str]) -> Ingredient:
    ends = (weight_at(term.weight, 0.0), weight_at(term.weight, 1.0))
    if term.name.startswith(_TASK):
        return Ingredient(term.name, None, LABELS, ends)
    method = owners[term.name]
    known = card(method)
    return Ingredient(term.name, method, known.kinds.get(term.name, known.knowledge), ends)


def _owners(settings: DistillSettings, program_of: Callable[[DistillSettings], Program]) -> dict[str, str]:
    """Term -> the method that brings it: the one whose program has it when it stands alone."""

    def alone(use: MethodUse) -> Program:
        return program_of(settings.model_copy(update={"method": (use,), "leave_out": ()}))

    return {term.name: use.name for use in settings.method for term in alone(use).terms}


def _learners(program: Program) -> frozenset[str]:
    """The deployed role; where a hook writes that one (an average), whatever trains beside the hook too."""
    deployed = program.deploy.role
    written = [phase for phase in program.phases if any(deployed in hook.changes for hook in phase.hooks)]
    beside = [role for phase in written for turn in phase.turns for role in turn.trained]
    return frozenset([deployed, *beside])


def _of_student(program: Program) -> tuple[Term, ...]:
    learners = _learners(program)
    terms = [term for turn in program.turns if turn.trained & learners for term in turn.terms]
    return tuple({term.name: term for term in terms}.values())


def _counts(term: Term) -> bool:
    return any(weight_at(term.weight, fraction) for fraction in _FRACTIONS)


def _unknown(program: Program, name: str, legal: Sequence[str]) -> str:
    if name in (term.name for term in program.terms):
        trained = [turn.trained for turn in program.turns if name in (term.name for term in turn.terms)]
        roles = _listed(sorted(frozenset().union(*trained)))
        return f"term `{name}` cannot be left out: it trains {roles}, not the student"
    return f"`{name}` is no term of the student's loss{close_names(name, legal)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _pruned(program: Program, names: frozenset[str]) -> Program:
    phases = [
        replace(phase, turns=tuple(_stripped(turn, names) for turn in phase.turns))
        for phase in program.phases
    ]
    needed = _needed(program, phases)
    kept: list[Phase] = []
    starts: tuple[Start, ...] = ()
    for phase in phases:
        # Weights that a dropped phase would have handed on are handed on at the next one's beginning.
        starts += tuple(start for start in phase.start if start.role in needed)
        turns = tuple(_with_modes_of(turn, needed) for turn in phase.turns if turn.trained & needed)
        if turns:
            hooks = tuple(hook for hook in phase.hooks if needed.issuperset(hook.changes))
            kept.append(replace(phase, turns=turns, hooks=hooks, start=starts))
            starts = ()
    roles = {name: role for name, role in program.roles.items() if name in _with_origins(program, needed)}
    return replace(program, roles=roles, phases=tuple(kept))


def _stripped(turn: Turn, names: frozenset[str]) -> Turn:
    """The turn without those terms, and without training what only they used; empty: trains nobody."""
    terms = tuple(term for term in turn.terms if term.name not in names)
    if terms == turn.terms:
        return turn
    read = {role for term in terms for role in term.needs.roles} | {*turn.source.roles}
    train = tuple(train for train in turn.train if train.role in read) if terms else ()
    return replace(turn, terms=terms, train=train)


def _needed(program: Program, phases: Sequence[Phase]) -> frozenset[str]:
    """The roles that what is deployed depends on. What a hook reads is not declared: where one is needed,
    every role is."""
    needed = {program.deploy.role, program.deploy.network}
    before = 0
    while len(needed) > before:
        before = len(needed)
        for phase in phases:
            if any(not hook.changes or needed & {*hook.changes} for hook in phase.hooks):
                return frozenset(program.roles)
            needed |= {start.source for start in phase.start if start.role in needed}
            needed.update(role for turn in phase.turns if turn.trained & needed for role in turn.roles)
    return frozenset(needed)


def _with_modes_of(turn: Turn, needed: frozenset[str]) -> Turn:
    return replace(turn, modes={role: mode for role, mode in turn.modes.items() if role in needed})


def _with_origins(program: Program, needed: frozenset[str]) -> frozenset[str]:
    """Those roles, and the ones whose architecture or first weights they take."""
    found: set[str] = set()
    waiting = [*needed]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _origins(program.roles[name])
    return frozenset(found)


def _origins(role: Role) -> tuple[str, ...]:
    match role:
        case Fresh(like=other) | CopyOf(role=other) | Derived(of=other):
            return (other,)
        case _:
            return ()
