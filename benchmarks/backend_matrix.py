"""Which network exports to which backend in which precision, and does the file answer as torch does?

    python benchmarks/backend_matrix.py --data data/cifar10 --teachers data/teachers/akamaster-cifar10
    python benchmarks/backend_matrix.py --table           # render what was measured as Markdown

Networks of torchvision have random weights and batch-norm statistics of real images; they answer 32 images of
CIFAR-10, enlarged to 224 x 224, and the largest difference of a logit from torch is told relative to the
largest logit. A CIFAR-10 ResNet-20 with published weights (it saw these images in training) answers 5,000:
agreement with FP32 in torch image by image, and what accuracy it cost, paired. INT8 is calibrated on 1,024
other images, without training. One row per (network, backend, precision) is appended to
results/backend_matrix.jsonl; what is there is not redone. Every file is run by the agent, in a process of its
own.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from evidence import append, rows
from methods_on_cifar import PREPROCESS, Material, material, model
from PIL import Image
from torch import nn

from edgekd.backends.backend import Backend
from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.source import Source
from edgekd.core.errors import AbsentRuntimeError, EdgekdError, MissingDependencyError
from edgekd.core.preprocess import Preprocess
from edgekd.measure.accuracy import read_array
from edgekd.measure.device import open_device
from edgekd.measure.statistics import paired_difference
from edgekd.networks.resize import Normalize
from edgekd.quant.prepare import calibrate, finalize, prepare
from edgekd.quant.settings import QuantSettings
from edgekd.targets.local import LocalTarget
from edgekd.train.evaluate import predict_logits

NAME = "backend_matrix"
PRECISIONS = ("fp32", "fp16", "int8")
LARGE = Preprocess(size=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
NUM_LARGE, NUM_CALIBRATION, NUM_SMALL = 32, 1024, 5000
TRAINED = "resnet20 (CIFAR-10)"

Images = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Case:
    """A network with its images; `labels` where it was trained."""

    module: nn.Module
    preprocess: Preprocess
    images: Images
    calibration: Images
    labels: npt.NDArray[np.int64] | None = None

    def logits(self, module: nn.Module) -> Logits:
        return predict_logits(module, Normalize(self.preprocess), self.images, batch_size=16)

    @functools.cached_property
    def batches(self) -> list[torch.Tensor]:
        parts = np.array_split(self.calibration, max(1, len(self.calibration) // 16))
        return [torch.from_numpy(self.preprocess.apply(part)) for part in parts]


def vit() -> nn.Module:
    """ViT-Ti/16: torchvision's class in its smallest published shape."""
    from torchvision.models import VisionTransformer

    made = VisionTransformer(
        image_size=224,
        patch_size=16,
        num_layers=12,
        num_heads=3,
        hidden_dim=192,
        mlp_dim=768,
        num_classes=100,
    )
    made.heads[-1].reset_parameters()  # torchvision starts with zeros, and every logit would be 0
    nn.init.normal_(made.class_token, std=0.02)  # nor has a trained one a range of nothing
    return made


def torchvision_network(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import torchvision

        made: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=100)
        return made

    return build


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{
        name: torchvision_network(name)
        for name in (
            *("resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"),
            *("shufflenet_v2_x1_0", "regnet_y_400mf"),
        )
    },
    "vit_ti_16": vit,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that prepare_cifar10.py wrote")
    parser.add_argument("--teachers", type=Path, help="folder with resnet20-12fca82f.th")
    parser.add_argument("--backends", nargs="*", help="only these")
    parser.add_argument("--networks", nargs="*", help="only these")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(rows(NAME)))
        return
    torch.set_num_threads(2)
    found = material(arguments.data, arguments.teachers, Path("/tmp/edgekd-answers"))
    for network in arguments.networks or (TRAINED, *NETWORKS):
        fill(found, network, arguments.backends or BACKENDS.names())


def fill(found: Material, network: str, backends: tuple[str, ...]) -> None:
    """The rows of one network that are not there yet."""
    there = {(row["network"], row["backend"], row["precision"]) for row in rows(NAME)}
    wanted = [key for key in itertools.product(backends, PRECISIONS) if (network, *key) not in there]
    if not wanted:
        return
    case = trained(found) if network == TRAINED else settled(found, NETWORKS[network])
    expected = case.logits(case.module)
    for backend, precision in wanted:
        started = time.monotonic()
        row = {"network": network, "backend": backend, "precision": precision}
        row |= one(case, expected, BACKENDS.load(backend), precision)
        row["seconds"] = round(time.monotonic() - started, 1)
        append(NAME, row)
        print({key: value for key, value in row.items() if key != "machine"}, flush=True)


def trained(found: Material) -> Case:
    module = model(20, weights=found.teachers / "resnet20-12fca82f.th").module.eval()
    calibration = np.stack(found.train.images.get(range(NUM_CALIBRATION)))
    return Case(
        module, PREPROCESS, found.scored_images[:NUM_SMALL], calibration, found.scored_labels[:NUM_SMALL]
    )


def settled(found: Material, build: Callable[[], nn.Module]) -> Case:
    """Random weights, and batch norm of real images: three passes in training mode."""
    torch.manual_seed(0)
    module = build()
    images = enlarged(found.scored_images[:NUM_LARGE])
    calibration = enlarged(np.stack(found.train.images.get(range(64))))
    case = Case(module, LARGE, images, calibration)
    module.train()
    with torch.no_grad():
        for batch in (*case.batches, *case.batches, *case.batches):
            module(batch)
    module.eval()
    return case


def enlarged(images: Images) -> Images:
    size = LARGE.size[::-1]
    return np.stack(
        [np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BICUBIC)) for one in images]
    )


def one(case: Case, expected: Logits, backend: Backend, precision: str) -> dict[str, Any]:
    """What came of one export, or why nothing did."""
    if precision not in backend.precisions:
        return {"status": "no", "reason": f"{backend.title} has no {precision} here"}
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"model{backend.suffix}")
            backend.require()
            facts = backend.export(source(case, backend, precision), path)
            logits, profile = answers(case, backend, path)
    except (AbsentRuntimeError, MissingDependencyError) as error:
        return {"status": "not measured", "reason": error.what}
    except EdgekdError as error:
        return {"status": "no", "reason": error.what}
    return {"status": "yes", **compared(case, expected, logits), **told(facts, profile)}


def source(case: Case, backend: Backend, precision: str) -> Source:
    height, width = case.preprocess.size
    made = Source(case.module, (3, height, width), precision)  # type: ignore[arg-type]
    if precision != "int8":
        return made
    if not backend.profiles:
        return replace(made, calibration=lambda: (batch.numpy() for batch in case.batches))
    return replace(made, module=integers(case, backend.profiles[0]))


@functools.lru_cache(maxsize=2)
def integers(case: Case, profile: str) -> nn.Module:
    """7-bit weights, which are exact on every x86 (docs/quantization.md)."""
    module = prepare(case.module, QuantSettings(profile=profile, weight_bits=7), case.batches[0])
    calibrate(module, case.batches)
    finalize(module)
    return module.eval()


def answers(case: Case, backend: Backend, path: Path) -> tuple[Logits, dict[str, Any]]:
    runtime = backend.checked_by or backend.name
    with open_device(LocalTarget(name="local", options=dict(backend.check_options))) as device:
        stored = path.with_name("images.npy")
        np.save(stored, case.images, allow_pickle=False)
        entry = device.artifact("graph", path, backend=runtime, images=stored, preprocess=case.preprocess)
        answer = device.call("accuracy", [entry], out="logits.npy", batch=1, deadline_s=1800)
        device.pull("logits.npy", path.with_name("logits.npy"))
        return read_array(path.with_name("logits.npy")), dict(answer["result"]["profile"])


def compared(case: Case, expected: Logits, logits: Logits) -> dict[str, Any]:
    before, after = expected.argmax(1), logits.argmax(1)
    found: dict[str, Any] = {
        "n": len(logits),
        "largest_error": float(np.abs(logits - expected).max() / np.abs(expected).max()),
        "agreement": float((before == after).mean()),
    }
    if case.labels is not None:
        lost = int(((before == case.labels) & (after != case.labels)).sum())
        won = int(((before != case.labels) & (after == case.labels)).sum())
        interval = paired_difference(lost, won, len(logits))
        found["accuracy"] = float((after == case.labels).mean())
        found["drop"] = [(lost - won) / len(logits), interval.low, interval.high]
    return found


def told(facts: dict[str, Any], profile: dict[str, Any]) -> dict[str, Any]:
    return {
        "size_bytes": facts["size_bytes"],
        "int8_form": facts.get("int8_form"),
        "precisions": profile.get("precisions", {}),
        "unexpected": len(profile["unexpected"]),
    }


# --- the table ----------------------------------------------------------------------------------------------


def table(found: list[dict[str, Any]]) -> str:
    """Two Markdown tables: the matrix of networks, and the trained network over 5,000 images."""
    return "\n".join([*_matrix(found), "", *_trained(found)])


def _matrix(found: list[dict[str, Any]]) -> Iterator[str]:
    backends = list(dict.fromkeys(row["backend"] for row in found))
    yield f"| network | precision | {' | '.join(f'`{name}`' for name in backends)} |"
    yield f"|---|---|{'---|' * len(backends)}"
    cells = {(row["network"], row["precision"], row["backend"]): _cell(row) for row in found}
    for network, precision in itertools.product(NETWORKS, PRECISIONS):
        line = [cells.get((network, precision, backend), "") for backend in backends]
        if any(line):
            yield f"| {network} | {precision.upper()} | {' | '.join(line)} |"


def _cell(row: dict[str, Any]) -> str:
    if row["status"] != "yes":
        reason = re.split(r"[:;](?:\s|$)", row["reason"], maxsplit=1)[0]
        return f"{row['status']}: {reason}"
    unexpected = f", {row['unexpected']} kernels elsewhere" if row["unexpected"] else ""
    return f"yes, {row['largest_error']:.1e}{unexpected}"


def _trained(found: list[dict[str, Any]]) -> Iterator[str]:
    yield "| backend | precision | agreement | accuracy | drop, 95 % interval | kernels | size |"
    yield "|---|---|---|---|---|---|---|"
    for row in found:
        if row["network"] == TRAINED and row["status"] == "yes":
            drop, low, high = (100 * value for value in row["drop"])
            kernels = ", ".join(f"{count} {name}" for name, count in row["precisions"].items())
            yield (
                f"| `{row['backend']}` | {row['precision'].upper()} | {row['agreement']:.2%} | "
                f"{row['accuracy']:.2%} | {drop:+.2f} pt ({low:+.2f} to {high:+.2f}) | {kernels} | "
                f"{row['size_bytes'] / 1e3:.0f} kB |"
            )


if __name__ == "__main__":
    main()
