"""How threads and the cores they may use change an artifact's time: a table to choose settings by."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.core.seed import derive
from edgekd.measure import latency
from edgekd.measure.findings import Item
from edgekd.measure.further import Rig, timing_images
from edgekd.measure.latency import Process

CAVEAT = (
    "settings took turns process by process, in an order drawn anew every round; rows are not paired, so a "
    "difference within their intervals is none"
)


@dataclass(frozen=True)
class Setting:
    """Threads of the runtime, and the cores of the process (None: left to the kernel)."""

    threads: int
    cores: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        cores = "any core" if self.cores is None else f"cores {','.join(map(str, self.cores))}"
        return f"{self.threads} thread{'s' if self.threads > 1 else ''}, {cores}"


def settings_of(facts: Mapping[str, Any]) -> list[Setting]:
    """Powers of two of threads on any core and, pinned, on each cluster that the device has."""
    allowed = facts.get("cores_allowed") or list(range(facts.get("cores") or 1))
    found = [Setting(threads) for threads in _powers(len(allowed))]
    clusters = [tuple(c for c in one["cores"] if c in allowed) for one in facts.get("clusters") or []]
    for cores in filter(None, dict.fromkeys(clusters)):
        pinned = [Setting(threads, cores[:threads]) for threads in _powers(len(cores))]
        found += [one for one in pinned if set(one.cores or ()) != set(allowed)]  # to all cores is to none
    return found


def _powers(most: int) -> list[int]:
    found = [2**power for power in range(most.bit_length()) if 2**power <= most]
    return found if most in found else [*found, most]


def measure_sweep(rig: Rig, item: Item, settings: Sequence[Setting] | None = None) -> list[dict[str, Any]]:
    """One row a setting, the fastest first: `threads`, `cores`, `p50_ms`, `low`, `high`, `p90_ms`, `reasons`.

    `settings` defaults to those of `settings_of` the device. Kept, with the raw samples, as
    `<subject>.sweep.json`.
    """
    chosen = list(settings or settings_of(rig.facts))
    order = random.Random(derive(rig.found.seed, "sweep", rig.device.target.name))
    times: dict[Setting, list[Process]] = {setting: [] for setting in chosen}
    rounds, done = rig.protocol.num_processes, 0
    with tempfile.TemporaryDirectory(prefix="edgekd-sweep-") as folder:
        entry = rig.entry(item, timing_images(item, rig.protocol, Path(folder)))
        for _ in range(rounds):
            for setting in order.sample(chosen, len(chosen)):
                rig.tell(done, rounds * len(chosen), f"{item.subject.name}: {setting.name}")
                cores = list(setting.cores) if setting.cores else None
                seed = derive(rig.found.seed, "sweep", setting.name, done) % 2**32
                done += 1
                answer = rig.call("latency", entry, threads=setting.threads, cores=cores, seed=seed)
                times[setting].append(answer)
    rows = [_row(rig, setting, times[setting], item.subject.name) for setting in chosen]
    raw = [{"setting": setting.name, "processes": times[setting]} for setting in chosen]
    content = {"subject": item.subject.name, "caveat": CAVEAT, "rows": rows, "raw": raw}
    rig.keep(f"{item.subject.name}.sweep.json", content)
    return sorted(rows, key=lambda row: float(row["p50_ms"]))


def _row(rig: Rig, setting: Setting, processes: Sequence[Process], name: str) -> dict[str, Any]:
    middle = latency.p50(processes, name, rig.protocol)
    return {
        "threads": setting.threads,
        "cores": list(setting.cores) if setting.cores else None,
        "p50_ms": middle.value,
        "low": middle.interval.low if middle.interval else None,
        "high": middle.interval.high if middle.interval else None,
        "p90_ms": latency.p90(processes, name, rig.protocol).value,
        "n": middle.n,
        "reasons": list(middle.problems),
    }
