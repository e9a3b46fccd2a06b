"""Looks at a device: what it is, what it can run, and what stands in the way of measuring on it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Literal

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.errors import TargetError
from edgekd.measure.device import Device, wrong_device
from edgekd.pipeline.backends_look import Runtimes, look_for_runtimes
from edgekd.targets import addresses
from edgekd.targets.remote import RemoteSession, RemoteTarget

State = Literal["ok", "note", "bad"]
_LOOK_S = 60.0
_PINGS = 5
_ROOM_BYTES = 200e6


@dataclass(frozen=True)
class Look:
    """What one finds out. `runtimes` is None where the agent cannot run; `problem` then says why."""

    about: Mapping[str, Any]
    runtimes: Runtimes | None
    problem: str | None
    login_s: float
    round_trip_s: float

    @property
    def facts(self) -> Mapping[str, Any] | None:
        """What the agent says of the device."""
        return self.runtimes.facts if self.runtimes else None


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
        runtimes, problem = _runtimes(target, session)
        return Look(session.about, runtimes, problem, login_s, statistics.median(pings))


def _ping(session: RemoteSession) -> float:
    started = time.monotonic()
    session.free_bytes()
    return time.monotonic() - started


def _runtimes(target: RemoteTarget, session: RemoteSession) -> tuple[Runtimes | None, str | None]:
    try:
        return look_for_runtimes(Device(target, session), deadline_s=_LOOK_S), None
    except TargetError as error:
        return None, error.what


def machine_of(target: RemoteTarget) -> str | None:
    """What `uname` says, where no Python can: the last resort."""
    with suppress(TargetError), closing(target.transport()) as transport:
        return transport.run("uname -sm", timeout_s=_LOOK_S).stdout.decode(errors="replace").strip() or None
    return None


# --- telling ------------------------------------------------------------------------------------------------


def portrait(name: str, found: Look) -> list[str]:
    """What the device is, in a few lines, and what to do next."""
    if found.runtimes is None:
        return [
            f"{found.about['machine']}, Python {found.about['python']}, "
            f"{found.about['free_bytes'] / 1e9:.1f} GB free",
            f"the agent does not run there: {found.problem}",
        ]
    facts, runtimes = found.runtimes.facts, [check.text for check in _runtime_checks(name, found.runtimes)]
    return [_hardware(facts), _software(facts), *runtimes, *_warnings(name, facts)]


def _runtime_checks(name: str, runtimes: Runtimes) -> Iterator[Check]:
    """What runs there; what does not, and how it is installed."""
    told = [f"{BACKENDS.load(backend).title} ({versions})" for backend, versions in runtimes.told().items()]
    if told:
        yield Check("ok", f"runs {', '.join(told)}")
    if runtimes.absent:
        yield Check("note" if told else "bad", f"does not run {'; '.join(_by_reason(runtimes.absent))}")
    if not told:
        yield Check(
            "note",
            f"`edgekd device setup {name}` makes a virtual environment in ~/.cache/edgekd/venv, installs "
            "ONNX Runtime or what `--backend` names, and names it in the devices file",
        )


def _by_reason(absent: Mapping[str, str]) -> Iterator[str]:
    for reason in dict.fromkeys(absent.values()):
        yield f"{', '.join(backend for backend in absent if absent[backend] == reason)}: {reason}"


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


def _software(facts: Mapping[str, Any]) -> str:
    return ", ".join(filter(None, [facts.get("os"), f"Python {facts.get('python')}"]))


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
        _room(target.name, found.about["free_bytes"]),
    ]
    checks += [Check("note", f"in use: {note['who']}") for note in found.about["queue"]]
    if found.about["orphans"]:
        checks.append(Check("note", f"removed what {found.about['orphans']} killed sessions had left"))
    if found.runtimes is None:
        return [*checks, Check("bad", f"the agent does not run there: {found.problem}")]
    facts = found.runtimes.facts
    checks += [Check("ok", _hardware(facts)), Check("ok", _software(facts))]
    checks += _runtime_checks(target.name, found.runtimes)
    checks += [Check("bad", problem) for problem in wrong_device(target, facts)]
    checks += [Check("note", line) for line in _warnings(target.name, facts)]
    return checks


def _room(name: str, free_bytes: float) -> Check:
    if free_bytes < _ROOM_BYTES:
        return Check("note", f"only {free_bytes / 1e6:.0f} MB of disk free; `edgekd device clean {name}`")
    return Check("ok", f"{free_bytes / 1e9:.1f} GB of disk free")
