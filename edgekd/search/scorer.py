"""What a candidate is worth: a score on validation data from short training, journaled, with its noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from edgekd.core.config import Config
from edgekd.core.errors import DivergedError
from edgekd.search.journal import Journal, unrecorded
from edgekd.search.space import Candidate

ScoreCandidate = Callable[[Candidate, float], float]
"""(candidate, effort) -> validation accuracy in [0, 1]; effort in (0, 1]: the share of the short training."""


class Score(Config):
    """`value` is None when training diverged; `note` then says how."""

    value: float | None
    effort: float
    note: str = ""

    @property
    def rank(self) -> float:
        """To order by: a candidate that diverged comes last."""
        return self.value if self.value is not None else -math.inf


class Scorer:
    """Scores candidates, each (candidate, effort) once; `num_val` images give the score its noise."""

    def __init__(
        self, score: ScoreCandidate, *, num_val: int | None = None, journal: Journal = unrecorded
    ) -> None:
        self._score = score
        self._journal = journal
        self.num_val = num_val
        self.scores: dict[str, Score] = {}
        """Candidate id -> its score at the greatest effort so far."""

    def __call__(self, candidate: Candidate, effort: float = 1.0) -> Score:
        """The score of `candidate`; a training that diverges is a score without a value."""
        plain = self._journal(f"score/{candidate.id}/{effort:g}", lambda: self._compute(candidate, effort))
        score = Score.model_validate(plain)
        known = self.scores.get(candidate.id)
        if known is None or known.effort <= effort:
            self.scores[candidate.id] = score
        return score

    def _compute(self, candidate: Candidate, effort: float) -> dict[str, Any]:
        try:
            value = float(self._score(candidate, effort))
        except DivergedError as error:
            return Score(value=None, effort=effort, note=f"training diverged: {error.what}").model_dump()
        if not math.isfinite(value):
            return Score(value=None, effort=effort, note=f"the score is {value}").model_dump()
        return Score(value=value, effort=effort).model_dump()

    def noise(self, best: float) -> float:
        """One standard error of `best` over the validation images, sqrt(p (1 - p) / n); 0 without n.

        Scores within it of the best are ties: the one-standard-error rule of Breiman et al. 1984, 3.4.3.
        """
        if self.num_val is None:
            return 0.0
        return math.sqrt(max(best * (1 - best), 0.0) / self.num_val)
