"""The fast part of the benchmark of planted defects: none passes, and sound artifacts do."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from planted.all_cases import CASES
from planted.running import Case, Place

FAST = [case for case in CASES.values() if case.fast]


@pytest.mark.parametrize("case", FAST, ids=lambda case: case.name)
def test_a_planted_defect_does_not_pass_and_what_is_sound_does(case: Case, tmp_path: Path) -> None:
    if (why := case.skip()) is not None:
        pytest.skip(why)
    ended = case.run(Place(tmp_path))
    told = " | ".join(ended.reasons) or ended.text
    assert ended.passed == (case.kind == "sound"), told
    assert re.search(case.expects, told), told


def test_the_benchmark_has_as_many_cases_as_it_promises() -> None:
    kinds = [case.kind for case in CASES.values()]
    assert kinds.count("defect") >= 40
    assert kinds.count("sound") >= 40
    assert 10 <= len(FAST) <= 16
