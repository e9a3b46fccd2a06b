"""Checks of the contract: values and gradients of a method's terms, one at a time."""

from __future__ import annotations

import torch
from torch import nn

from edgekd.data.batch import Batch
from edgekd.distill.catalogue import card
from edgekd.testing.tiny_runs import Stage, distillation_terms, selected


def values_are_finite(name: str) -> None:
    stage = Stage(name)
    for turn in stage.program.turns:
        for term in turn.terms:
            value = stage.value(turn, term)
            assert value.dim() == 0 and torch.isfinite(value), f"`{term.name}` gave {value}"


def gradient_reaches_what_is_trained(name: str) -> None:
    stage = Stage(name)
    for turn in stage.program.turns:
        _forget_gradients(stage)
        for term in turn.terms:
            value = stage.value(turn, term)
            assert value.requires_grad, f"`{term.name}` depends on nothing that learns"
            value.backward()  # type: ignore[no-untyped-call]
        for role in turn.trained:
            module = stage.live.cast.roles[role].module
            assert _has_gradient(module), f"no gradient reaches `{role}`"
        for term in turn.terms:
            for key, adapter in stage.live.cast.adapters[term.name].items():
                reached = all(p.grad is not None for p in adapter.parameters())
                assert reached, f"no gradient reaches adapter `{key}` of `{term.name}`"


def _forget_gradients(stage: Stage) -> None:
    for role in stage.live.cast.roles.values():
        role.module.zero_grad(set_to_none=True)


def _has_gradient(module: nn.Module) -> bool:
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients), "a gradient is not finite"
    return any(bool(gradient.abs().sum() > 0) for gradient in gradients)


def terms_vanish_at_match(name: str) -> None:
    """If the card says so: zero when all networks agree and all views show the same."""
    if not card(name).zero_at_match:
        return
    stage = Stage(name, same=True)
    for turn, term in distillation_terms(stage.program):
        value = stage.number(turn, term)
        assert abs(value) < 1e-6, f"`{term.name}` is {value} when student and teacher agree"


def float64_gives_the_same_value(name: str) -> None:
    """Up to float32's rounding, which is coarse where a value is the difference of equal terms."""
    single, double = Stage(name), Stage(name, dtype=torch.float64)
    for (turn, term), (turn64, term64) in zip(
        distillation_terms(single.program), distillation_terms(double.program), strict=True
    ):
        value = single.number(turn, term)
        expected = double.value(turn64, term64).detach()
        assert expected.dtype == torch.float64, f"`{term.name}` leaves float64"
        near = abs(value - float(expected)) <= 1e-4 * max(abs(float(expected)), 1e-2)
        assert near, f"`{term.name}` is {value} in float32 and {float(expected)} in float64"


def order_of_samples_does_not_matter(name: str) -> None:
    if not card(name).permutation_invariant:
        return
    stage = Stage(name, dtype=torch.float64)
    for turn, term in distillation_terms(stage.program):
        value, other = stage.number(turn, term), stage.number(turn, term, _shuffled)
        assert abs(value - other) <= 1e-9 * max(1.0, abs(value)), f"`{term.name}`: {value} and {other}"


def _shuffled(batch: Batch) -> Batch:
    return selected(batch, lambda size: torch.randperm(size, generator=torch.Generator().manual_seed(0)))
