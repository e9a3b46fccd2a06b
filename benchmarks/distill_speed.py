"""How fast the engine trains, side by side in one process: images per second and paired ratios.

    python benchmarks/distill_speed.py --data data/cifar10 [--blocks 8] [--steps 12]

ResNet-56 teaches ResNet-20 on CIFAR-10, batches of 128, two threads:
  a        the student alone, float32, channels first, a plain torch loop
  b        the student alone as fast as this machine trains it (number type, channels-last)
  c-live   `kd` through the engine, teacher run on every batch
  c-cached `kd` through the engine, the teacher's answers on file (recording them is timed by itself)
  d        torchdistill's DistillationBox as its CIFAR examples set it up
b, c and c-live again with torch.compile (`+compiled`), whose compile seconds are reported with the number of
images after which they have paid. Blocks of all modes alternate; a ratio is the median over blocks, with the
range of the middle half. One row is appended to results/distill_speed.jsonl.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see docs/decisions/0014

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from evidence import append
from torch import nn

from edgekd.core.spec import NetworkSpec
from edgekd.data.array_images import ArrayImages
from edgekd.data.augmentation import Augment
from edgekd.data.batch import Batch
from edgekd.data.loader import Loader
from edgekd.data.sources.cifar import Cifar10
from edgekd.data.split import Dataset, Split
from edgekd.distill.compose import build_program
from edgekd.distill.launch import make_engine
from edgekd.distill.participant import Participant
from edgekd.distill.recorded import Recorder
from edgekd.distill.settings import DistillSettings
from edgekd.distill.update import Rules
from edgekd.networks.catalogue import build
from edgekd.networks.initialize import init_weights
from edgekd.train.optimizer import OptimizerConfig, make_optimizer
from edgekd.train.precision import Precision
from edgekd.train.trainable import Position

BATCH, VARIANTS, NUM_IMAGES = 128, 4, 6_400
OPTIMIZER = OptimizerConfig(name="sgd", learning_rate=0.1, weight_decay=5e-4)
Step = Callable[[], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that prepare_cifar10.py wrote")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2], help="loader workers tried for d")
    parser.add_argument("--torchdistill", type=Path, help="folder it was installed to (pip install --target)")
    arguments = parser.parse_args()
    if arguments.torchdistill:
        sys.path.insert(0, str(arguments.torchdistill))
    torch.set_num_threads(2)
    # What an earlier run compiled would hide the compile time.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(prefix="edgekd-compiled-")
    dataset = Cifar10(root=str(arguments.data)).open(0)
    with tempfile.TemporaryDirectory() as folder:
        modes = Modes(dataset, Path(folder))
        row = compare(modes, arguments.blocks, arguments.steps, arguments.workers)
    append("distill_speed", row)
    print(json.dumps(row, indent=1))


class Modes:
    """Every mode as a function that makes one update, on the first images of the training split."""

    def __init__(self, dataset: Dataset, folder: Path) -> None:
        first, labels = range(NUM_IMAGES), dataset.train.labels[:NUM_IMAGES]
        images = ArrayImages(np.stack(dataset.train.images.get(first)))
        self.train = Split("train", images, labels)
        self.folder = folder
        self.teacher_seconds: float | None = None

    def loader(self, num_variants: int | None = None) -> Loader:
        return Loader(
            self.train,
            image_size=(32, 32),
            channels=3,
            batch_size=BATCH,
            seed=0,
            augment=Augment(flip=True, shift=4),
            num_variants=num_variants,
        )

    def alone(self, *, fast: bool, compiled: bool = False) -> Step:
        """A plain loop around torch, with our loader."""
        module = network(20, "student")
        precision = Precision("auto" if fast else "fp32", "cpu")
        if fast:
            precision.prepare(module)
        optimizer = make_optimizer(OPTIMIZER, module.parameters())
        forward: Callable[..., Any] = torch.compile(module) if compiled else module
        batches = endless(self.loader())

        def step() -> None:
            batch = next(batches)
            images = precision.place(batch.views["x"]) if fast else batch.views["x"]
            with precision.autocast():
                logits = forward(images)
            loss = F.cross_entropy(logits.float(), batch.labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loss.item()

        return step

    def engine(self, *, cached: bool, compiled: bool = False) -> Step:
        """`kd` as a recipe runs it."""
        loader = self.loader(VARIANTS if cached else None)
        recorder = Recorder(loader, VARIANTS, self.folder, {}, lambda event: None) if cached else None
        student, teacher = participant(20, "student"), participant(56, "teacher")
        program = build_program(
            DistillSettings(), num_teachers=1, student_taps=tuple(student.taps), teacher_taps=[()]
        )
        images = np.zeros((4, 32, 32, 3), np.uint8)
        engine = make_engine(
            program,
            student=student,
            teachers=[teacher],
            validation=(images, np.zeros(4, np.int64)),
            image_shape=(3, 32, 32),
            rules=Rules(OPTIMIZER),
            seed=0,
            precision=Precision("auto", "cpu"),
            recorder=recorder,
            compiled=compiled,
        )
        batches, at = endless(loader), 0
        # Only the first variant is recorded here: recording all is timed by itself.
        first = loader.epoch(0)

        def step() -> None:
            nonlocal at, first
            batch = next(first, None) if cached else next(batches)
            if batch is None:
                first = loader.epoch(0)
                batch = next(first)
            engine.step(batch, Position(at % 1000, 1000, 0, 1))
            at += 1

        if cached:
            started = time.perf_counter()
            step()
            self.teacher_seconds = self.teacher_seconds or time.perf_counter() - started
        return step

    def torchdistill(self, num_workers: int) -> Step:
        from torchdistill_loop import training_step

        return training_step(
            self.train,
            network(56, "teacher"),
            network(20, "student"),
            batch_size=BATCH,
            num_workers=num_workers,
        )


def network(depth: int, name: str) -> nn.Module:
    spec = NetworkSpec(name="resnet_cifar", args={"depth": depth}, num_classes=10, in_channels=3)
    module = build(spec)
    init_weights(module, 0, name)
    return module


def participant(depth: int, name: str) -> Participant:
    module = network(depth, name)
    return Participant(module, nn.Identity(), getattr(module, "taps", {}))


def endless(loader: Loader) -> Iterator[Batch]:
    number = 0
    while True:
        yield from loader.epoch(number)
        number += 1


def compare(modes: Modes, num_blocks: int, num_steps: int, workers: list[int]) -> dict[str, Any]:
    makers: dict[str, Callable[[], Step]] = {
        "a": lambda: modes.alone(fast=False),
        "b": lambda: modes.alone(fast=True),
        "b+compiled": lambda: modes.alone(fast=True, compiled=True),
        "c-live": lambda: modes.engine(cached=False),
        "c-cached": lambda: modes.engine(cached=True),
        "c-live+compiled": lambda: modes.engine(cached=False, compiled=True),
        "c-cached+compiled": lambda: modes.engine(cached=True, compiled=True),
    }
    makers |= {f"d-{n}-workers": partial(modes.torchdistill, n) for n in workers}
    steps: dict[str, Step] = {}
    first: dict[str, float] = {}
    for name, make in makers.items():
        # Timed as soon as it is made: what one mode has compiled, a later one of the same network reuses.
        steps[name] = make()
        first[name] = timed(steps[name], 1)
    for step in steps.values():
        timed(step, 2)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for block in range(num_blocks):
        for name in steps if block % 2 == 0 else reversed(steps):
            seconds[name].append(timed(steps[name], num_steps) / num_steps)
        print(f"block {block + 1} of {num_blocks}", file=sys.stderr)
    return summary(seconds, first, modes)


def timed(step: Step, count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        step()
    return time.perf_counter() - started


def summary(seconds: dict[str, list[float]], first: dict[str, float], modes: Modes) -> dict[str, Any]:
    rates = {name: round(BATCH / statistics.median(times)) for name, times in seconds.items()}
    d = max((name for name in seconds if name.startswith("d-")), key=lambda name: rates[name])
    # `c-live+compiled` compiles the teacher as well; `c-cached+compiled` finds both done.
    compile_s = {name: round(first[name], 1) for name in ("b+compiled", "c-live+compiled")}
    return {
        "images_per_s": rates,
        "ratios": {
            "cached against student alone (time)": ratio(seconds, "c-cached", "b"),
            "cached against student alone, compiled (time)": ratio(
                seconds, "c-cached+compiled", "b+compiled"
            ),
            "cached faster than torchdistill": ratio(seconds, d, "c-cached"),
            "cached and compiled faster than torchdistill": ratio(seconds, d, "c-cached+compiled"),
            "live faster than torchdistill": ratio(seconds, d, "c-live"),
            "student alone faster than torchdistill": ratio(seconds, d, "b"),
            "student alone, compiled, faster than torchdistill": ratio(seconds, d, "b+compiled"),
        },
        "torchdistill": d,
        "compile_s": compile_s,
        "compile_pays_after_images": {name: break_even(name, seconds, first) for name in compile_s},
        "recording_s_per_variant": round(modes.teacher_seconds or 0.0, 1),
        "images_recorded": len(modes.train),
        "variants": VARIANTS,
        "cache_bytes_per_image": VARIANTS * 10 * 4,
        "load_average": os.getloadavg(),
    }


def ratio(seconds: dict[str, list[float]], over: str, under: str) -> dict[str, Any]:
    """Of the time of `over` to that of `under`, paired by block."""
    ratios = sorted(o / u for o, u in zip(seconds[over], seconds[under], strict=True))
    quarter = len(ratios) // 4
    middle = ratios[quarter : len(ratios) - quarter]
    return {
        "median": round(statistics.median(ratios), 3),
        "middle_half": [round(x, 3) for x in (middle[0], middle[-1])],
    }


def break_even(name: str, seconds: dict[str, list[float]], first: dict[str, float]) -> int | None:
    """Images after which the compile time is won back; None if compiling does not pay here."""
    plain = statistics.median(seconds[name.removesuffix("+compiled")])
    won = plain - statistics.median(seconds[name])
    return round(first[name] / won) * BATCH if won > 0 else None


if __name__ == "__main__":
    main()
