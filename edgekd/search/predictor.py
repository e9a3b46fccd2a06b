"""Latency predicted from features: fitted to the timed candidates, judged by those left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from edgekd.core.config import Config
from edgekd.core.errors import UsageError
from edgekd.search.agreement import Floats, kendall_tau, leave_one_out, relative_errors
from edgekd.search.features import Features

FitPredict = Callable[[Floats, Floats, Floats], Floats]
"""(inputs `[M, D]`, latencies ms `[M]`, queries `[Q, D]`) -> latencies ms `[Q]`."""

FEATURES = ("blocked_macs", "depthwise_macs", "activation_elements", "num_weights", "num_operators")
"""Chosen on 40 ResNets and 30 MobileNets in ONNX Runtime; plain MACs double the median error on ResNets."""
FEWEST_TIMED = 5
"""Fewer leave nothing to judge a fit by."""
_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_SMALLEST_MS = 1e-6
_TINY = 1e-300


class PredictorFacts(Config):
    """What predicted, and how far off it was on candidates it had not seen (errors are shares of 1)."""

    name: str
    num_timed: int
    features: tuple[str, ...] = FEATURES
    median_error: float
    p90_error: float
    max_error: float
    within_10_percent: float
    """Share of held-out candidates predicted within 10 % (nn-Meter's hit rate)."""
    kendall_tau: float
    held_out: str = "nested leave-one-out"
    """The kind of predictor is chosen anew without each candidate, so the choice is judged too."""


def table_of(features: Sequence[Features]) -> Floats:
    """`[N, D]`, one column per name in `FEATURES`."""
    rows = [[float(getattr(one, name)) for name in FEATURES] for one in features]
    return np.array(rows, np.float64).reshape(len(rows), len(FEATURES))


def roofline(inputs: Floats, latencies: Floats, queries: Floats) -> Floats:
    """A sum of non-negative costs, `t = c0 + sum_k c_k x_k`, with least squared relative error.

    Time adds up over layers, each paying for arithmetic, memory and a start; so no cost is negative and
    the fit may be trusted somewhat outside the timed range.
    """
    scale = np.maximum(inputs.max(axis=0), 1.0)
    design = np.column_stack([np.ones(len(inputs)), inputs / scale])
    costs = nonnegative_least_squares(design / latencies[:, None], np.ones(len(inputs)))
    return np.asarray(np.column_stack([np.ones(len(queries)), queries / scale]) @ costs, np.float64)


def nonnegative_least_squares(design: Floats, target: Floats) -> Floats:
    """argmin over x >= 0 of |design x - target|^2, `[N, D], [N] -> [D]` (Lawson, Hanson 1974, chapter 23)."""
    solution = np.zeros(design.shape[1])
    free = np.zeros(design.shape[1], bool)
    smallest = 1e-10 * float(np.linalg.norm(design)) * float(np.linalg.norm(target))
    for _ in range(3 * design.shape[1]):
        gain = np.where(free, -np.inf, design.T @ (target - design @ solution))
        if gain.max() <= smallest:
            break
        free[np.argmax(gain)] = True
        solution = _solve_inside(design, target, solution, free)
    return solution


def _solve_inside(design: Floats, target: Floats, solution: Floats, free: npt.NDArray[np.bool_]) -> Floats:
    """Least squares over the `free` columns; one that would turn negative is set to 0 and leaves `free`."""
    while True:
        wanted = np.zeros_like(solution)
        wanted[free] = np.linalg.lstsq(design[:, free], target, rcond=None)[0]
        negative = free & (wanted <= 0)
        if not negative.any():
            return wanted
        ratios = np.full_like(solution, np.inf)
        ratios[negative] = solution[negative] / np.maximum(solution[negative] - wanted[negative], _TINY)
        solution = solution + float(ratios.min()) * (wanted - solution)
        free[np.argmin(ratios)] = False
        solution = np.where(free, np.maximum(solution, 0.0), 0.0)


def log_ridge(inputs: Floats, latencies: Floats, queries: Floats) -> Floats:
    """Ridge regression of log latency on log features; the ridge is the best of a few, by leave-one-out."""
    logs, target = np.log1p(inputs), np.log(latencies)
    center, spread = logs.mean(axis=0), logs.std(axis=0)
    spread = np.where(spread > 1e-9, spread, 1.0)
    known, asked = (logs - center) / spread, (np.log1p(queries) - center) / spread
    ridge = min(_RIDGES, key=lambda value: _ridge_press(known, target - target.mean(), value))
    costs = _ridge_costs(known, target - target.mean(), ridge)
    return np.asarray(np.exp(asked @ costs + target.mean()), np.float64)


def _ridge_costs(known: Floats, target: Floats, ridge: float) -> Floats:
    gram = known.T @ known + ridge * len(known) * np.eye(known.shape[1])
    return np.asarray(np.linalg.solve(gram, known.T @ target), np.float64)


def _ridge_press(known: Floats, target: Floats, ridge: float) -> float:
    """Sum of squared leave-one-out residuals in closed form, r_i / (1 - h_ii) (Allen 1974)."""
    gram = known.T @ known + ridge * len(known) * np.eye(known.shape[1])
    hat = known @ np.linalg.solve(gram, known.T) + 1 / len(known)
    residuals = target - known @ _ridge_costs(known, target, ridge)
    return float(np.sum((residuals / np.maximum(1 - np.diag(hat), 1e-6)) ** 2))


PREDICTORS: dict[str, FitPredict] = {"roofline": roofline, "log_ridge": log_ridge}


class LatencyPredictor:
    """A predictor for one target, fitted to `latencies_ms` of `features`.

    The kind is the one of `PREDICTORS` with the smaller mean squared logarithmic error, leaving one out.
    Raises `UsageError` for too few timed candidates or a latency that is not positive.
    """

    def __init__(self, features: Sequence[Features], latencies_ms: Sequence[float]) -> None:
        self._inputs = table_of(features)
        self._latencies = np.asarray(latencies_ms, np.float64)
        self._check()
        self.name = _choose(self._inputs, self._latencies)
        self.held_out_ms = leave_one_out(_nested, self._inputs, self._latencies)
        """What each timed candidate is predicted to take by a predictor that has not seen it, `[N]`."""

    def _check(self) -> None:
        if len(self._latencies) != len(self._inputs) or len(self._latencies) < FEWEST_TIMED:
            raise UsageError(
                f"{len(self._latencies)} timed candidates cannot predict; {FEWEST_TIMED} are the fewest",
                fix="time more candidates",
            )
        if not np.all(np.isfinite(self._latencies)) or np.any(self._latencies <= 0):
            raise UsageError("a latency that was timed is not a positive number of milliseconds")

    def predict_ms(self, features: Sequence[Features]) -> list[float]:
        """Predicted p50 in ms, one per candidate. Never a measurement."""
        predicted = _predict(self.name, self._inputs, self._latencies, table_of(features))
        return [float(value) for value in predicted]

    @property
    def facts(self) -> PredictorFacts:
        errors = relative_errors(self.held_out_ms, self._latencies)
        return PredictorFacts(
            name=self.name,
            num_timed=len(errors),
            median_error=float(np.median(errors)),
            p90_error=float(np.quantile(errors, 0.9)),
            max_error=float(errors.max()),
            within_10_percent=float(np.mean(errors <= 0.1)),
            kendall_tau=kendall_tau(self.held_out_ms, self._latencies),
        )


def _predict(name: str, inputs: Floats, latencies: Floats, queries: Floats) -> Floats:
    return np.maximum(PREDICTORS[name](inputs, latencies, queries), _SMALLEST_MS)


def _choose(inputs: Floats, latencies: Floats) -> str:
    def error(name: str) -> float:
        held_out = leave_one_out(lambda *data: _predict(name, *data), inputs, latencies)
        return float(np.mean(np.log(held_out / latencies) ** 2))

    return min(PREDICTORS, key=error)


def _nested(inputs: Floats, latencies: Floats, queries: Floats) -> Floats:
    return _predict(_choose(inputs, latencies), inputs, latencies, queries)
