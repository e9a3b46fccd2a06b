"""What terms, hooks and sources may do: stores, input gradients, further data, surgery."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.data.batch import Batch
from edgekd.distill.context import TermContext
from edgekd.distill.hooks import Hook, HookScope
from edgekd.distill.program import (
    LOGITS,
    Given,
    Needs,
    Phase,
    Program,
    Term,
    Train,
    Turn,
    student_turn,
)
from edgekd.distill.sources import LoaderStream, Named
from edgekd.testing.tiny_networks import (
    NUM_CLASSES,
    tiny_batch,
)
from edgekd.train.trainable import Position
from tests.distill.building import differ, engine_for, mimic, task, train


def test_a_term_keeps_a_store_by_sample_index_through_a_resume() -> None:
    def to_last_time(context: TermContext) -> Tensor:
        logits = context.logits("student")
        store = context.memory.setdefault("logits", torch.zeros(16, NUM_CLASSES))
        rows = context.indices % 16
        loss = (logits - store[rows]).pow(2).mean()
        store[rows] = logits.detach()
        return loss

    def program() -> Program:
        needs = Needs(outputs={"student": (LOGITS,)}, indices=True)
        terms = (task(), Term("memory", to_last_time, needs))
        return Program({"student": Given()}, (Phase("main", (student_turn(terms),)),))

    whole, first, second = (engine_for(program()) for _ in range(3))
    values = train(whole, 6)
    train(first, 6, steps=range(3))
    second.load_state(first.state())
    assert train(second, 6, steps=range(3, 6)) == values[3:]


def test_a_term_may_match_input_gradients() -> None:
    """Jacobian matching: differentiates twice through the student."""

    def jacobian(context: TermContext) -> Tensor:
        images = context.images(input_grad=True)
        rows = []
        for role in ("student", "teacher"):
            chosen = context.logits(role, input_grad=True).gather(1, context.labels[:, None]).sum()
            (gradient,) = torch.autograd.grad(chosen, images, create_graph=role == "student")
            rows.append(F.normalize(gradient.flatten(1), dim=1))
        return (rows[0] - rows[1].detach()).pow(2).sum(1).mean()

    needs = Needs(outputs={"student": (LOGITS,), "teacher": (LOGITS,)}, labels=True)
    terms = (task(), Term("jacobian", jacobian, needs))
    roles = {"student": Given(), "teacher": Given()}
    values = train(engine_for(Program(roles, (Phase("main", (student_turn(terms),)),))), 30)
    assert values[-1]["jacobian"] < values[0]["jacobian"]


class CountingLoader:
    """Three batches an epoch; knows what was opened."""

    def __init__(self) -> None:
        self.opened: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return 3

    def epoch(self, number: int, *, start: int = 0) -> Iterator[Batch]:
        self.opened.append((number, start))
        return (tiny_batch(100 + 3 * number + place) for place in range(start, 3))


def test_a_turn_may_draw_from_a_further_stream_that_resumes_anywhere() -> None:
    loader = CountingLoader()
    turn = Turn((Train("student"),), (mimic("student", "teacher"),), Named("unlabeled"))
    program = Program({"student": Given(), "teacher": Given()}, (Phase("main", (turn,)),))
    engine = engine_for(program, streams={"unlabeled": LoaderStream(loader)})
    train(engine, 9, steps=range(5))
    assert loader.opened == [(0, 0), (1, 0)]
    later = engine_for(program, streams={"unlabeled": LoaderStream(loader)})
    later.load_state(engine.state())
    assert train(later, 9, steps=[5]) == train(engine, 9, steps=[5])
    assert loader.opened[2:] == [(1, 2)]


class Silence(Hook):
    """Gradient surgery: the trained roles' gradients are set to zero."""

    def before_update(self, scope: HookScope, trained: frozenset[str]) -> None:
        for role in trained:
            for parameter in scope.roles[role].parameters():
                if parameter.grad is not None:
                    parameter.grad.zero_()


def test_a_hook_may_change_gradients_before_the_update() -> None:
    phase = Phase("main", (student_turn((task(),)),), hooks=(Silence(),))
    engine = engine_for(Program({"student": Given()}, (phase,)))
    before = {k: v.detach().clone() for k, v in engine.roles["student"].module.named_parameters()}
    train(engine, 2)
    assert differ(before, dict(engine.roles["student"].module.named_parameters())) == set()


def test_hooks_hear_of_epochs_and_evaluations() -> None:
    heard: list[str] = []

    class Listener(Hook):
        def after_epoch(self, scope: HookScope) -> None:
            heard.append("epoch")

        def after_evaluation(self, scope: HookScope, accuracy: float) -> None:
            heard.append("evaluation")

    engine = engine_for(
        Program({"student": Given()}, (Phase("main", (student_turn((task(),)),), hooks=(Listener(),)),))
    )
    train(engine, 1)
    engine.end_epoch(Position(1, 1, 0, 1))
    engine.evaluate()
    assert heard == ["epoch", "evaluation"]
