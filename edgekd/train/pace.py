"""From a time budget to a number of epochs, decided once and remembered beside the checkpoints."""

from __future__ import annotations

import copy
import itertools
import json
import time
from pathlib import Path

from edgekd.core.durable import write_json
from edgekd.core.errors import StoreError, UsageError
from edgekd.train.seeding import seed_step
from edgekd.train.trainable import BatchLoader, Position, Trainable

PACE = "pace.json"
_NUM_PROBES = 12
_NUM_WARM_UP = 2
_MAX_SHARE = 0.05


def epochs_within(
    trainable: Trainable, loader: BatchLoader, *, time_s: float, seed: int, folder: Path | None
) -> int:
    """The whole number of epochs, at least 1, that fit into `time_s` seconds with an evaluation each.

    The first call times some steps, puts the trainable back to where it was and writes `pace.json` into
    `folder`; later calls with the same `time_s` read it, so a resumed or repeated training has equal length.
    Raises `UsageError` for a budget that is not positive.
    """
    if not time_s > 0:
        raise UsageError(f"the training time must be positive, not {time_s} s")
    path = folder / PACE if folder else None
    decided = _decided(path, time_s) if path else None
    if decided is not None:
        return decided
    num_epochs = _measure(trainable, loader, time_s, seed)
    if path:
        write_json(path, {"time_s": time_s, "num_epochs": num_epochs})
    return num_epochs


def _decided(path: Path, time_s: float) -> int | None:
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_bytes())
        return int(record["num_epochs"]) if record["time_s"] == time_s else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"not readable: {error}", where=str(path), fix="delete it") from error


def _measure(trainable: Trainable, loader: BatchLoader, time_s: float, seed: int) -> int:
    before = copy.deepcopy(trainable.state())
    begin = time.perf_counter()
    try:
        step_s = _step_seconds(trainable, loader, time_s, seed)
        evaluate_begin = time.perf_counter()
        trainable.evaluate()
        evaluate_s = time.perf_counter() - evaluate_begin
    finally:
        trainable.load_state(before)
    left_s = time_s - (time.perf_counter() - begin)
    return max(1, int(left_s / (len(loader) * step_s + evaluate_s)))


def _step_seconds(trainable: Trainable, loader: BatchLoader, time_s: float, seed: int) -> float:
    """Mean seconds of a step, its batch included, over steps spread through the training's phases."""
    num_probes = min(_NUM_PROBES, len(loader))
    begin = last = time.perf_counter()
    seconds: list[float] = []
    for number, batch in enumerate(itertools.islice(loader.epoch(0), num_probes)):
        seed_step(seed, number)
        trainable.step(batch, Position(number, num_probes, 0, 1))
        now = time.perf_counter()
        seconds.append(now - last)
        last = now
        if now - begin > _MAX_SHARE * time_s and len(seconds) > _NUM_WARM_UP:
            break
    steady = seconds[_NUM_WARM_UP:] or seconds
    return sum(steady) / len(steady)
