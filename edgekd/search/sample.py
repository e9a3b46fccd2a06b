"""Which candidates to time: the extremes of every network, then whatever is farthest from those chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgekd.core.errors import UsageError
from edgekd.core.seed import derive
from edgekd.search.agreement import Floats
from edgekd.search.features import Features
from edgekd.search.space import Candidate

FEWEST = 8
_SPREAD_OVER = ("macs", "num_parameters", "num_layers", "activation_elements")


def designed_sample(
    candidates: Sequence[Candidate],
    features: Mapping[str, Features],
    num_timed: int,
    seed: int,
    costs: tuple[str, ...] = _SPREAD_OVER,
) -> tuple[Candidate, ...]:
    """`num_timed` candidates (all, when there are fewer), spread over the logarithms of `costs`.

    Greedy farthest-point design (Gonzalez 1985; Johnson, Moore and Ylvisaker 1990, maximin distance) from the
    candidates with the fewest and the most MACs of each network. `seed` orders equals. In the space's order.
    Raises `UsageError` for fewer than 8.
    """
    if num_timed < FEWEST:
        raise UsageError(
            f"{num_timed} timed candidates are too few to predict the rest", fix=f"at least {FEWEST}"
        )
    order = np.random.default_rng(derive(seed, "sample")).permutation(len(candidates))
    shuffled = [candidates[index] for index in order]
    points = _standardized(np.array([[getattr(features[c.id], name) for name in costs] for c in shuffled]))
    chosen = _extremes(shuffled, features)[:num_timed]
    while len(chosen) < min(num_timed, len(shuffled)):
        chosen.append(_farthest(points, chosen))
    ids = {shuffled[index].id for index in chosen}
    return tuple(candidate for candidate in candidates if candidate.id in ids)


def _extremes(candidates: Sequence[Candidate], features: Mapping[str, Features]) -> list[int]:
    """Indices of the candidates with the fewest and the most MACs of each network, without repeats."""
    found: dict[int, None] = {}
    for network in dict.fromkeys(sorted(candidate.spec.name for candidate in candidates)):
        own = [index for index, candidate in enumerate(candidates) if candidate.spec.name == network]
        by_macs = sorted(own, key=lambda index: features[candidates[index].id].macs)
        found.update({by_macs[0]: None, by_macs[-1]: None})
    return list(found)


def _farthest(points: Floats, chosen: Sequence[int]) -> int:
    distances = np.linalg.norm(points[:, None, :] - points[None, list(chosen), :], axis=2).min(axis=1)
    distances[list(chosen)] = -1.0
    return int(np.argmax(distances))


def _standardized(costs: Floats) -> Floats:
    """log(1 + cost) with zero mean and unit spread per column, `[N, D]`."""
    logs = np.log1p(costs.astype(np.float64))
    spread = logs.std(axis=0)
    return np.asarray((logs - logs.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0), np.float64)
