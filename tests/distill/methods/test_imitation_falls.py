"""What rises at first, because untrained networks agree, falls once it is all that is trained."""

from __future__ import annotations

from typing import Any

import pytest

from edgekd.distill.compose import build_program
from edgekd.distill.settings import DistillSettings
from edgekd.testing.tiny_networks import TinyNet
from tests.distill.building import engine_for, train

SETTINGS: dict[str, dict[str, Any]] = {
    "dml": {},
    # A target of its own (minlogit, linear) grows surer than every network, so it has to be one of theirs.
    "kdcl": {"target": "naive"},
    "codistillation": {"psi": "kl", "burn_in": 0.0},
    "mean-teacher": {},
    "one": {},
    "okddip": {},
    "byot": {},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_without_labels_every_term_of_imitation_falls(name: str) -> None:
    settings = DistillSettings(method={"name": name, **SETTINGS[name]}, task_weight=0.0)
    engine = engine_for(build_program(settings, student_taps=tuple(TinyNet().taps)))
    values = train(engine, 40)
    terms = {key for key in values[0] if key.startswith(name)}
    assert terms
    for term in terms:
        assert sum(step[term] for step in values[-5:]) / 5 < 0.7 * values[0][term], term
