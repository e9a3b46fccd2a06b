"""What this machine can do and what cannot be measured on it, each with its reason."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.errors import EdgekdError
from edgekd.measure import agent, agent_facts
from edgekd.measure.device import open_device
from edgekd.pipeline.backends_look import exporters, look_for_runtimes
from edgekd.pipeline.cgroup import core_quota, memory_limit
from edgekd.targets.devices_file import DEVICES_FILE, read_targets
from edgekd.targets.local import LocalTarget

_PACKAGE = Path(__file__).resolve().parents[1]
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(\[[^\]]*\])?[^;]*(?:;.*extra\s*==\s*['\"]([^'\"]+)['\"])?.*")
_LOOK_S = 120.0
_NVIDIA_QUERY = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
_STEAL = 7
"""Position of stolen time among the ticks of /proc/stat."""
_MOST_STEAL = 0.02
"""Share of stolen time above which absolute latency is invalid (measuring protocol, item 10)."""

Facts = dict[str, Any]


@dataclass(frozen=True)
class Diagnosis:
    """`sections` maps a title to its lines; `facts` is what they were written from."""

    sections: dict[str, list[str]]
    facts: Facts

    def as_data(self) -> dict[str, Any]:
        return {**self.facts, "sections": self.sections}


def diagnose() -> Diagnosis:
    """Look at this machine. Imports no runtime into this process; nothing outside it is contacted."""
    facts = look()
    return Diagnosis(describe(facts), facts)


# --- looking ------------------------------------------------------------------------------------------------


def look() -> Facts:
    """Everything that `describe` reads, as plain data."""
    with ThreadPoolExecutor(max_workers=1) as beside:
        exporting = beside.submit(exporters)
        local = _ask_local()
    return {
        **local,
        "exporters": exporting.result(),
        "flags": sorted(_flags()),
        "state": agent_facts.state(),
        "core_quota": core_quota(),
        "memory_limit_bytes": memory_limit(),
        "disk_free_bytes": shutil.disk_usage(".").free,
        "packages": _packages(),
        "gpus": _gpus(),
        **_targets(),
    }


def _ask_local() -> Facts:
    """The agent's facts from a session like that of any measurement, so that a broken one shows here."""
    try:
        with open_device(LocalTarget(name="local")) as device:
            found = look_for_runtimes(device, deadline_s=_LOOK_S)
    except EdgekdError as error:
        return {"device": agent.facts(), "runtimes": {}, "absent_runtimes": {}, "local_error": str(error)}
    return {
        "device": found.facts,
        "runtimes": {name: {"told": text, **found.versions[name]} for name, text in found.told().items()},
        "absent_runtimes": dict(found.absent),
        "local_error": None,
    }


def _flags() -> set[str]:
    cpu = agent_facts.cpu_lines()
    return set((cpu.get("Features") or cpu.get("flags") or "").split())


def _packages() -> dict[str, dict[str, str | None]]:
    """Extra (empty: the base) -> package -> the version found, or None."""
    found: dict[str, dict[str, str | None]] = {}
    for extra, package in _requirements():
        found.setdefault(extra, {})[package] = _version(package)
    return found


def _requirements() -> Iterator[tuple[str, str]]:
    """(extra, package) of everything edgekd asks for; from its checkout where it is not installed."""
    try:
        texts = requires("edgekd") or []
    except PackageNotFoundError:
        texts = list(_declared(_PACKAGE.parent / "pyproject.toml"))
    for text in texts:
        match = _REQUIREMENT.match(text)
        if match and match[1] != "edgekd":
            yield match[3] or "", match[1]


def _declared(pyproject: Path) -> Iterator[str]:
    try:
        project = tomllib.loads(pyproject.read_text())["project"]
    except (OSError, ValueError, KeyError):
        return
    yield from project["dependencies"]
    for extra, texts in project["optional-dependencies"].items():
        yield from (f"{text}; extra == '{extra}'" for text in texts)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpus() -> list[str]:
    """One line a graphics card, as its driver names it."""
    tool = shutil.which("nvidia-smi")
    if tool is not None:
        try:
            done = subprocess.run([tool, *_NVIDIA_QUERY], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            return []
        return done.stdout.strip().splitlines() if done.returncode == 0 else []
    cards = Path("/proc/driver/nvidia/gpus")
    return [f"NVIDIA card at {card.name}" for card in sorted(cards.glob("*"))]


def _targets() -> Facts:
    try:
        targets = read_targets(Path(DEVICES_FILE))
    except EdgekdError as error:
        return {"targets": {}, "targets_error": str(error)}
    facts = {name: {**target.facts(), **target.model_dump(mode="json")} for name, target in targets.items()}
    return {"targets": facts, "targets_error": None}


# --- telling ------------------------------------------------------------------------------------------------


def describe(facts: Facts) -> dict[str, list[str]]:
    """The facts as lines for a person, by title. A pure function."""
    device, flags = facts["device"], set(facts["flags"])
    return {
        "Machine": _machine(facts, device),
        "Instruction set": _instructions(device, flags),
        "Clocks": _clocks(device, facts["state"]),
        "Memory and disk": _memory(facts, device),
        "Packages": _package_lines(facts["packages"]),
        "Backends": list(_backends(facts)),
        "GPU": facts["gpus"] or ["none found"],
        "Targets": _target_lines(facts),
        "Cannot be measured here": list(_impossible(facts, device)) or ["nothing that edgekd measures"],
    }


def _machine(facts: Facts, device: Facts) -> list[str]:
    lines = [f"{device['cpu'] or 'unknown processor'} ({device['machine']}), {device['os'] or '?'}"]
    allowed = device["cores_allowed"]
    cores = f"{device['cores']} cores"
    if allowed is not None and len(allowed) < device["cores"]:
        cores += f", of which this process may use {len(allowed)} ({', '.join(map(str, allowed))})"
    if facts["core_quota"] is not None:
        cores += f", limited by its control group to {facts['core_quota']:g} cores of time"
    lines.append(cores)
    if device["hypervisor"]:
        lines.append("a virtual machine")
    if device["emulated"]:
        lines.append(f"emulated: {device['emulated']}")
    return lines


def _instructions(device: Facts, flags: set[str]) -> list[str]:
    lines = [", ".join(device["cpu_features"]) or "no vector extension known"]
    lines.append(_int8(device))
    lines.append(_bf16(flags))
    if device["machine"] in ("x86_64", "AMD64") and "avx2" not in flags:
        lines.append("no AVX2: expect slow kernels")
    return lines


def _int8(device: Facts) -> str:
    if device["vnni"]:
        return "8-bit dot products (VNNI or dotprod): INT8 runs at full precision and speed"
    if device["machine"] in ("x86_64", "AMD64"):
        return (
            "no VNNI: INT8 weights are limited to 7 bits, because u8 x s8 products saturate in int16; "
            "INT8 gains less speed than with VNNI"
        )
    return "no 8-bit dot product: INT8 gains less speed"


def _bf16(flags: set[str]) -> str:
    if "amx_bf16" in flags:
        return "bf16 by AMX: training may use it"
    if flags & {"avx512_bf16", "bf16"}:
        return "bf16: training may use it"
    return "no bf16: training runs in fp32"


def _clocks(device: Facts, state: Facts) -> list[str]:
    governor = device["governor"]
    lines = [f"governor {governor}" if governor else "no frequency control is visible here"]
    if governor and governor != "performance":
        lines.append("clocks follow the load; for steady times: sudo cpupower frequency-set -g performance")
    known = [khz for khz in state["clocks_khz"].values() if khz]
    if known:
        lines.append(f"now at {min(known) / 1e6:.2f} to {max(known) / 1e6:.2f} GHz")
    steal = _steal(state)
    if steal is not None:
        lines.append(f"stolen by the host since start: {steal:.1%} of the time; load {state['load']:.1f}")
    return lines


def _steal(state: Facts) -> float | None:
    ticks = state["ticks"]
    return ticks[_STEAL] / sum(ticks) if ticks and len(ticks) > _STEAL and sum(ticks) else None


def _memory(facts: Facts, device: Facts) -> list[str]:
    text = f"{_gigabytes(device['memory_bytes'])} of memory"
    if facts["memory_limit_bytes"] is not None:
        text += f", limited by its control group to {_gigabytes(facts['memory_limit_bytes'])}"
    lines = [text, f"{_gigabytes(facts['disk_free_bytes'])} free on this disk"]
    if device["cache_bytes"]:
        lines.append(f"last-level cache {device['cache_bytes'] / (1 << 20):.0f} MiB")
    return lines


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _package_lines(packages: Mapping[str, Mapping[str, str | None]]) -> list[str]:
    lines = []
    for extra, found in packages.items():
        missing = [name for name, have in found.items() if have is None]
        told = ", ".join(f"{name} {have}" for name, have in found.items() if have is not None)
        lines.append(f"{extra or 'base'}: {told or 'nothing installed'}")
        if missing:
            where = f"edgekd[{extra}]" if extra else "edgekd"
            lines.append(f"  missing: {', '.join(missing)} (pip install '{where}')")
    return lines


def _backends(facts: Facts) -> Iterator[str]:
    for entry in BACKENDS:
        runtime = facts["runtimes"].get(entry.name)
        absent = facts["absent_runtimes"].get(entry.name, "the agent does not answer")
        runs = f"runs here, {runtime['told']}" if runtime else f"does not run here: {absent}"
        problem = facts["exporters"].get(entry.name)
        yield f"{entry.name}: {entry.summary}"
        yield f"  {runs}"
        yield f"  {f'does not export here: {problem}' if problem else 'exports here'}"
    providers = facts["runtimes"].get("onnx", {}).get("providers")
    yield f"ONNX Runtime's providers: {providers or 'does not start here'}"


def _target_lines(facts: Facts) -> list[str]:
    lines = [f"{DEVICES_FILE} cannot be used: {facts['targets_error']}"] if facts["targets_error"] else []
    for name, settings in facts["targets"].items():
        told = {k: v for k, v in settings.items() if v not in (None, {}, []) and k not in ("name", "kind")}
        shown = ", ".join(f"{key} {value}" for key, value in told.items())
        lines.append(f"{name}: {settings['kind']}" + (f" ({shown})" if shown else ""))
    if facts["local_error"]:
        lines.append(f"local does not answer: {facts['local_error']}")
    return lines


def _impossible(facts: Facts, device: Facts) -> Iterator[str]:
    """What a measurement on `local` will lack, and why."""
    state = facts["state"]
    if not device["energy_rails"]:
        yield "energy: no power rail can be read (neither RAPL nor INA3221)"
    if not state["temperatures_mc"] and state["throttle_count"] is None:
        yield "throttling: no temperature sensor and no throttle counter is visible"
    if not state["clocks_khz"]:
        yield "clock changes under load: the kernel shows no core frequency"
    if device["hypervisor"]:
        yield from _on_virtual_machine(_steal(state))
    if device["emulated"]:
        yield f"any time: emulated ({device['emulated']}); accuracy and size are valid"
    if not facts["gpus"]:
        yield "times on a GPU: none found"
    if len(device["cores_allowed"] or [0]) < 2:
        yield "times beside other work: a single core is shared with everything else"


def _on_virtual_machine(steal: float | None) -> Iterator[str]:
    text = "absolute latency as on bare metal: a virtual machine shares its cores"
    if steal is not None and steal > _MOST_STEAL:
        text += f", {steal:.1%} of whose time the host took so far (more than {_MOST_STEAL:.0%} is invalid)"
    yield text + "; paired speed-ups stay valid"
