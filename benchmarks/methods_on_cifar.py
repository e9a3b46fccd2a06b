"""Does every method teach? A ResNet-8 student and a ResNet-56 teacher on CIFAR-10, equal updates for all.

    python benchmarks/methods_on_cifar.py --data data/cifar10 --teachers data/teachers/akamaster-cifar10
    python benchmarks/methods_on_cifar.py --table          # render what was measured as Markdown

20,000 training images, 5,000 others for scoring, 25,000 others without labels for the methods that want some.
The teachers were trained by others on all 50,000 (they saw the scoring images, the students did not): their
own accuracy here flatters them; differences between students are fair. One row per (method, seed) is appended
to results/methods_on_cifar.jsonl; what is there is not redone. Every student gets the same number of updates
of its own weights: phases in which it does not learn (an assistant, a generator) come on top. `--shard 0/2`
and `--shard 1/2` in two terminals share the work. `--epochs 12` makes a table of longer trainings, and
`--settings '{"weight": 0.2}'` looks closer at one method.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see docs/decisions/0014

import argparse
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from evidence import append, rows

from edgekd.core.preprocess import Preprocess
from edgekd.core.spec import ModelSpec, NetworkSpec
from edgekd.data.array_images import ArrayImages
from edgekd.data.augmentation import Augment
from edgekd.data.loader import Loader
from edgekd.data.sampling import Sampler
from edgekd.data.sources.cifar import Cifar10
from edgekd.data.split import UNLABELED, Split
from edgekd.distill.cast import tap_shapes
from edgekd.distill.catalogue import METHODS, card
from edgekd.distill.compose import build_program, teacher_roles
from edgekd.distill.engine import Engine
from edgekd.distill.launch import make_engine
from edgekd.distill.participant import Participant
from edgekd.distill.program import Program
from edgekd.distill.recorded import Recorder, Whole
from edgekd.distill.settings import DistillSettings
from edgekd.distill.sources import LoaderStream
from edgekd.distill.update import Rules
from edgekd.measure.distributions import normal_quantile, student_t_quantile
from edgekd.networks.initialize import init_weights
from edgekd.networks.model import Model, build_model
from edgekd.networks.resize import Normalize
from edgekd.networks.weights import load_strict, read_state
from edgekd.train.evaluate import accuracy, predict_logits
from edgekd.train.loop import fit
from edgekd.train.optimizer import OptimizerConfig
from edgekd.train.precision import Precision
from edgekd.train.schedule import ScheduleConfig
from edgekd.train.seeding import reproducible

NAME = "methods_on_cifar"
NUM_TRAIN, NUM_SCORED, NUM_UNLABELED = 20_000, 5_000, 25_000
BATCH, EPOCHS, VARIANTS = 128, 3, 3
UPDATES_A_EPOCH = NUM_TRAIN // BATCH
ANSWERS_BYTES = 32 << 30
"""Room for every tap of the teacher, so that each is computed once for all methods."""
RULES = Rules(
    OptimizerConfig(name="sgd", learning_rate=0.1, weight_decay=5e-4), ScheduleConfig(name="one_cycle")
)
THREE_SEEDS = ("none", "kd", "dkd", "crd", "sp", "at", "dist")
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PREPROCESS = Preprocess(size=(32, 32), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SETTINGS: dict[str, dict[str, Any]] = {
    "takd": {"assistants": [{"network": "resnet_cifar", "args": {"depth": 20}}]},
    "mean-teacher": {"unlabeled": True},
    "deepinversion": {"num_blocks": 4, "block_size": 64, "image_share": 0.5},
}
"""Where a method cannot do without settings, the data has what it is for, or minutes would become an hour."""


@dataclass(frozen=True)
class Material:
    """The splits and the teachers' files."""

    train: Split
    unlabeled: Split
    scored_images: npt.NDArray[np.uint8]
    scored_labels: npt.NDArray[np.int64]
    teachers: Path
    answers: Path


@dataclass(frozen=True)
class Piece:
    """One training: what a row stands for."""

    method: str
    seed: int
    settings: Mapping[str, Any]
    num_epochs: int

    @property
    def updates(self) -> int:
        return self.num_epochs * UPDATES_A_EPOCH

    def is_row(self, row: Mapping[str, Any]) -> bool:
        mine = (self.method, self.seed, dict(self.settings), self.updates)
        return mine == (row["method"], row["seed"], row["settings"], row["student_updates"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that prepare_cifar10.py wrote")
    parser.add_argument(
        "--teachers", type=Path, help="folder with resnet56-4bfd9763.th and resnet44-014dd654.th"
    )
    parser.add_argument(
        "--answers", type=Path, default=Path("/tmp/edgekd-answers"), help="for recorded answers"
    )
    parser.add_argument("--methods", nargs="*", help="only these")
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th piece, from the i-th on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON, for the methods named")
    parser.add_argument("--seeds", type=int, nargs="*", help="only these")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        print(f"{table(rows(NAME))}\n\n{looks(rows(NAME))}")
        return
    torch.set_num_threads(arguments.threads)
    found = material(arguments.data, arguments.teachers, arguments.answers)
    names = arguments.methods or METHODS.names()
    recorded: set[int] = set()
    for method, seed in pieces(names, arguments.shard):
        if arguments.seeds is not None and seed not in arguments.seeds:
            continue
        piece = Piece(method, seed, {**SETTINGS.get(method, {}), **arguments.settings}, arguments.epochs)
        if not any(piece.is_row(row) for row in rows(NAME)):
            if seed not in recorded:
                record_answers(found, names if seed == 0 else THREE_SEEDS, seed, arguments.shard)
                recorded.add(seed)
            row = one(found, piece, arguments.threads)
            append(NAME, row)
            print({key: value for key, value in row.items() if key != "correct"}, flush=True)


def comparable(found: list[dict[str, Any]], num_epochs: int) -> list[dict[str, Any]]:
    """The rows of students that got so many epochs of updates."""
    return [row for row in found if row["student_updates"] == num_epochs * UPDATES_A_EPOCH]


def pieces(methods: Sequence[str], shard: str) -> list[tuple[str, int]]:
    """The first seed of every method, then the further seeds, so that a table is whole early."""
    number, count = map(int, shard.split("/"))
    known = [name for name in THREE_SEEDS if name in methods]
    ordered = [*known, *(name for name in methods if name not in known)]
    whole = [(name, 0) for name in ordered] + [(name, seed) for seed in (1, 2) for name in known]
    return whole[number::count]


def material(data: Path, teachers: Path, answers: Path) -> Material:
    """Disjoint parts of CIFAR-10's 50,000 training images, the same for every seed."""
    opened = Cifar10(root=str(data)).open(0)
    parts = [opened.train, opened.val]
    images = np.concatenate([np.stack(split.images.get(range(len(split)))) for split in parts])
    labels = np.concatenate([split.labels for split in parts])
    order = np.random.default_rng(0).permutation(len(labels))
    bounds = np.cumsum([NUM_TRAIN, NUM_SCORED, min(NUM_UNLABELED, len(labels) - NUM_TRAIN - NUM_SCORED)])
    train, scored, rest = np.split(order, bounds)[:3]
    return Material(
        Split("train", ArrayImages(images[train]), labels[train]),
        Split(UNLABELED, ArrayImages(images[rest]), np.full(len(rest), -1)),
        images[scored],
        labels[scored],
        teachers,
        answers,
    )


def model(depth: int, *, weights: Path | None = None, seed: int = 0) -> Model:
    network = NetworkSpec(
        name="resnet_cifar", args={"depth": depth, "shortcut": "A"}, num_classes=10, in_channels=3
    )
    built = build_model(ModelSpec(network=network, preprocess=PREPROCESS, labels=CLASSES))
    if weights is None:
        init_weights(built.module, seed, "student")
    else:
        load_strict(built.module, read_state(weights), where=str(weights))
    return built


def teachers_of(found: Material, method: str) -> list[Model]:
    names = {56: "resnet56-4bfd9763.th", 44: "resnet44-014dd654.th"}
    depths = (56, 44)[: card(method).num_teachers]
    return [model(depth, weights=found.teachers / names[depth]) for depth in depths]


def program_of(
    method: str, student: Model, teachers: Sequence[Model], settings: Mapping[str, Any] | None = None
) -> Program:
    given = SETTINGS.get(method, {}) if settings is None else settings
    return build_program(
        DistillSettings.model_validate({"method": {"name": method, **given}}),
        num_teachers=len(teachers),
        student_taps=tuple(student.taps),
        teacher_taps=[tuple(teacher.taps) for teacher in teachers],
        labels=dict.fromkeys(("student", *teacher_roles(len(teachers))), CLASSES),
    )


def one(found: Material, piece: Piece, threads: int) -> dict[str, Any]:
    """Train one student and score it on the 5,000."""
    started, worked, seed = time.monotonic(), time.process_time(), piece.seed
    student, teachers = model(8, seed=seed), teachers_of(found, piece.method)
    program = program_of(piece.method, student, teachers, piece.settings)
    num_epochs = math.ceil(piece.num_epochs / share_of_student(program))
    with reproducible(threads):
        loader = batches(found.train, seed, program.views, program.sampler, VARIANTS)
        engine = engine_for(found, program, student, teachers, seed, loader)
        result = fit(engine, loader, seed=seed, num_epochs=num_epochs, evaluate_every=num_epochs)
        logits = predict_logits(engine.deployed(best=False), Normalize(PREPROCESS), found.scored_images)
    correct = logits.argmax(1) == found.scored_labels
    last = result.history[-1]
    return {
        "method": piece.method,
        "seed": seed,
        "settings": dict(piece.settings),
        "student_updates": piece.updates,
        "updates": num_epochs * len(loader),
        "accuracy": accuracy(logits, found.scored_labels),
        "correct": np.packbits(correct).tobytes().hex(),
        "terms": {name: round(value, 5) for name, value in last.train.items()},
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(time.process_time() - worked, 1),
        "threads": threads,
        "load_average": os.getloadavg()[0],
    }


def record_answers(found: Material, methods: Sequence[str], seed: int, shard: str) -> None:
    """All that these methods will ask of the first teacher, in one pass per version of the images."""
    student, teacher = model(8), model(56, weights=found.teachers / "resnet56-4bfd9763.th")
    asked: dict[str, tuple[int, ...]] = {}
    shapes = tap_shapes({"teacher": Participant.of(teacher)}, (3, 32, 32))
    for method in methods:
        if card(method).num_teachers == 1:
            program = program_of(method, student, [teacher])
            for turn in program.turns:
                for tap in turn.taps("teacher") if "teacher" in turn.roles else ():
                    asked[tap] = shapes["teacher", tap]
    loader = batches(found.train, seed, ("x",), "shuffled", VARIANTS)
    codecs = {tap: Whole(shape) for tap, shape in asked.items()}
    answers = recorder(found, loader, seed).open(Participant.of(teacher), codecs, Precision("auto", "cpu"))
    with reproducible(torch.get_num_threads()):
        for epoch in range(VARIANTS) if shard.startswith("0") else reversed(range(VARIANTS)):
            answers.read(next(iter(loader.epoch(epoch))), "x", tuple(codecs))


def recorder(found: Material, loader: Loader, seed: int) -> Recorder:
    identity = {"data": "20,000 of CIFAR-10", "seed": seed, "torch": torch.__version__}
    return Recorder(loader, VARIANTS, found.answers, identity, lambda event: None, ANSWERS_BYTES)


def share_of_student(program: Program) -> float:
    """The part of the training in which the deployed weights learn."""
    learners = {program.deploy.role, program.deploy.role.removesuffix("@ema")}
    learning = [
        phase.share for phase in program.phases if any(turn.trained & learners for turn in phase.turns)
    ]
    # An averaged copy is deployed: what it follows learns in every phase.
    return sum(learning) / sum(phase.share for phase in program.phases) if learning else 1.0


def batches(
    split: Split, seed: int, views: tuple[str, ...], sampler: Sampler, num_variants: int | None
) -> Loader:
    return Loader(
        split,
        image_size=(32, 32),
        channels=3,
        batch_size=BATCH,
        seed=seed,
        augment=Augment(flip=True, shift=4),
        views=views,
        sampler=sampler,
        num_variants=num_variants,
    )


def engine_for(
    found: Material, program: Program, student: Model, teachers: Sequence[Model], seed: int, loader: Loader
) -> Engine:
    streams: Mapping[str, Any] = {
        name: LoaderStream(batches(found.unlabeled, seed, views, "shuffled", None))
        for name, views in program.streams.items()
    }
    return make_engine(
        program,
        student=Participant.of(student),
        teachers=[Participant.of(teacher) for teacher in teachers],
        validation=(found.scored_images[:500], found.scored_labels[:500]),
        image_shape=(3, 32, 32),
        rules=RULES,
        seed=seed,
        precision=Precision("auto", "cpu"),
        streams=streams,
        recorder=recorder(found, loader, seed),
    )


# ---- The table -----------------------------------------------------------------------------------


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: every method from its defaults against `none`, paired image by image.

    The interval has two parts, joined as squares: other images, and other seeds, whose spread is pooled over
    the methods with several of them. Images alone would call the luck of a training an effect.
    """
    grouped = by_label(plain(found))
    lines = [
        "| method | accuracy | seeds | against `none` (95 %) | verdict | CPU s |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *table_rows(grouped, Spread.of(grouped.values()))])


def looks(found: list[dict[str, Any]]) -> str:
    """Markdown: closer looks, each against `none` of as many updates; the seeds' spread is the table's."""
    spread = Spread.of(by_label(plain(found)).values())
    lines = [
        "| method | epochs | accuracy | `none` | against `none` (95 %) | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for updates in sorted({row["student_updates"] for row in found}):
        alike = [row for row in found if row["student_updates"] == updates]
        control = [row for row in alike if row["method"] == "none"]
        first = [row for row in plain(alike) if row["student_updates"] == EPOCHS * UPDATES_A_EPOCH]
        for name, group in sorted(by_label([row for row in alike if row not in first]).items()):
            if group[0]["method"] != "none" and control:
                against, verdict = compared(group, control, spread)
                cells = [
                    name,
                    str(updates // UPDATES_A_EPOCH),
                    shares(group),
                    shares(control),
                    against,
                    verdict,
                ]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plain(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of methods from their defaults, trained for as long as the table says."""
    own = [row for row in found if row["settings"] == SETTINGS.get(row["method"], {})]
    return comparable(own, EPOCHS)


def by_label(found: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        grouped.setdefault(label(row), []).append(row)
    return grouped


def label(row: dict[str, Any]) -> str:
    own = SETTINGS.get(row["method"], {})
    changed = {key: value for key, value in row["settings"].items() if own.get(key) != value}
    return f"`{row['method']}`" + (f" {json.dumps(changed)}" if changed else "")


@dataclass(frozen=True)
class Spread:
    """How far trainings differ that differ in the seed only: standard deviation, degrees of freedom."""

    sd: float
    degrees: int

    @classmethod
    def of(cls, groups: Iterable[list[dict[str, Any]]]) -> Spread:
        """Pooled over the groups with several seeds."""
        several = [np.array([row["accuracy"] for row in group]) for group in groups if len(group) > 1]
        squares = sum(float(np.square(one - one.mean()).sum()) for one in several)
        degrees = sum(len(one) - 1 for one in several)
        return cls(math.sqrt(squares / degrees) if degrees else 0.0, degrees)

    def half_width(self, *num_seeds: int) -> float:
        """Of the 95 % interval of a difference of two means over so many seeds each."""
        if not self.degrees:
            return math.inf
        return student_t_quantile(0.975, self.degrees) * self.sd * math.sqrt(sum(1 / n for n in num_seeds))


def table_rows(grouped: Mapping[str, list[dict[str, Any]]], spread: Spread) -> Iterator[str]:
    control = grouped["`none`"]
    for name in sorted(grouped, key=lambda name: -float(right(grouped[name]).mean())):
        group = grouped[name]
        against, verdict = ("-", "the control") if group is control else compared(group, control, spread)
        seconds = float(np.median([row.get("cpu_seconds", row["seconds"]) for row in group]))
        yield f"| {name} | {shares(group)} | {len(group)} | {against} | {verdict} | {seconds:.0f} |"


def shares(group: list[dict[str, Any]]) -> str:
    all_of = [100 * row["accuracy"] for row in group]
    several = f" ({min(all_of):.2f} to {max(all_of):.2f})" if len(group) > 1 else ""
    return f"{np.mean(all_of):.2f}{several}"


def compared(group: list[dict[str, Any]], control: list[dict[str, Any]], spread: Spread) -> tuple[str, str]:
    """The paired difference of the means over the seeds, in points, and what it says."""
    differences = 100 * (right(group) - right(control))
    mean, images = (
        differences.mean(),
        normal_quantile(0.975) * differences.std(ddof=1) / math.sqrt(NUM_SCORED),
    )
    half = math.hypot(images, 100 * spread.half_width(len(group), len(control)))
    verdict = "better" if mean > half else "worse" if mean < -half else "can't tell"
    return f"{mean:+.2f} ± {half:.2f}", verdict


def right(group: list[dict[str, Any]]) -> npt.NDArray[np.float64]:
    """Of every image, the share of seeds that are right."""
    return np.mean([bits(row) for row in group], axis=0)


def bits(row: dict[str, Any]) -> npt.NDArray[np.bool_]:
    packed = np.frombuffer(bytes.fromhex(row["correct"]), np.uint8)
    return np.unpackbits(packed)[:NUM_SCORED].astype(bool)


if __name__ == "__main__":
    main()
