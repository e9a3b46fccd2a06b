"""How long a measuring profile will take for given graphs on a given target, and which one fits a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekd.core.preprocess import Preprocess
from edgekd.measure.probes import predict
from edgekd.measure.protocol import PROTOCOLS, Protocol
from edgekd.targets.target import Target

CHOICES = ("normal", "quick", "rapid", "smoke")
"""Most thorough first; `mlperf` is only ever asked for by name."""
_SHARE = 0.9
"""Of the time given: reading, sanity checks and the report want theirs."""
_FEW, _MORE = 1, 33


@dataclass(frozen=True)
class Pace:
    """Seconds that a process on the target needs to start and load the graph, and one image then."""

    start_s: float
    image_s: float


def pace_of(path: Path, shape: tuple[int, int, int], preprocess: Preprocess, target: Target) -> Pace:
    """By the clock of this side, for few and for more black images of (H, W, C). Raises as `predict` does."""
    spans = []
    for count in (_FEW, _MORE):
        started = time.monotonic()
        predict(path, np.zeros((count, *shape), np.uint8), preprocess, target)
        spans.append(time.monotonic() - started)
    return Pace(spans[0], max(spans[1] - spans[0], 0.0) / (_MORE - _FEW))


def seconds_of(protocol: Protocol, paces: list[Pace], num_images: int) -> float:
    """What one session takes: accuracy of every graph, memory of each, and the interleaved processes.

    Those count twice where noise may have them repeated.
    """
    start = sum(pace.start_s for pace in paces)
    once = sum(pace.image_s for pace in paces)
    slowest = max(pace.image_s for pace in paces)
    accuracy = start + num_images * once
    memory = protocol.memory_processes * (start + paces[0].start_s + protocol.memory_runs * once)
    rounds = max(protocol.min_rounds, -(-protocol.min_count // (protocol.num_processes * protocol.block)))
    blocks = max(
        protocol.min_duration_s / protocol.num_processes,
        rounds * (protocol.block + 1) * once,
    )
    warm = len(paces) * min(protocol.warm_up.max_s, max(2 * protocol.warm_up.min_s, 10 * slowest))
    times = (2 if protocol.retry else 1) * protocol.num_processes * (start + warm + blocks)
    return accuracy + memory + times + (protocol.cooldown_s if protocol.retry else 0.0)


def choose(budget_s: float, paces: list[Pace], num_images: int) -> tuple[str, str | None]:
    """The most thorough profile that fits, and a remark where none does or where it cannot judge times."""
    for name in CHOICES:
        protocol = PROTOCOLS[name]
        if seconds_of(protocol, paces, num_images) <= _SHARE * budget_s:
            why = protocol.weakness
            return name, f"only `{name}` fits the time: {why}" if why else None
    name = CHOICES[-1]
    needed = seconds_of(PROTOCOLS[name], paces, num_images) / _SHARE
    return name, (f"even `{name}` takes about {needed:.0f} s here; at the end of the time it stops resumably")


def least_thorough(budget_s: float, paces: Sequence[list[Pace]], num_images: int) -> tuple[str, str | None]:
    """What `choose` says for the target on which the least fits; `paces` holds a list for each target."""
    chosen = [choose(budget_s, own, num_images) for own in paces]
    return max(chosen, key=lambda one: CHOICES.index(one[0]))
