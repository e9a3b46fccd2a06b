"""Candidates, features and tables that the tests of searching share. Times are made by a stated formula."""

from __future__ import annotations

from collections.abc import Sequence

from edgekd.core.preprocess import Preprocess
from edgekd.core.verdict import Limit
from edgekd.search.features import Features
from edgekd.search.latency_table import LatencyTable
from edgekd.search.space import Candidate, Family, Space
from edgekd.search.timing import P50, Conditions, Timed, build_table

PREPROCESS = Preprocess(size=(32, 32), mean=(0.0,), std=(1.0,))
TARGET = "local"
WIDTHS = (0.25, 0.5, 1.0, 2.0)


def candidates(network: str = "net", depths: tuple[int, ...] = (2, 4, 8)) -> tuple[Candidate, ...]:
    """3 depths x 4 widths x 2 resolutions = 24 candidates of a network that exists in these tests only."""
    family = Family(network=network, depth=depths, width=WIDTHS, resolution=(1.0, 0.5))
    return Space(families=(family,)).candidates(num_classes=10, in_channels=1, preprocess=PREPROCESS)


def features(candidate: Candidate) -> Features:
    """A plain network of `depth` 3x3 convolutions with 16 * width channels at the input's size."""
    depth = int(candidate.spec.args["depth"])
    channels = int(16 * candidate.spec.args["width"])
    positions = candidate.resolution[0] * candidate.resolution[1]
    weights = 9 * channels * channels * depth
    return Features(
        num_parameters=weights + channels * depth,
        num_weights=weights,
        num_channels=channels * depth,
        num_layers=depth,
        num_operators=2 * depth,
        macs=weights * positions,
        depthwise_macs=0,
        blocked_macs=weights * positions,
        activation_elements=channels * positions * depth,
        peak_activation_elements=2 * channels * positions,
        stages=(),
    )


def all_features(of: Sequence[Candidate]) -> dict[str, Features]:
    return {candidate.id: features(candidate) for candidate in of}


def true_ms(candidate: Candidate) -> float:
    """50 us for a call, 10 us a layer, 5 GMAC/s, 1 G elements/s."""
    facts = features(candidate)
    return 0.05 + 0.01 * facts.num_layers + facts.macs / 5e6 + facts.activation_elements / 1e6


def timed(candidate: Candidate, factor: float = 1.0) -> Timed:
    return Timed(p50_ms={TARGET: P50(value=true_ms(candidate) * factor, spread=0.02)})


def time_candidates(group: Sequence[Candidate]) -> dict[str, Timed]:
    return {candidate.id: timed(candidate) for candidate in group}


def table(of: Sequence[Candidate], num_timed: int = 10) -> LatencyTable:
    return build_table(of, all_features(of), time_candidates, num_timed, Conditions())


def capacity_score(candidate: Candidate, effort: float) -> float:
    """More parameters score higher: without a budget the largest network wins."""
    return 1 - 1 / features(candidate).num_parameters ** 0.5


def latency_limit(max_ms: float) -> Limit:
    return Limit(
        quantity="latency_p50_ms",
        target=TARGET,
        max=max_ms,
        source=f"gate.latency_p50.local = {max_ms}ms",
    )


def size_limit(max_bytes: float) -> Limit:
    return Limit(
        quantity="size_bytes", target=TARGET, max=max_bytes, source=f"gate.size.max = {max_bytes} bytes"
    )
