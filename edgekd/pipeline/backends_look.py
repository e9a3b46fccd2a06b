"""Which backends can export here, and which of their runtimes a device has; each with its reason.

    python -m edgekd.pipeline.backends_look [BACKEND ...]

imports their exporters and prints, as JSON, why one cannot be used: in a process of its own, which a library
that crashes may end.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.errors import EdgekdError, TargetError
from edgekd.measure.device import Device

_EXPORTERS_S = 300.0


# --- runtimes of a device -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Runtimes:
    """What a device is, and by backend the versions that its runtime tells there or why it does not run."""

    facts: Mapping[str, Any]
    versions: Mapping[str, Mapping[str, str]]
    absent: Mapping[str, str]

    def told(self) -> dict[str, str]:
        """Backend -> `onnxruntime 1.32.0`, of those that run."""
        return {name: _in_short(name, versions) for name, versions in self.versions.items()}


def _in_short(backend: str, versions: Mapping[str, str]) -> str:
    """The versions that say which runtime it is, without whatever else it tells of itself."""
    described = BACKENDS.load(backend)
    named = {*described.device_packages, *described.versions} - {"numpy"}
    return ", ".join(f"{key} {version}" for key, version in versions.items() if key in named)


def look_for_runtimes(device: Device, *, deadline_s: float) -> Runtimes:
    """Ask the device for every backend's runtime. Raises `TargetError` where not even the agent runs."""
    try:
        return _runtimes(device, BACKENDS.names(), deadline_s)
    except TargetError:  # one of them ends the process that imports it
        return _one_by_one(device, deadline_s)


def _one_by_one(device: Device, deadline_s: float) -> Runtimes:
    facts = _runtimes(device, (), deadline_s).facts
    versions: dict[str, Mapping[str, str]] = {}
    absent: dict[str, str] = {}
    for name in BACKENDS.names():
        try:
            found = _runtimes(device, (name,), deadline_s)
        except TargetError as error:
            absent[name] = error.what
            continue
        versions |= found.versions
        absent |= found.absent
    return Runtimes(facts, versions, absent)


def _runtimes(device: Device, backends: Sequence[str], deadline_s: float) -> Runtimes:
    modules = {device.runtime(name): name for name in backends}
    answer = device.call("facts", runtimes=[*modules], deadline_s=deadline_s)
    versions, absent = (
        {backend: told[module] for module, backend in modules.items() if module in told}
        for told in (answer["versions"], answer["absent"])
    )
    return Runtimes(answer["facts"], versions, absent)


# --- exporters of this machine ------------------------------------------------------------------------------


def exporters() -> dict[str, str | None]:
    """Backend -> why it cannot export here, None where it can. Nothing is imported into this process."""
    found = _ask(BACKENDS.names())
    if found is None:  # one of them ends the process that imports it
        found = {}
        for name in BACKENDS.names():
            found |= _ask((name,)) or {name: "importing its libraries ends the process"}
    return found


def _ask(names: Sequence[str]) -> dict[str, str | None] | None:
    command = [sys.executable, "-m", __name__, *names]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_EXPORTERS_S, check=True)
        answer: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None
    return answer


def _problem(name: str) -> str | None:
    try:
        BACKENDS.load(name).require()
        BACKENDS.load(name).load_exporter()
    except EdgekdError as error:
        return f"{error.what} (fix: {error.fix})" if error.fix else error.what
    return None


if __name__ == "__main__":
    print(json.dumps({name: _problem(name) for name in sys.argv[1:] or BACKENDS.names()}))
