"""Defects of the device that is measured on, and of what shares it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import yaml

from edgekd.core.registry import Entry
from edgekd.targets.catalogue import TARGET_KINDS
from edgekd.targets.local import LocalTarget
from edgekd.targets.target import Session, Target
from planted.running import BRISK, Outcome, Place, audited, defect, specification

# --- the device ---------------------------------------------------------------------------------------------


def on_device(place: Place, options: dict[str, Any], *more: str, **named: Any) -> Outcome:
    """On a target `box` of this machine with such options."""
    (place / "edgekd-devices.yaml").write_text(yaml.safe_dump({"box": {"kind": "local", **options}}))
    return audited(place, None, "--target", "box", *more, **named)


@defect("fall-back|provider|CUDA", fast=True)
def provider_that_is_not_there(place: Place) -> Outcome:
    return on_device(place, {"options": {"providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]}})


@defect("fall-back")
def kernels_on_the_processor(place: Place) -> Outcome:
    """A provider that is there and takes no node: everything runs on the processor after all."""
    return on_device(place, {"options": {"providers": ["AzureExecutionProvider", "CPUExecutionProvider"]}})


@defect("wrong device")
def another_device_than_expected(place: Place) -> Outcome:
    return on_device(place, {"expect": {"cpu": "Cortex-A76"}})


@defect("governor")
def required_fact_that_is_not_so(place: Place) -> Outcome:
    return audited(place, spec=specification(required={"governor": "edgekd-benchmark"}))


@defect("emulated")
def times_of_an_emulated_device(place: Place) -> Outcome:
    spec = specification(latency_p50="1s", latency_p90="1s")
    return audited(place, spec=spec, protocol=BRISK, EDGEKD_EMULATED="qemu-user, as the suite claims")


@defect("processes")
def too_few_processes(place: Place) -> Outcome:
    return audited(place, spec=specification(latency_p90="1s"))


@defect("latency")
def slower_than_the_limit(place: Place) -> Outcome:
    """A thousandth of a millisecond, on any machine; also noisy, it is wholly outside or undecided."""
    return audited(place, spec=specification(latency_p50="1us"), protocol=BRISK)


@contextmanager
def background(count: int, code: str, *arguments: str) -> Iterator[None]:
    """Processes that run Python code until the end."""
    running = [subprocess.Popen([sys.executable, "-c", code, *arguments]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


@defect("noise|share|latency|spread|drift")
def foreign_load(place: Place) -> Outcome:
    """Others take the cores while the limit on absolute time would hold either way."""
    with background(2 * (os.cpu_count() or 1), "while True: pass"):
        return audited(place, spec=specification(latency_p90="10s"), protocol=BRISK)


class Throttled(Target):
    """This machine, whose agents see `tree` in the place of /sys/devices/system/cpu."""

    kind: Literal["throttled"] = "throttled"
    tree: Path

    @contextmanager
    def session(self) -> Iterator[Session]:
        mount = 'mount --bind "$0" /sys/devices/system/cpu && exec "$@"'
        with LocalTarget(name=self.name).session() as session:
            session.python = ("unshare", "-m", "sh", "-c", mount, str(self.tree), *session.python)
            yield session


@contextmanager
def kind_of_target(entry: Entry) -> Iterator[None]:
    """A kind of target that only the benchmark has."""
    TARGET_KINDS.add(entry)
    try:
        yield
    finally:
        TARGET_KINDS._entries.pop(entry.name)


def _no_mounts() -> str | None:
    done = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    return None if done.returncode == 0 else "this user may not make mount namespaces"


@defect("throttle", skip=_no_mounts)
def throttled_processor(place: Place) -> Outcome:
    """The throttle counter of a core rises while timing; the limit would hold all the same."""
    tree = _processor_tree(place / "tree")
    counter = tree / "cpu0" / "thermal_throttle" / "core_throttle_count"
    counter.parent.mkdir()
    counter.write_text("0")
    code = (
        "import sys, time\nn = 0\nwhile True:\n"
        " n += 1\n open(sys.argv[1], 'w').write(str(n))\n time.sleep(0.02)"
    )
    (place / "edgekd-devices.yaml").write_text(
        yaml.safe_dump({"box": {"kind": "throttled", "tree": str(tree)}})
    )
    spec = specification(latency_p90="10s")
    throttled = Entry("throttled", "planted.devices:Throttled", "counters of a throttled processor")
    with kind_of_target(throttled), background(1, code, str(counter)):
        return audited(place, None, "--target", "box", spec=spec, protocol=BRISK)


def _processor_tree(tree: Path) -> Path:
    """What a runtime wants to know of the cores, as files."""
    real = Path("/sys/devices/system/cpu")
    names = [*real.glob("cpu[0-9]*/cache/index*/*"), *real.glob("cpu[0-9]*/topology/*"), *real.glob("*")]
    for path in names:
        copy = tree / path.relative_to(real)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            with suppress(OSError):
                copy.write_bytes(path.read_bytes())
    return tree
