"""Do recorded answers cost accuracy? `kd` with a live teacher beside `kd` from recorded answers, on CIFAR-10.

    python benchmarks/recorded_parity.py --data data/cifar10 --teachers data/teachers/akamaster-cifar10
    python benchmarks/recorded_parity.py --table           # render what was measured as Markdown

A live teacher sees new augmentations of every image in every epoch; recorded answers are of a few that come
again. ResNet-20 teaches ResNet-8 on 10,000 images for 8 epochs; scored on 5,000 others, three seeds. One row
per (arm, seed) is appended to results/recorded_parity.jsonl; what is there is not redone. The student without
a teacher is beside, so that the cost can be seen next to what the teacher buys.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evidence import append, rows
from methods_on_cifar import (
    NUM_SCORED,
    PREPROCESS,
    RULES,
    Material,
    batches,
    bits,
    material,
    model,
    program_of,
)

from edgekd.data.array_images import ArrayImages
from edgekd.data.split import Split
from edgekd.distill.launch import make_engine
from edgekd.distill.participant import Participant
from edgekd.distill.recorded import Recorder
from edgekd.measure.distributions import student_t_quantile
from edgekd.measure.statistics import paired_difference
from edgekd.networks.resize import Normalize
from edgekd.train.evaluate import accuracy, predict_logits
from edgekd.train.loop import fit
from edgekd.train.precision import Precision
from edgekd.train.seeding import reproducible

NAME = "recorded_parity"
NUM_IMAGES, EPOCHS, SEEDS = 10_000, 8, (0, 1, 2)
ARMS: dict[str, tuple[str, int | None]] = {
    "live": ("kd", None),
    "4 views": ("kd", 4),
    "2 views": ("kd", 2),
    "1 view": ("kd", 1),
    "no teacher": ("none", None),
}
"""Arm -> method, and how many augmentations of every image come again (None: always new ones)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that prepare_cifar10.py wrote")
    parser.add_argument("--teachers", type=Path, help="folder with resnet20-12fca82f.th")
    parser.add_argument("--answers", type=Path, default=Path("/tmp/edgekd-answers"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS, help="only these, to share the work")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(rows(NAME)))
        return
    torch.set_num_threads(arguments.threads)
    found = material(arguments.data, arguments.teachers, arguments.answers)
    for seed in arguments.seeds:
        for arm in ARMS:
            if (arm, seed) not in {(row["arm"], row["seed"]) for row in rows(NAME)}:
                row = one(found, arm, seed, arguments.threads)
                append(NAME, row)
                print({key: value for key, value in row.items() if key != "correct"}, flush=True)


def one(found: Material, arm: str, seed: int, threads: int) -> dict[str, Any]:
    started = time.monotonic()
    method, views = ARMS[arm]
    student, teacher = model(8, seed=seed), model(20, weights=found.teachers / "resnet20-12fca82f.th")
    teachers = [teacher] if method != "none" else []
    program = program_of(method, student, teachers)
    images = np.stack(found.train.images.get(range(NUM_IMAGES)))
    split = Split("train", ArrayImages(images), found.train.labels[:NUM_IMAGES])
    with reproducible(threads):
        loader = batches(split, seed, program.views, program.sampler, views)
        identity = {"data": f"{NUM_IMAGES} of CIFAR-10", "seed": seed, "torch": torch.__version__}
        recorder = Recorder(loader, views, found.answers, identity, lambda event: None) if views else None
        engine = make_engine(
            program,
            student=Participant.of(student),
            teachers=[Participant.of(one) for one in teachers],
            validation=(found.scored_images[:500], found.scored_labels[:500]),
            image_shape=(3, 32, 32),
            rules=RULES,
            seed=seed,
            precision=Precision("auto", "cpu"),
            recorder=recorder,
        )
        fit(engine, loader, seed=seed, num_epochs=EPOCHS, evaluate_every=EPOCHS)
        logits = predict_logits(engine.deployed(best=False), Normalize(PREPROCESS), found.scored_images)
    return {
        "arm": arm,
        "seed": seed,
        "updates": EPOCHS * len(loader),
        "accuracy": accuracy(logits, found.scored_labels),
        "correct": np.packbits(logits.argmax(1) == found.scored_labels).tobytes().hex(),
        "seconds": round(time.monotonic() - started, 1),
        "threads": threads,
    }


def table(found: list[dict[str, Any]]) -> str:
    """Every arm against the live teacher: over the images of each seed, and over the seeds themselves."""
    live = {row["seed"]: row for row in found if row["arm"] == "live"}
    lines = [
        "| arm | accuracy by seed | against live, images paired (95 %) | against live, over seeds (95 %) |",
        "|---|---|---|---|",
    ]
    for arm in ARMS:
        group = sorted((row for row in found if row["arm"] == arm), key=lambda row: row["seed"])
        shown = " / ".join(f"{100 * row['accuracy']:.2f}" for row in group)
        pairs = [(row, live[row["seed"]]) for row in group if row["seed"] in live]
        against = ("-", "-") if arm == "live" or not pairs else (over_images(pairs), over_seeds(pairs))
        lines.append(f"| {arm} | {shown} | {against[0]} | {against[1]} |")
    return "\n".join(lines)


def over_images(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    ours, theirs = (np.concatenate([bits(row) for row in side]) for side in zip(*pairs, strict=True))
    lost, won = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
    interval = paired_difference(lost, won, len(pairs) * NUM_SCORED)
    low, high = sorted((-100 * interval.low, -100 * interval.high))
    return f"{100 * (won - lost) / (len(pairs) * NUM_SCORED):+.2f} ({low:+.2f} to {high:+.2f}) points"


def over_seeds(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """Student-t over the seeds' differences: what another training would give."""
    differences = [100 * (ours["accuracy"] - theirs["accuracy"]) for ours, theirs in pairs]
    if len(differences) < 2:
        return "one seed"
    mean, sd = float(np.mean(differences)), float(np.std(differences, ddof=1))
    half = student_t_quantile(0.975, len(differences) - 1) * sd / len(differences) ** 0.5
    return f"{mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f}) points"


if __name__ == "__main__":
    main()
