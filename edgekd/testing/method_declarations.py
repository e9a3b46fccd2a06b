"""Checks of the contract: a method is what its card, its program and its needs say."""

from __future__ import annotations

import math

import torch

from edgekd.core.errors import UsageError
from edgekd.data.batch import Batch
from edgekd.distill.catalogue import METHODS, card
from edgekd.distill.program import Term
from edgekd.distill.validate import validate
from edgekd.testing.tiny_networks import IMAGE_SHAPE, tiny_participant
from edgekd.testing.tiny_runs import (
    Setting,
    Stage,
    distillation_terms,
    is_task,
    program_of,
    selected,
    trained_teacher,
)


def card_is_complete(name: str) -> None:
    """The card belongs to the method, its default settings are valid, and what it says is so."""
    method, program = METHODS.load(name), Setting.of(name).program
    assert method.card.name == name
    told = method.card.paper, method.card.equation, method.card.needs, method.card.defaults, method.card.cost
    assert all(told), "the card leaves paper, equation, needs, defaults or cost empty"
    method.settings()
    unknown = set(method.card.may_rise) - {term.name for term in program.terms}
    assert not unknown, f"`may_rise` names terms that there are not: {sorted(unknown)}"
    tasks = [term.name for term in program.phases[-1].turns[-1].terms if is_task(term)]
    alone = not card(name).composable
    assert alone or tasks == ["task"], "the cross-entropy of a composable method is the engine's affair"


def fewer_teachers_are_refused(name: str) -> None:
    """With one teacher less than the card asks for there is a `UsageError` that names the method."""
    count = card(name).num_teachers
    if count == 0:
        return
    student, teachers = tiny_participant(), [trained_teacher(number) for number in range(count - 1)]
    try:
        program_of(name, student, teachers)
    except UsageError as error:
        assert f"`{name}`" in str(error), f"which method? {error}"
    else:
        raise AssertionError(f"it works with {count - 1} teachers, and its card asks for {count}")


def program_is_valid(name: str) -> None:
    """`validate`, which runs before any training, finds nothing."""
    setting = Setting.of(name)
    validate(setting.program, setting.given, IMAGE_SHAPE, streams=tuple(setting.streams()))


def needs_are_exact(name: str) -> None:
    """Touching something undeclared is an error of the context."""
    stage = Stage(name)
    for turn in stage.program.turns:
        for term in turn.terms:
            unused = _declared(term) - stage.noted(turn, term).touched
            assert not unused, f"`{term.name}` declares what it does not use: {sorted(unused)}"


def _declared(term: Term) -> set[tuple[str, ...]]:
    needs = term.needs
    declared: set[tuple[str, ...]] = {
        ("outputs", r, tap) for r, taps in needs.outputs.items() for tap in taps
    }
    declared |= {("calls", role) for role in needs.calls} | {("modules", role) for role in needs.modules}
    declared |= {("adapters", key) for key in term.adapters}
    declared |= {("views", view) for view in needs.views} if needs.outputs else set()
    return (
        declared | ({("labels",)} if needs.labels else set()) | ({("indices",)} if needs.indices else set())
    )


def terms_that_compare_samples_say_so(name: str) -> None:
    """Without `whole_batch` a term is a mean over samples: that of a batch is the mean of its halves'."""
    stage = Stage(name, dtype=torch.float64)
    for turn, term in distillation_terms(stage.program):
        if term.needs.whole_batch or stage.noted(turn, term).stateful:
            continue
        whole, first, second = (stage.number(turn, term, half) for half in (None, _first_half, _second_half))
        assert math.isclose(whole, (first + second) / 2, rel_tol=1e-9, abs_tol=1e-12), (
            f"`{term.name}` is {whole} and on the halves of the batch {first} and {second}: "
            "it compares samples, so it needs `whole_batch=True`"
        )


def _first_half(batch: Batch) -> Batch:
    return selected(batch, lambda size: torch.arange(size // 2))


def _second_half(batch: Batch) -> Batch:
    return selected(batch, lambda size: torch.arange(size // 2, size))
