"""Looks at a device: what it is, what it can run, and what stands in the way of measuring on it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Literal

from edgekd.core.errors import TargetError
from edgekd.measure.device import Device, wrong_device
from edgekd.targets import addresses
from edgekd.targets.remote import RemoteSession, RemoteTarget

State = Literal["ok", "note", "bad"]
MODULES = ("numpy", "onnxruntime")
_LOOK_S = 60.0
_PINGS = 5
_ROOM_BYTES = 200e6
_FIND_MODULES = (
    f"import importlib.util as u, json; print(json.dumps([n for n in {MODULES} if not u.find_spec(n)]))"
)


@dataclass(frozen=True)
class Look:
    """What one finds out. `facts` is None where the agent cannot run; `missing` then says what it lacks."""

    about: Mapping[str, Any]
    facts: Mapping[str, Any] | None
    versions: Mapping[str, Any]
    missing: tuple[str, ...]
    problem: str | None
    login_s: float
    round_trip_s: float


@dataclass(frozen=True)
class Check:
    """One line of a doctor: `bad` prevents measuring."""

    state: State
    text: str


def look(target: RemoteTarget) -> Look:
    """Log in, and ask the agent. Waits for no one and keeps no one out. Raises `TargetError`."""
    started = time.monotonic()
    with target.open(lease=False) as session:
        login_s = time.monotonic() - started
        pings = [_ping(session) for _ in range(_PINGS)]
        facts, versions, problem = _facts(target, session)
        missing = () if facts is not None else _missing(session)
        return Look(session.about, facts, versions, missing, problem, login_s, statistics.median(pings))


def _ping(session: RemoteSession) -> float:
    started = time.monotonic()
    session.free_bytes()
    return time.monotonic() - started


def _facts(
    target: RemoteTarget, session: RemoteSession
) -> tuple[Mapping[str, Any] | None, Mapping[str, Any], str | None]:
    try:
        device = Device(target, session)
        answer = device.call("facts", runtimes=[device.runtime("onnx")], deadline_s=_LOOK_S)
    except TargetError as error:
        return None, {}, error.what
    for reason in answer["absent"].values():
        return None, {}, reason
    return answer["facts"], answer["versions"].get("runtime_onnx", {}), None


def _missing(session: RemoteSession) -> tuple[str, ...]:
    finished = session.run([*session.python, "-c", _FIND_MODULES], timeout_s=_LOOK_S)
    try:
        return tuple(json.loads(finished.stdout))
    except ValueError:
        return ()


def machine_of(target: RemoteTarget) -> str | None:
    """What `uname` says, where no Python can: the last resort."""
    with suppress(TargetError), closing(target.transport()) as transport:
        return transport.run("uname -sm", timeout_s=_LOOK_S).stdout.decode(errors="replace").strip() or None
    return None


# --- telling ------------------------------------------------------------------------------------------------


def portrait(name: str, found: Look) -> list[str]:
    """What the device is, in a few lines, and what to do next."""
    if found.facts is None:
        return [
            f"{found.about['machine']}, Python {found.about['python']}, "
            f"{found.about['free_bytes'] / 1e9:.1f} GB free",
            _lacking(name, found),
        ]
    return [_hardware(found.facts), _software(found), *_warnings(name, found.facts)]


def _lacking(name: str, found: Look) -> str:
    if not found.missing:
        return f"the agent does not run there: {found.problem}"
    return (
        f"{' and '.join(found.missing)} cannot be imported there: `edgekd device setup {name}` makes a "
        "virtual environment in ~/.cache/edgekd/venv, installs it, and names it in the devices file"
    )


def _hardware(facts: Mapping[str, Any]) -> str:
    memory = facts.get("memory_bytes")
    parts = [
        facts.get("model") or facts.get("machine"),
        facts.get("cpu"),
        f"{facts.get('cores')} cores{_clusters(facts)}",
        f"{memory / 2**30:.1f} GiB of memory" if memory else None,
    ]
    return ", ".join(str(part) for part in parts if part)


def _clusters(facts: Mapping[str, Any]) -> str:
    kinds = facts.get("clusters") or []
    told = [f"{min(kind['cores'])}-{max(kind['cores'])}" for kind in kinds if kind.get("cores")]
    return f" (clusters, the fastest first: {', '.join(told)})" if len(told) > 1 else ""


def _software(found: Look) -> str:
    facts = found.facts or {}
    versions = [f"{key} {value}" for key, value in found.versions.items() if key in MODULES]
    return ", ".join([*filter(None, [facts.get("os"), f"Python {facts.get('python')}"]), *versions])


def _warnings(name: str, facts: Mapping[str, Any]) -> list[str]:
    lines = []
    if facts.get("emulated"):
        lines.append(f"emulated ({facts['emulated']}): accuracy counts, no time will be valid")
    governor = facts.get("governor")
    if governor not in (None, "performance"):
        lines.append(f"governor {governor}: `edgekd device prepare {name}` sets the clocks to their fastest")
    if len(facts.get("clusters") or []) > 1:
        fastest = facts["clusters"][0]["cores"]
        lines.append(f"several kinds of cores: pin to one of them, as `cores: {fastest}` in the devices file")
    return lines


def examine(target: RemoteTarget, found: Look) -> list[Check]:
    """What a doctor says. A pure function."""
    checks = [
        Check("ok", f"address known, from {addresses.source_of(target.name)}"),
        Check("ok", f"logged in within {found.login_s:.1f} s, round trip {found.round_trip_s * 1000:.1f} ms"),
        Check("ok", f"Python {found.about['python']} ({target.python}), {found.about['machine']}"),
        _runtime(target.name, found),
        _room(target.name, found.about["free_bytes"]),
    ]
    checks += [Check("note", f"in use: {note['who']}") for note in found.about["queue"]]
    if found.about["orphans"]:
        checks.append(Check("note", f"removed what {found.about['orphans']} killed sessions had left"))
    if found.facts is not None:
        checks += [Check("ok", _hardware(found.facts))]
        checks += [Check("bad", problem) for problem in wrong_device(target, found.facts)]
        checks += [Check("note", line) for line in _warnings(target.name, found.facts)]
    return checks


def _runtime(name: str, found: Look) -> Check:
    return Check("bad", _lacking(name, found)) if found.facts is None else Check("ok", _software(found))


def _room(name: str, free_bytes: float) -> Check:
    if free_bytes < _ROOM_BYTES:
        return Check("note", f"only {free_bytes / 1e6:.0f} MB of disk free; `edgekd device clean {name}`")
    return Check("ok", f"{free_bytes / 1e9:.1f} GB of disk free")
