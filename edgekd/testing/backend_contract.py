"""What every backend keeps, whoever wrote it; each check takes its name and an empty folder.

    @pytest.mark.parametrize("check", CHECKS)
    def test_my_backend(check, tmp_path):
        check("mine", tmp_path)

Everything is real: a small network is exported and the agent runs the file, in a process of its own. A check
raises `AssertionError`; `MissingDependencyError` where the backend's extra is not installed, and
`AbsentRuntimeError` where its runtime cannot work here: then it was not checked, and a test skips with that
reason.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edgekd.backends.backend import Backend
from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.source import Precision, Source
from edgekd.core.digest import of_file
from edgekd.core.errors import AbsentRuntimeError, MissingDependencyError, ModelError, UsageError
from edgekd.core.preprocess import Preprocess
from edgekd.measure.accuracy import read_array
from edgekd.measure.device import open_device
from edgekd.networks.resnet_cifar import resnet_cifar
from edgekd.quant.prepare import calibrate, finalize, prepare
from edgekd.quant.settings import QuantSettings
from edgekd.targets.local import LocalTarget

Images = npt.NDArray[np.uint8]
Check = Callable[[str, Path], None]

NUM_CLASSES = 4
SIZE = 12
PREPROCESS = Preprocess(size=(SIZE, SIZE), mean=(0.45, 0.5, 0.55), std=(0.2, 0.25, 0.3))
LABELS = ("first label", "second label", "third label", "fourth label")
LEAST_AGREEMENT = 0.97
"""Of an int8 or fp16 file with the network in torch, over `images()`."""
_INTEGERS = ("i8", "u8", "int8", "uint8")
_NUM_IMAGES = 200


@dataclass(frozen=True)
class Ran:
    """What the agent said of one file: logits `[N, classes]`, and what really ran."""

    logits: npt.NDArray[np.float32]
    profile: dict[str, Any]


# --- what is exported ---------------------------------------------------------------------------------------


@functools.cache
def images() -> Images:
    """Random images whose classes differ in brightness, uint8 `[N, H, W, C]`."""
    generator = np.random.default_rng(4)
    level = np.arange(_NUM_IMAGES) % NUM_CLASSES
    noise = generator.normal(0, 30, (_NUM_IMAGES, SIZE, SIZE, 3))
    return np.clip(40 + 55 * level[:, None, None, None] + noise, 0, 255).astype(np.uint8)


def inputs() -> torch.Tensor:
    return torch.from_numpy(PREPROCESS.apply(images()))


@functools.cache
def network() -> nn.Module:
    """A ResNet-8 that was trained a little, so that its answers are not all alike. Do not change it."""
    torch.manual_seed(0)
    module = resnet_cifar(num_classes=NUM_CLASSES, in_channels=3, depth=8, width=0.25)
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    labels = torch.arange(_NUM_IMAGES) % NUM_CLASSES
    for _ in range(40):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(inputs()), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return module.eval()


def quantized(profile: str) -> nn.Module:
    module = prepare(network(), QuantSettings(profile=profile, weight_bits=7), inputs()[:8])
    calibrate(module, torch.split(inputs(), 64))
    finalize(module)
    return module.eval()


def source(backend: Backend, precision: Precision = "fp32") -> Source:
    """The network in the form in which the export stage gives it to this backend."""
    made = Source(
        network(),
        (3, SIZE, SIZE),
        precision,
        metadata={"labels": json.dumps(LABELS), "layout": "NCHW", "preprocess": PREPROCESS.model_dump_json()},
    )
    if precision != "int8":
        return made
    if backend.profiles:
        return replace(made, module=quantized(backend.profiles[0]))
    return replace(made, calibration=lambda: iter(inputs().numpy()[None, :64]))


def exported(name: str, folder: Path, precision: Precision = "fp32") -> tuple[Backend, Path, dict[str, Any]]:
    backend = BACKENDS.load(name)
    backend.require()
    path = folder / f"{precision}{backend.suffix}"
    return backend, path, backend.export(source(backend, precision), path)


def run(backend: Backend, path: Path, *, batch: int = 1) -> Ran:
    """The file through the agent on this machine, by the runtime that checks this backend's files here."""
    with open_device(LocalTarget(name="local", options=dict(backend.check_options))) as device:
        stored = path.with_name("images.npy")
        np.save(stored, images(), allow_pickle=False)
        runtime = backend.checked_by or backend.name
        entry = device.artifact("graph", path, backend=runtime, images=stored, preprocess=PREPROCESS)
        answer = device.call("accuracy", [entry], out="logits.npy", batch=batch)
        device.pull("logits.npy", path.with_name("logits.npy"))
        return Ran(read_array(path.with_name("logits.npy")), answer["result"]["profile"])


@torch.no_grad()
def expected(module: nn.Module) -> npt.NDArray[np.float32]:
    logits: npt.NDArray[np.float32] = module(inputs()).numpy()
    return logits


# --- the checks ---------------------------------------------------------------------------------------------


def the_description_is_true(name: str, folder: Path) -> None:
    backend = BACKENDS.load(name)
    assert backend.name == name
    assert backend.suffix.startswith(".")
    assert all(file.is_file() for file in backend.device_files)
    assert all(part.name.startswith(f"{name}_") for part in backend.runtime_parts)
    assert backend.title
    assert {"fp32"} <= {*backend.precisions} <= {"fp32", "fp16", "bf16", "int8"}


def without_its_library_it_says_which_extra(name: str, folder: Path) -> None:
    lacking = replace(BACKENDS.load(name), package="not_there_at_all")
    try:
        lacking.require()
    except MissingDependencyError as error:
        assert error.exit_code == 6
        assert f"edgekd[{lacking.extra}]" in str(error)
        return
    raise AssertionError("an absent library was not told")


def the_facts_are_those_of_the_file(name: str, folder: Path) -> None:
    backend, path, facts = exported(name, folder)
    assert facts == json.loads(json.dumps(facts, allow_nan=False))
    assert facts["sha256"] == of_file(path)
    assert facts["size_bytes"] == backend.size_of(path)
    assert sum(facts["operators"].values()) > 0


def the_same_network_gives_the_same_bytes(name: str, folder: Path) -> None:
    backend, path, facts = exported(name, folder)
    again = folder / "again"
    again.mkdir()
    _, other, _ = exported(name, again)
    if facts.get("deterministic", True):
        mine, theirs = ([of_file(file) for file in backend.files_of(one)] for one in (path, other))
        assert mine == theirs
    else:
        assert facts["reason"], "bytes that differ need a reason"


def fp32_answers_as_torch_does(name: str, folder: Path) -> None:
    backend, path, _ = exported(name, folder)
    wanted = expected(network())
    found = run(backend, path)
    assert np.abs(found.logits - wanted).max() <= backend.tolerance * np.abs(wanted).max()
    assert found.profile["unexpected"] == []


def every_precision_runs_as_what_it_is(name: str, folder: Path) -> None:
    """INT8 has integer kernels where the runtime tells; every other file answers like the network."""
    for precision in BACKENDS.load(name).precisions:
        backend, path, _ = exported(name, folder, precision)  # type: ignore[arg-type]
        try:
            found = run(backend, path)
        except AbsentRuntimeError:
            if precision == "bf16":  # not every processor has it
                continue
            raise
        assert found.profile["unexpected"] == [], precision
        counted = found.profile.get("precisions", {})
        integers = sum(counted.get(kind, 0) for kind in _INTEGERS)
        if counted:
            assert (integers > 0) == (precision == "int8"), (precision, counted)
        agreement = (found.logits.argmax(1) == expected(network()).argmax(1)).mean()
        assert agreement >= LEAST_AGREEMENT, (precision, agreement)


def trained_integers_are_kept(name: str, folder: Path) -> None:
    """The file answers as the quantized network in torch does, where the backend takes its quantizers."""
    backend = BACKENDS.load(name)
    if "int8" not in backend.precisions or not backend.profiles:
        return
    _, path, facts = exported(name, folder, "int8")
    wanted = expected(quantized(backend.profiles[0]))
    found = run(backend, path)
    assert facts.get("int8_form", "trained") == "trained"
    assert (found.logits.argmax(1) == wanted.argmax(1)).mean() >= LEAST_AGREEMENT
    assert np.abs(found.logits - wanted).mean() <= 0.05 * np.abs(wanted).max()


def a_batch_is_dynamic_where_it_is_declared(name: str, folder: Path) -> None:
    backend, path, facts = exported(name, folder)
    if facts["input"]["shape"][0] != "batch":
        return
    alone, together = run(backend, path), run(backend, path, batch=8)
    assert np.abs(alone.logits - together.logits).max() <= backend.tolerance * np.abs(alone.logits).max()


def labels_and_preprocessing_are_in_the_file(name: str, folder: Path) -> None:
    backend, path, _ = exported(name, folder)
    content = b"".join(file.read_bytes() for file in backend.files_of(path))
    for word in (*LABELS, "preprocess"):
        assert word.encode() in content, word


def a_file_that_is_cut_short_is_refused(name: str, folder: Path) -> None:
    backend, path, _ = exported(name, folder)
    whole = path.read_bytes()
    for share in (0, 0.1, 0.5, 0.95):
        path.write_bytes(whole[: int(len(whole) * share)])
        try:
            run(backend, path)
        except AbsentRuntimeError:
            raise
        except (ModelError, UsageError):
            continue
        raise AssertionError(f"{share:.0%} of the file was run")


def nothing_is_left_of_a_failed_export(name: str, folder: Path) -> None:
    backend = BACKENDS.load(name)
    backend.require()
    broken = replace(source(backend), module=_DataDependent())
    with suppress(ModelError):
        backend.export(broken, folder / f"broken{backend.suffix}")
        raise AssertionError("a network that depends on its data was exported")
    assert [*folder.iterdir()] == []


class _DataDependent(nn.Module):
    """What no exporter can follow: it looks at values to choose what to compute."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * SIZE * SIZE, NUM_CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = x.flatten(1)
        logits: torch.Tensor = self.linear(kept)
        return logits if float(kept.sum()) > 0 else -logits


CHECKS: tuple[Check, ...] = (
    the_description_is_true,
    without_its_library_it_says_which_extra,
    the_facts_are_those_of_the_file,
    the_same_network_gives_the_same_bytes,
    fp32_answers_as_torch_does,
    every_precision_runs_as_what_it_is,
    trained_integers_are_kept,
    a_batch_is_dynamic_where_it_is_declared,
    labels_and_preprocessing_are_in_the_file,
    a_file_that_is_cut_short_is_refused,
    nothing_is_left_of_a_failed_export,
)
