"""Born-again networks against the paper's gradients in NumPy, and which generation teaches which."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekd.core.errors import UsageError
from edgekd.distill.kernels.respond import kl as kl_kernel
from edgekd.distill.method import Roster
from edgekd.distill.methods.chain.born_again import METHOD, Form, Settings, confidence_weighted, permuted
from edgekd.distill.program import Program
from tests.distill.building import differ, engine_for, train, weights
from tests.distill.methods.watching import (
    ALONE,
    TAUGHT,
    assert_resumes,
    cross_entropy,
    labels,
    logits,
    softened_kl,
    softmax,
    weighing_labels,
)

RNG = np.random.default_rng(2)
STUDENT, TEACHER = RNG.normal(size=(6, 5)), 3 * RNG.normal(size=(6, 5))
LABELS = RNG.integers(5, size=6)


def program(roster: Roster = ALONE, *, generations: int = 3, form: Form = "plain") -> Program:
    built = METHOD.build(Settings(generations=generations, form=form), roster)
    assert isinstance(built, Program)
    return built


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- Forms ---------------------------------------------------------------------------------------


def test_plain_is_cross_entropy_plus_divergence_from_the_generation_before() -> None:
    engine = engine_for(program())
    train(engine, 30, steps=range(20))
    student, before = logits(engine, "student", 20, learns=True), logits(engine, "generation2", 20)
    (values,) = train(engine, 30, steps=[20])
    expected = cross_entropy(student, labels(20)) + softened_kl(before, student, 1.0)
    assert values["total"] == pytest.approx(expected, rel=1e-4)


def test_cwtm_has_the_papers_gradient() -> None:
    """Section 3.2: sum_s w_s (q_s - y_s), w_s = max p_s / sum_u max p_u."""
    student = torch.from_numpy(STUDENT).requires_grad_(True)
    loss = confidence_weighted(student, torch.from_numpy(LABELS), torch.from_numpy(softmax(TEACHER)))
    (gradient,) = torch.autograd.grad(loss, student)
    confidence = softmax(TEACHER).max(axis=1)
    shares = confidence / confidence.sum()
    expected = shares[:, None] * (softmax(STUDENT) - np.eye(5)[LABELS])
    np.testing.assert_allclose(gradient.numpy(), expected, atol=1e-12)


def test_cwtm_of_an_equally_sure_teacher_is_cross_entropy() -> None:
    teacher = torch.from_numpy(softmax(np.stack([np.roll(TEACHER[0], n) for n in range(6)])))
    loss = confidence_weighted(torch.from_numpy(STUDENT), torch.from_numpy(LABELS), teacher)
    assert float(loss) == pytest.approx(cross_entropy(STUDENT, LABELS), rel=1e-12)


def test_dkpp_keeps_the_largest_entry_and_moves_the_others() -> None:
    before = softmax(TEACHER)
    after = permuted(torch.from_numpy(before), generator()).numpy()
    top = before.argmax(axis=1)
    np.testing.assert_array_equal(after.argmax(axis=1), top)
    np.testing.assert_array_equal(after.max(axis=1), before.max(axis=1))
    np.testing.assert_array_equal(np.sort(after, axis=1), np.sort(before, axis=1))
    assert (after != before).any()


def test_dkpp_reaches_every_order_of_the_others_alike() -> None:
    probabilities = torch.tensor([[0.1, 0.6, 0.05, 0.25]]).repeat(6000, 1)
    orders, counts = np.unique(permuted(probabilities, generator()).numpy(), axis=0, return_counts=True)
    assert len(orders) == 6
    assert counts.min() > 850, "a sixth of 6000 each, up to five standard deviations"


def test_dkpp_of_two_classes_changes_nothing() -> None:
    two = torch.from_numpy(softmax(TEACHER[:, :2]))
    assert torch.equal(permuted(two, generator()), two)


def test_dkpp_has_the_papers_gradient() -> None:
    """Section 3.2: q - phi(p) in every class but the largest, q - max p there; mean over the batch."""
    student = torch.from_numpy(STUDENT).requires_grad_(True)
    target = permuted(torch.from_numpy(softmax(TEACHER)), generator(3))
    (gradient,) = torch.autograd.grad(kl_kernel(student, target), student)
    np.testing.assert_allclose(gradient.numpy(), (softmax(STUDENT) - target.numpy()) / 6, atol=1e-12)


@pytest.mark.parametrize("form", ["cwtm", "dkpp"])
def test_cwtm_and_dkpp_have_no_further_label_term(form: Form) -> None:
    taught = program(TAUGHT, generations=1, form=form)
    assert [term.name for term in taught.terms] == ["born-again:student"]
    values = train(engine_for(taught), 3)
    assert values[0].keys() == {"born-again:student", "total", "learning_rate"}


def test_cwtm_in_training_is_the_kernel_on_the_teachers_answers() -> None:
    engine = engine_for(program(TAUGHT, generations=1, form="cwtm"))
    student, teacher = logits(engine, "student", 0, learns=True), softmax(logits(engine, "teacher", 0))
    (values,) = train(engine, 4, steps=[0])
    losses = -np.log(softmax(student)[np.arange(16), labels(0)])
    expected = (losses * teacher.max(axis=1)).sum() / teacher.max(axis=1).sum()
    assert values["total"] == pytest.approx(expected, rel=1e-4)


# ---- The chain -----------------------------------------------------------------------------------


def test_every_generation_starts_anew_and_rests_once_it_teaches() -> None:
    engine = engine_for(program())
    names = ("generation1", "generation2", "student")
    starts = {name: weights(engine, name) for name in names}
    assert differ(starts["generation1"], starts["generation2"])
    assert differ(starts["generation2"], starts["student"])
    for number, name in enumerate(names):
        before = {other: weights(engine, other) for other in names}
        train(engine, 30, steps=range(10 * number, 10 * number + 10))
        changed = {other for other in names if differ(before[other], weights(engine, other))}
        assert changed == {name}
    assert differ(weights(engine, "student"), engine.deployed().state_dict()) == set()


def test_the_first_generation_learns_from_labels_without_a_teacher() -> None:
    engine = engine_for(program())
    first = logits(engine, "generation1", 0, learns=True)
    (values,) = train(engine, 30, steps=[0])
    assert values["total"] == pytest.approx(cross_entropy(first, labels(0)), rel=1e-5)


def test_the_first_generation_learns_from_a_given_teacher() -> None:
    engine = engine_for(program(TAUGHT))
    first, teacher = logits(engine, "generation1", 0, learns=True), logits(engine, "teacher", 0)
    (values,) = train(engine, 30, steps=[0])
    assert values["born-again:generation1"] == pytest.approx(softened_kl(teacher, first, 1.0), rel=1e-4)


def test_no_label_weight_leaves_the_divergence_alone() -> None:
    built = program(weighing_labels(TAUGHT, 0.0), generations=2)
    assert [term.name for term in built.terms] == ["born-again:generation1", "born-again:student"]


def test_one_generation_without_a_teacher_is_refused() -> None:
    with pytest.raises(UsageError, match="nobody to learn from") as caught:
        program(generations=1)
    assert "generations: 2" in str(caught.value)


@pytest.mark.parametrize("form", ["plain", "cwtm", "dkpp"])
def test_it_resumes_in_every_generation(form: Form) -> None:
    assert_resumes(lambda: engine_for(program(TAUGHT, form=form)), 6, at=(1, 3, 5))
