"""How well predictions agree with measurements, and leaving one out to find it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def kendall_tau(first: Floats, second: Floats) -> float:
    """Kendall's tau-b `[N], [N] -> [-1, 1]` (Kendall 1945): ties are discounted; 0 if a side is constant."""
    upper = np.triu_indices(len(first), 1)
    signs_first = np.sign(first[:, None] - first[None, :])[upper]
    signs_second = np.sign(second[:, None] - second[None, :])[upper]
    scale = np.sqrt(np.sum(signs_first != 0) * np.sum(signs_second != 0))
    return float(np.sum(signs_first * signs_second) / scale) if scale > 0 else 0.0


def relative_errors(predicted: Floats, measured: Floats) -> Floats:
    """|predicted - measured| / measured, `[N]`."""
    return np.asarray(np.abs(predicted - measured) / measured, np.float64)


def leave_one_out(
    fit_predict: Callable[[Floats, Floats, Floats], Floats], inputs: Floats, outputs: Floats
) -> Floats:
    """Each row of `inputs` `[N, D]` predicted by a fit to all the others, `[N]`.

    `fit_predict(inputs [M, D], outputs [M], queries [Q, D]) -> [Q]`.
    """
    rows = np.arange(len(outputs))
    return np.array(
        [fit_predict(inputs[rows != row], outputs[rows != row], inputs[[row]])[0] for row in rows]
    )
