"""DAFL: what the generator is asked for, against NumPy; that no data are read; that the student learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgekd.core.errors import UsageError
from edgekd.distill.context import TermContext
from edgekd.distill.engine import Engine
from edgekd.distill.method import Roster, Task
from edgekd.distill.methods.synthetic.dafl import GENERATOR, METHOD, Settings, generator_terms
from edgekd.distill.methods.synthetic.generator import Generator
from edgekd.distill.program import Program, Term
from edgekd.distill.weights import weight_at
from edgekd.testing.tiny_networks import IMAGE_SHAPE, tiny_batch
from edgekd.testing.tiny_runs import trained_teacher
from edgekd.train.trainable import Position
from tests.distill.building import differ, engine_for, train, weights
from tests.distill.methods.answers import Array, softmax
from tests.distill.methods.watching import CHANCE, TAPS, TAUGHT, assert_resumes

RNG = np.random.default_rng(9)
LOGITS, FEATURES = 3 * RNG.normal(size=(8, 10)), RNG.normal(size=(8, 6))


def program(roster: Roster = TAUGHT, **settings: object) -> Program:
    built = METHOD.build(Settings.model_validate(settings), roster)
    assert isinstance(built, Program)
    return built


def engine_of(**settings: object) -> Engine:
    return engine_for(program(**settings), teachers=[trained_teacher()])  # type: ignore[arg-type]


class Answered:
    """Stands where a term reads what the teacher says: these logits, these features."""

    def __init__(self, logits: Array, features: Array) -> None:
        self._taps = {"logits": torch.from_numpy(logits), "embedding": torch.from_numpy(features)}

    def tap(self, role: str, tap: str) -> torch.Tensor:
        assert role == "teacher"
        return self._taps[tap]


def value(term: Term, logits: Array = LOGITS) -> float:
    context: TermContext = Answered(logits, FEATURES)  # type: ignore[assignment]
    return float(term.compute(context))


# ---- The generator's turn ------------------------------------------------------------------------


def test_the_generators_objective_is_the_authors() -> None:
    """CE(z, argmax z) + 5 sum q log10 q - 0.1 mean |e|, the entropy in base 10 as in their code."""
    mean = softmax(LOGITS).mean(axis=0)
    onehot = -np.log(softmax(LOGITS).max(axis=1)).mean()
    expected = onehot + 5 * (mean * np.log10(mean)).sum() - 0.1 * np.abs(FEATURES).mean()
    terms = generator_terms(Settings(), TAUGHT)
    total = sum(weight_at(term.weight, 0.0) * value(term) for term in terms)
    assert total == pytest.approx(expected, rel=1e-10)


def test_even_predictions_over_ten_classes_have_one_digit_of_entropy() -> None:
    (entropy,) = (term for term in generator_terms(Settings(), TAUGHT) if term.name == "dafl-entropy")
    assert value(entropy, 100 * np.eye(10)) == pytest.approx(-1.0)
    assert entropy.needs.whole_batch


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 13, 10), (3, 8, 8), (4, 1, 2)])
def test_the_generator_makes_images_of_any_size(shape: tuple[int, int, int]) -> None:
    with torch.no_grad():
        images = Generator(7, shape)(torch.randn(4, 7, generator=torch.Generator().manual_seed(0)))
    assert images.shape == (4, *shape)
    assert float(images.min()) >= 0 and float(images.max()) <= 1


def test_the_generator_has_the_size_of_the_datas_images() -> None:
    engine = engine_of(latent_size=5)
    images = engine.roles[GENERATOR].module(torch.zeros(2, 5))
    assert images.shape == (2, *IMAGE_SHAPE)


# ---- Turns ---------------------------------------------------------------------------------------


def parameters(engine: Engine, role: str) -> dict[str, torch.Tensor]:
    named = engine.roles[role].module.named_parameters()
    return {name: parameter.detach().clone() for name, parameter in named}


@pytest.mark.parametrize(("turn", "learning"), [(0, {GENERATOR}), (1, {"student"})])
def test_each_turn_trains_one_network(turn: int, learning: set[str]) -> None:
    built = program()
    (phase,) = built.phases
    engine = engine_for(
        replace(built, phases=(replace(phase, turns=(phase.turns[turn],)),)), teachers=[trained_teacher()]
    )
    before = {role: parameters(engine, role) for role in engine.roles}
    train(engine, 2)
    after = {role: parameters(engine, role) for role in engine.roles}
    assert {role for role in before if differ(before[role], after[role])} == learning


def test_no_image_and_no_label_of_the_data_is_read() -> None:
    one, other = engine_of(), engine_of()
    for step in range(3):
        given, position = tiny_batch(step), Position(step, 3, 0, 1)
        ruined = replace(given, views={"x": 1 - given.views["x"]}, labels=3 - given.labels)
        assert one.step(given, position) == other.step(ruined, position)
    assert differ(weights(one, "student"), weights(other, "student")) == set()


def test_the_student_learns_the_task_without_data() -> None:
    engine = engine_of()
    values = [step["dafl"] for step in train(engine, 70)]
    assert sum(values[-10:]) < 0.7 * sum(values[:10])
    assert engine.evaluate() > CHANCE + 0.15


# ---- Needs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [Task(weight=0.5), Task(label_smoothing=0.1)])
def test_weighing_labels_is_refused(task: Task) -> None:
    with pytest.raises(UsageError, match="reads no label"):
        program(replace(TAUGHT, task=task))
    program(replace(TAUGHT, task=Task(weight=0.0)))


def test_a_teacher_without_features_needs_no_activation_term() -> None:
    bare = Roster(("teacher",), TAPS, {"teacher": ()})
    with pytest.raises(UsageError, match="no tap `embedding`") as caught:
        program(bare)
    assert "activation_weight: 0" in str(caught.value)
    names = [term.name for term in program(bare, activation_weight=0).terms]
    assert names == ["dafl-onehot", "dafl-entropy", "dafl"]


def test_it_resumes() -> None:
    assert_resumes(engine_of, 4, at=(1, 3))
