"""How much is measured: the named profiles and their rules, recorded with every measurement."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from edgekd.core.config import Config
from edgekd.core.errors import UsageError, close_names

MIN_PROCESSES = 5
"""Fewer fresh processes give an interval too poor to judge by."""


class WarmUp(Config):
    """Per graph and process: runs until both minima are met and the last windows' medians agree, then stops.

    At `max_s` it stops anyway and the measurement says that it had not settled.
    """

    min_s: float = 0.5
    min_count: int = 10
    max_s: float = 5.0
    tolerance: float = 0.02


class Protocol(Config):
    """One profile. Duration and count are totals over the processes of one session, per graph.

    Graphs are interleaved, so the duration is the time span over which each graph's runs are spread.
    """

    name: str
    min_duration_s: float
    min_count: int
    num_processes: int = MIN_PROCESSES
    min_rounds: int = 5
    """Rounds of interleaved blocks per process: how many pairs a process's speed-up is the median of."""
    block: int = 10
    batch: int = 1
    warm_up: WarmUp = WarmUp()
    memory_processes: int = MIN_PROCESSES
    """Fresh processes with one graph each, for peak memory and cold start."""
    memory_runs: int = 20
    cooldown_s: float = 5.0
    """Pause before the one retry of a noisy session."""
    retry: bool = True
    most_processes: int = 20
    """How far a session may grow while a speed-up's interval is too wide to be judged (sequential rule)."""
    deadline_s: float = 3600.0
    """Of one process on the target."""
    part_bytes: int = 64 << 20
    """Images go to the target in parts of at most so many bytes ..."""
    part_images: int = 8192
    """... and so many images: what a lost link costs."""
    energy_processes: int = 1
    """Where the target has a sensor; each idles twice and runs every graph."""
    energy_s: float = 10.0
    """How long each of those stretches is; shorter ones a sensor does not resolve."""

    @model_validator(mode="after")
    def _possible(self) -> Protocol:
        counts = (self.min_count, self.num_processes, self.min_rounds, self.block, self.batch)
        parts = (self.part_bytes, self.part_images)
        if min(*counts, *parts) < 1 or self.memory_processes < 1 or self.deadline_s <= 0:
            raise ValueError("counts and the deadline must be positive")
        return self

    @property
    def weakness(self) -> str | None:
        """Why times taken by this protocol may not be judged, or None."""
        if self.num_processes < MIN_PROCESSES:
            return (
                f"profile `{self.name}` starts {self.num_processes} processes, judging needs {MIN_PROCESSES}"
            )
        return None

    def request(self) -> dict[str, Any]:
        """What the agent needs of it for one process."""
        return {
            "batch": self.batch,
            "block": self.block,
            "min_s": self.min_duration_s / self.num_processes,
            "min_count": -(-self.min_count // self.num_processes),
            "min_rounds": self.min_rounds,
            "warm_up": self.warm_up.model_dump(),
            "deadline_s": self.deadline_s,
        }


PROTOCOLS: dict[str, Protocol] = {
    profile.name: profile
    for profile in (
        Protocol(
            name="smoke",
            min_duration_s=1,
            min_count=64,
            num_processes=2,
            warm_up=WarmUp(min_s=0.1, max_s=0.5),
            memory_processes=1,
            cooldown_s=0,
            retry=False,
            energy_processes=0,
        ),
        Protocol(
            name="rapid",
            min_duration_s=6,
            min_count=64,
            warm_up=WarmUp(max_s=2),
            cooldown_s=2,
            energy_processes=0,
        ),
        Protocol(name="quick", min_duration_s=10, min_count=128),
        Protocol(
            name="normal",
            min_duration_s=60,
            min_count=1024,
            min_rounds=20,
            cooldown_s=20,
            energy_processes=MIN_PROCESSES,
        ),
        Protocol(
            name="mlperf",
            min_duration_s=600,
            min_count=1024,
            min_rounds=20,
            cooldown_s=60,
            energy_processes=MIN_PROCESSES,
        ),
    )
}


def find_protocol(name: str) -> Protocol:
    """The profile called `name`; raises `UsageError` with the choices."""
    if name not in PROTOCOLS:
        raise UsageError(
            f"`{name}` is not a measuring profile{close_names(name, PROTOCOLS)}", choices=PROTOCOLS
        )
    return PROTOCOLS[name]
