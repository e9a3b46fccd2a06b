"""Methods made up for the contract: one lawful that uses everything, and one for each defect it finds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.core.config import Config
from edgekd.data.sampling import SAME_CLASS
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.heads import without_heads
from edgekd.distill.hooks import BestCopy, Ema, Hook, HookScope, Snapshot, StaleCopy
from edgekd.distill.kernels.respond import kl
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.participant import Participant
from edgekd.distill.program import (
    LOGITS,
    Architecture,
    Built,
    CopyOf,
    Deploy,
    Derived,
    Fresh,
    Given,
    Head,
    Needs,
    Phase,
    Program,
    Role,
    Start,
    StateDict,
    Term,
    Train,
    Turn,
    student_turn,
)
from edgekd.distill.sources import Beside, Generated, Named
from edgekd.distill.weights import Linear
from edgekd.testing.tiny_networks import IMAGE_SHAPE, NUM_CLASSES


class Settings(Config):
    """They have none."""


def method(build: Callable[[Settings, Roster], Part | Program], **changes: Any) -> Method[Settings]:
    """Registered by the tests as `odd`."""
    fields = {"composable": True, "zero_at_match": False, **changes}
    card = Card(
        name="odd",
        title="-",
        paper="-",
        equation="-",
        catalogue_id="-",
        knowledge="mixed",
        scheme="offline",
        needs="-",
        defaults="-",
        cost="-",
        **fields,
    )
    return Method(card, Settings, build)


def squared(role: str, view: str, of: str, of_view: str, name: str) -> Term:
    """mean |p_role(view) - p_of(of_view)|^2, the latter without gradient."""

    def compute(context: TermContext) -> Tensor:
        target = context.logits(of, of_view).detach().softmax(1)
        return (context.logits(role, view).softmax(1) - target).pow(2).sum(1).mean()

    views = tuple(dict.fromkeys((view, of_view)))
    return Term(name, compute, Needs(outputs={role: (LOGITS,), of: (LOGITS,)}, views=views))


# ---- A lawful one --------------------------------------------------------------------------------


def everything(settings: Settings, roster: Roster) -> Program:
    """Two teachers, four kinds of further networks, two streams, all hooks, three phases."""
    first, second = roster.several_teachers
    assert roster.labels[first] == roster.labels["student"]
    task = roster.task.term
    warm_up = Turn(
        (Train("assistant"),), (task("assistant", name="task:assistant"), mimic("assistant", first, second))
    )
    labeled = Turn(
        (Train("exits"),),
        (
            task("exits"),
            in_class("exits"),
            squared("exits", "unlabeled:x", "average", "unlabeled:x2", "calm"),
        ),
        Beside("unlabeled"),
    )
    unlabeled = Turn(
        (Train("exits"),), (squared("exits", "x", "assistant", "x2", "follow"), exit_term()), Named("other")
    )
    making = Turn((Train("maker"),), (sure(first),), Generated("maker", latent_size=5), repeat=2)
    made = Turn((Train("exits"),), (mimic("exits", first, name="made"),), Generated("maker", latent_size=5))
    hooks = (
        Ema("average", of="exits", decay=0.5),
        StaleCopy("stale", of="exits", every=2),
        BestCopy("best", of="exits"),
        Snapshot("early", of="exits", at=0.3),
    )
    recalling = student_turn((squared("exits", "x", "early", "x2", "again"),), "exits")
    phases = (
        Phase("warm-up", (warm_up,), 0.5),
        Phase("main", (labeled, unlabeled), 2.0, hooks),
        Phase("made", (making, made, recalling), 1.0, start=(Start("early", "stale"),)),
    )
    head = Head(("stage2",), lambda shapes: Exit(shapes["exits", "stage2"][0]))
    exits = Derived("student", heads={"early-exit": head})
    copies = dict.fromkeys(("average", "stale", "best", "early"), CopyOf("exits"))
    roles: dict[str, Role] = {
        "student": Given(),
        first: Given(),
        second: Given(),
        "peer": Fresh("student"),
        "assistant": Architecture("resnet_cifar", {"depth": 8, "width": 0.25}),
        "exits": exits,
        **copies,
        "maker": Built(lambda shapes: Maker()),
    }
    return Program(roles, phases, Deploy("exits", "student", without_heads), sampler="class_uniform")


class Exit(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, NUM_CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(features.mean(dim=(2, 3)))
        return logits


class Maker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, IMAGE_SHAPE[0] * IMAGE_SHAPE[1] * IMAGE_SHAPE[2])

    def forward(self, latent: Tensor) -> Tensor:
        return torch.sigmoid(self.linear(latent)).view(-1, *IMAGE_SHAPE)


def mimic(role: str, *of: str, name: str = "mimic") -> Term:
    """KL to the mean of the others, each with its share in a memory, as a store of weights would be."""

    def compute(context: TermContext) -> Tensor:
        shares = context.memory.setdefault("shares", torch.full((len(of),), 1 / len(of)))
        probabilities = [context.logits(other).detach().softmax(1) for other in of]
        target = sum(share * p for share, p in zip(shares, probabilities, strict=True))
        assert isinstance(target, Tensor)
        return kl(context.logits(role), target)

    outputs = {role: (LOGITS,)} | dict.fromkeys(of, (LOGITS,))
    return Term(name, compute, Needs(outputs=outputs), Linear(1.0, 0.5))


def in_class(role: str) -> Term:
    def compute(context: TermContext) -> Tensor:
        pair = context.logits(role, SAME_CLASS).detach().softmax(1)
        return kl(context.logits(role), pair)

    return Term("in-class", compute, Needs(outputs={role: (LOGITS,)}, views=("x", SAME_CLASS)))


def exit_term() -> Term:
    def compute(context: TermContext) -> Tensor:
        return kl(context.tap("exits", "early-exit"), context.logits("exits").detach().softmax(1))

    return Term("exit", compute, Needs(outputs={"exits": ("early-exit", LOGITS)}))


def sure(teacher: str) -> Term:
    def compute(context: TermContext) -> Tensor:
        logits = context.logits(teacher)
        return F.cross_entropy(logits, logits.argmax(1))

    return Term("sure", compute, Needs(outputs={teacher: (LOGITS,)}))


EVERYTHING = method(
    everything,
    composable=False,
    num_teachers=2,
    may_rise=("in-class", "calm", "follow", "exit", "again", "made"),
)


# ---- Defects -------------------------------------------------------------------------------------

BOTH = Needs(outputs={"student": (LOGITS,), "teacher": (LOGITS,)})


def one_term(
    compute: Callable[[TermContext], Tensor], needs: Needs = BOTH, **changes: Any
) -> Method[Settings]:
    return method(lambda settings, roster: Part(terms=(Term("odd", compute, needs),)), **changes)


def distance(context: TermContext) -> Tensor:
    return (context.logits("student") - context.logits("teacher")).pow(2).mean()


def _twice(settings: Settings, roster: Roster) -> Part:
    term = Term("odd", distance, BOTH)
    return Part(terms=(term, term))


def _counting() -> Callable[[TermContext], Tensor]:
    numbers = itertools.count(1)
    return lambda context: distance(context) * next(numbers)


def _hidden(context: TermContext) -> Tensor:
    return distance(context).nan_to_num()


def _without_task(settings: Settings, roster: Roster) -> Program:
    turn = student_turn((Term("odd", _hidden, BOTH),))
    return Program({"student": Given(), "teacher": Given()}, (Phase("main", (turn,)),))


def _meddling(context: TermContext) -> Tensor:
    with torch.no_grad():
        next(context.module("teacher").parameters()).mul_(1.01)
    return distance(context)


def _whitened(context: TermContext) -> Tensor:
    centered = context.logits("student") - context.logits("student").mean(dim=0)
    length: Tensor = torch.linalg.vector_norm(centered, dim=0)
    return (centered / length).abs().mean()


class Halving(Hook):
    """Leaves the student in bfloat16."""

    def after_step(self, scope: HookScope) -> None:
        if scope.progress.step == 1:
            scope.roles["student"].bfloat16()


class Wrapped(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits


def _wrap(participant: Participant) -> Participant:
    return replace(participant, module=Wrapped(participant.module), taps={})


def _wrapped(settings: Settings, roster: Roster) -> Program:
    """Deploys another network than the student."""
    turn = student_turn((roster.task.term("wrapped"),), "wrapped")
    roles: dict[str, Role] = {"student": Given(), "wrapped": Derived("student", _wrap)}
    return Program(roles, (Phase("main", (turn,)),), Deploy("wrapped", "wrapped"))


def _swollen(state: StateDict) -> StateDict:
    return {**state, "further": torch.zeros(1)}


def _extracted(settings: Settings, roster: Roster) -> Program:
    turn = student_turn((roster.task.term(),))
    return Program({"student": Given()}, (Phase("main", (turn,)),), Deploy(extract=_swollen))


def _replaced(settings: Settings, roster: Roster) -> Program:
    """The student does not start as the control does."""
    roles: dict[str, Role] = {"student": Fresh("seed"), "seed": Given()}
    return Program(roles, (Phase("main", (student_turn((roster.task.term(),)),)),))


STUDENT = Needs(outputs={"student": (LOGITS,)})
SELF = {"num_teachers": 0, "composable": False}

DEFECTS: dict[str, tuple[Method[Settings], str, str]] = {
    "a term that may rise and is not there": (
        one_term(distance, may_rise=("gone",)),
        "card_is_complete",
        "gone",
    ),
    "a teacher that is asked for and not used": (
        one_term(lambda context: context.logits("student").pow(2).mean(), STUDENT),
        "fewer_teachers_are_refused",
        "works with 0 teachers",
    ),
    "a tap that no network has": (
        one_term(distance, Needs(outputs={"student": (LOGITS, "stage9"), "teacher": (LOGITS,)})),
        "program_is_valid",
        "stage9",
    ),
    "an unused need": (one_term(distance, replace(BOTH, labels=True)), "needs_are_exact", "labels"),
    "an undeclared need": (
        one_term(lambda context: F.cross_entropy(context.logits("student"), context.labels), STUDENT),
        "needs_are_exact",
        "without declaring",
    ),
    "samples compared in silence": (
        one_term(lambda context: context.logits("student").std(dim=0).mean(), STUDENT),
        "terms_that_compare_samples_say_so",
        "whole_batch",
    ),
    "an infinite value": (
        one_term(lambda context: distance(context) / 0),
        "values_are_finite",
        "inf",
    ),
    "a vector instead of a scalar": (
        one_term(lambda context: context.logits("student").pow(2).mean(1), STUDENT),
        "values_are_finite",
        "gave",
    ),
    "no gradient": (
        one_term(lambda context: distance(context).detach()),
        "gradient_reaches_what_is_trained",
        "depends on nothing that learns",
    ),
    "a gradient that is not finite": (
        one_term(lambda context: (distance(context) * 0).sqrt()),
        "gradient_reaches_what_is_trained",
        "not finite",
    ),
    "something left at match": (
        one_term(lambda context: distance(context) + 1, zero_at_match=True),
        "terms_vanish_at_match",
        "when student and teacher agree",
    ),
    "numbers squeezed into float32": (
        one_term(lambda context: distance(context).float()),
        "float64_gives_the_same_value",
        "leaves float64",
    ),
    "a weight that depends on the place in the batch": (
        one_term(lambda context: context.logits("student")[0].pow(2).sum(), STUDENT),
        "order_of_samples_does_not_matter",
        "and",
    ),
    "a term that is there twice": (method(_twice), "every_term_counts_once", "several terms"),
    "a teacher that is changed": (
        one_term(_meddling, replace(BOTH, modules=("teacher",))),
        "frozen_roles_stay_untouched",
        "`teacher` changed",
    ),
    "weights in half precision": (
        method(lambda settings, roster: Part(terms=(Term("odd", distance, BOTH),), hooks=(Halving(),))),
        "runs_under_autocast",
        "bfloat16",
    ),
    "a hidden NaN": (
        method(_without_task, composable=False),
        "nan_names_its_term",
        "goes on",
    ),
    "a batch of one that is not finite": (
        one_term(_whitened, replace(STUDENT, whole_batch=True)),
        "batch_of_one_works_or_is_refused",
        "batch of one is not refused",
    ),
    "a state that is not saved": (one_term(_counting()), "training_resumes_bit_for_bit", "resuming"),
    "a value that stays": (
        one_term(lambda context: distance(context) * 0 + 1),
        "terms_fall_in_training",
        "went from",
    ),
    "nothing but the control": (
        method(lambda settings, roster: Part(), num_teachers=0),
        "student_differs_from_the_control",
        "`none` trains",
    ),
    "a start of its own": (
        method(_replaced, **SELF),
        "student_differs_from_the_control",
        "other weights than with `none`",
    ),
    "another network than the student": (
        method(_wrapped, **SELF),
        "deployed_model_reloads_elsewhere",
        "deployed is",
    ),
    "a weight too many": (method(_extracted, **SELF), "deployed_model_reloads_elsewhere", "further"),
}
"""What is wrong -> the method, the check that finds it, and words that it says."""
