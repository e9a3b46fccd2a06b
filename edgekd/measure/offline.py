"""Throughput: whole batches one after another, as when all images are there from the start."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgekd.core.errors import ModelError
from edgekd.core.measurement import Measurement
from edgekd.core.seed import derive
from edgekd.measure import latency, statistics
from edgekd.measure.estimate import Estimate
from edgekd.measure.findings import Item
from edgekd.measure.further import Rig, timing_images
from edgekd.measure.latency import Process
from edgekd.measure.protocol import Protocol


def measure_offline(rig: Rig, items: Sequence[Item], batch: int) -> list[Measurement]:
    """`throughput_ips` of every item in batches of `batch` images, all interleaved in fresh processes.

    An item that does not take such a batch is not measured, with the runtime's reason. Preprocessing is not
    part of it: the batches are ready before timing, as many as the last-level cache holds and one more.
    """
    protocol = rig.protocol.model_copy(update={"batch": batch})
    with tempfile.TemporaryDirectory(prefix="edgekd-offline-") as folder:
        entries, refused = {}, {}
        for number, item in enumerate(items):
            (Path(folder) / str(number)).mkdir()
            entry = rig.entry(item, timing_images(item, protocol, Path(folder) / str(number)))
            try:
                rig.call("memory", {**entry, "images": None}, batch=batch, runs=1)
                entries[item.subject.name] = entry
            except ModelError as error:
                refused[item.subject.name] = f"not in batches of {batch}: {error.what}"
        processes: list[Process] = []
        for number in range(protocol.num_processes if entries else 0):
            rig.tell(number, protocol.num_processes, f"throughput in batches of {batch}")
            seed = derive(rig.found.seed, "offline", rig.device.target.name, number) % 2**32
            processes.append(rig.call("latency", *entries.values(), batch=batch, seed=seed))
    name = rig.keep(f"offline-{batch}.json", {"batch": batch, "unit": "ns", "processes": processes})
    made = []
    for item in items:
        if item.subject.name in refused:
            estimate, samples = Estimate(None, None, 0, missing=refused[item.subject.name]), None
        else:
            estimate, samples = throughput(processes, item.subject.name, batch, protocol), name
        how = {"batch": batch, "processes": len(processes), "scenario": "offline"}
        made.append(rig.measurement("throughput_ips", item, estimate, samples, **how))
    return made


def throughput(processes: Sequence[Process], name: str, batch: int, protocol: Protocol) -> Estimate:
    """Images a second: all images of a process / the sum of its batches' times.

    Geometric mean over processes, Student-t interval on logarithms.
    """
    samples = [latency.samples(process, name) for process in processes]
    rates = [1e3 * batch * one.size / float(one.sum()) for one in samples]
    value, interval = statistics.mean_of_logs(rates)
    count = sum(one.size for one in samples)
    problems = (*latency.shortage(processes, name, protocol), *latency.noise(processes, name))
    detail = {
        "batch": batch,
        "batches": count,
        "process_ips": rates,
        "batch_p50_ms": latency.process_percentiles(processes, name, 0.5),
    }
    return Estimate(value, interval, batch * count, detail, problems)
