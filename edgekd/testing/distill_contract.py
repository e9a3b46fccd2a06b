"""The contract that every registered distillation method keeps; third parties run it on theirs.

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_method(check):
        check("my-method")

Every check takes the registered name and raises `AssertionError` saying what was found. The networks are tiny
and have three stages; the method gets as many teachers as its card asks for, all different, unlabeled images
if it draws from such a stream, and phases of equal length, whatever their shares are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from edgekd.testing.method_declarations import (
    card_is_complete,
    fewer_teachers_are_refused,
    needs_are_exact,
    program_is_valid,
    terms_that_compare_samples_say_so,
)
from edgekd.testing.method_files import deployed_model_reloads_elsewhere, training_resumes_bit_for_bit
from edgekd.testing.method_terms import (
    float64_gives_the_same_value,
    gradient_reaches_what_is_trained,
    order_of_samples_does_not_matter,
    terms_vanish_at_match,
    values_are_finite,
)
from edgekd.testing.method_training import (
    batch_of_one_works_or_is_refused,
    every_term_counts_once,
    frozen_roles_stay_untouched,
    nan_names_its_term,
    runs_under_autocast,
    student_differs_from_the_control,
    terms_fall_in_training,
)
from edgekd.testing.tiny_runs import engine_of, program_of, trained_teacher, validation_arrays

__all__ = ["CHECKS", "Check", "engine_of", "program_of", "trained_teacher", "validation_arrays"]

Check = Callable[[str], None]


@contextmanager
def _alone() -> Iterator[None]:
    """One thread, because sums split over several round differently; the random state is put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(before)


def _run_alone(check: Check) -> Check:
    @functools.wraps(check)
    def run(name: str) -> None:
        with _alone():
            check(name)

    return run


CHECKS: tuple[Check, ...] = tuple(
    _run_alone(check)
    for check in (
        card_is_complete,
        program_is_valid,
        fewer_teachers_are_refused,
        needs_are_exact,
        terms_that_compare_samples_say_so,
        values_are_finite,
        gradient_reaches_what_is_trained,
        terms_vanish_at_match,
        float64_gives_the_same_value,
        order_of_samples_does_not_matter,
        every_term_counts_once,
        frozen_roles_stay_untouched,
        runs_under_autocast,
        nan_names_its_term,
        batch_of_one_works_or_is_refused,
        training_resumes_bit_for_bit,
        terms_fall_in_training,
        student_differs_from_the_control,
        deployed_model_reloads_elsewhere,
    )
)
