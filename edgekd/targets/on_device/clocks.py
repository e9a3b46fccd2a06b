"""Runs on the device: saves what decides its speed, sets it to the fastest, and puts it back.

Sent by `edgekd.targets.asking`; imports only the standard library and `edgekd.targets.traces`, Python 3.8.
The request: `do` ("prepare" or "restore"), `root` (in front of `sys` and `etc`; "/" but in tests),
`power_mode` (a name or number of nvpmodel, or null: stays). The answer: `changes` (`[what, before, after]`),
`problems`, `notes`, `denied` (commands that sudo refused to run without a password).

The state is written before anything is changed and removed when everything is back, so an interrupted
`prepare` can be restored, and a second `prepare` keeps what the first one found.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from edgekd.targets.traces import cache_home

STATE, CLOCKS = "prepared.json", "jetson_clocks.conf"
VERSION = 1
GOVERNOR, LOWEST, HIGHEST = "scaling_governor", "scaling_min_freq", "scaling_max_freq"
TOOL_S = 60
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
_MODE = re.compile(r"^NV Power Mode: (\S.*)\n(\d+)[ \t]*$", re.MULTILINE)
_MODE_ENTRY = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>")


class Report:
    """What was changed, what could not be and how the user can do it, and what is worth knowing."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str, str]] = []
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.denied: list[str] = []


def main(request: dict[str, Any]) -> dict[str, Any]:
    report, folder = Report(), Path(cache_home())
    try:
        {"prepare": prepare, "restore": restore}[request["do"]](request, folder, report)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        report.problems.append(f"{folder / STATE}: {type(error).__name__}: {error}")
    return vars(report)


def prepare(request: dict[str, Any], folder: Path, report: Report) -> None:
    root, path, wanted = Path(request["root"]), folder / STATE, request["power_mode"]
    number = None if wanted is None else chosen_mode(wanted, root)
    state = saved(path, root)
    if state is None:
        state = first_state(root, report)
    else:
        report.notes.append(f"was prepared at {state['saved_at']}; what was set before that stays saved")
    state["jetson_clocks"] = state["jetson_clocks"] or store_clocks(folder / CLOCKS, report)
    if not (state["files"] or state["power_mode"] or state["jetson_clocks"]):
        report.notes.append("nothing to prepare: no cpufreq there, the clock is not its system's to set")
        return
    save(path, state)
    if number is not None:
        set_mode(number, report)
        save(path, {**state, "files": {**cpu_settings(root), **state["files"]}})  # a mode may wake cores
    elif state["power_mode"]:
        report.notes.append(f"the power mode stays {' '.join(power_mode(report) or ())}")
    fasten(root, report)
    if state["jetson_clocks"] and run_jetson_clocks([], report):
        report.changes.append(("jetson_clocks", "as stored", "highest"))


def restore(request: dict[str, Any], folder: Path, report: Report) -> None:
    """The mode first, since the clocks were stored in it; then the clocks; then each file."""
    state = saved(folder / STATE, Path(request["root"]))
    if state is None:
        report.notes.append("nothing to restore: it is not prepared")
        return
    if state["power_mode"]:
        set_mode(state["power_mode"][0], report)
    if state["jetson_clocks"] and run_jetson_clocks(["--restore", state["jetson_clocks"]], report):
        report.changes.append(("jetson_clocks", "highest", "as stored"))
    for file, value in state["files"].items():
        change(Path(file), value, report)
    if not report.problems:
        for done in (folder / CLOCKS, folder / STATE):  # in this order: an interruption leaves the state
            if os.path.lexists(done):
                done.unlink()


# --- the saved state ----------------------------------------------------------------------------------------


def first_state(root: Path, report: Report) -> dict[str, Any]:
    """What is set now, before anything is changed."""
    return {
        "version": VERSION,
        "saved_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "files": cpu_settings(root),
        "power_mode": power_mode(report),
        "jetson_clocks": None,
    }


def save(path: Path, state: dict[str, Any]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def saved(path: Path, root: Path) -> dict[str, Any] | None:
    """What `prepare` found; None without one. Raises `ValueError` for a file that is not ours."""
    if not os.path.lexists(path):
        return None
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if state["version"] != VERSION or not {"saved_at", "power_mode", "jetson_clocks"} <= set(state):
        raise ValueError("not a state of this version")
    for file, value in state["files"].items():
        known = (
            Path(file).name in (GOVERNOR, LOWEST) and (root / "sys").resolve() in Path(file).resolve().parents
        )
        if not known or not isinstance(value, str):
            raise ValueError(f"it names {file}")
    return state


# --- commands and files, as root where needed ---------------------------------------------------------------


def tool(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SYSTEM_PATH}")


def call(argv: list[str], text: str = "") -> tuple[int, str]:
    """Exit code and both outputs; 127 when it cannot be started, 124 when it takes too long."""
    try:
        done = subprocess.run(
            argv,
            input=text.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C"},
            timeout=TOOL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, f"no answer within {TOOL_S} s"
    except OSError as error:
        return 127, str(error)
    return done.returncode, done.stdout.decode(errors="replace").strip()


def as_root(argv: list[str], report: Report, text: str = "") -> tuple[int, str]:
    """As root already, or by `sudo -n`, which never asks for a password."""
    if os.geteuid() == 0:
        return call(argv, text)
    sudo = tool("sudo")
    code, said = call([sudo, "-n", *argv], text) if sudo else (127, "sudo: there is none")
    if code != 0 and last_line(said).startswith("sudo:"):
        report.denied.append(allowance(argv))
    return code, said


def allowance(argv: list[str]) -> str:
    """A command as sudoers has it: without arguments it would allow any, so `""` says none."""
    return " ".join(argv) if len(argv) > 1 else f'{argv[0]} ""'


def read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None


def write(path: Path, value: str, report: Report) -> str:
    """Write a setting and read it back; "" or what is wrong, with the line that needs a right."""
    try:
        with path.open("w", encoding="utf-8") as stream:
            stream.write(value)
        code, said = 0, ""
    except PermissionError:
        code, said = as_root([tool("tee") or "tee", str(path)], report, value)
    except OSError as error:
        code, said = 1, error.strerror or str(error)
    if code != 0:
        return f"`echo {value} | sudo tee {path}` failed: {last_line(said)}"
    return "" if read(path) == value else f"{path} stays {read(path)} instead of {value}"


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "(no message)"


# --- cpufreq ------------------------------------------------------------------------------------------------


def policies(root: Path) -> list[Path]:
    """Folders of clock domains, each once: `cpu*/cpufreq` are links to `cpufreq/policy*`."""
    below = root / "sys/devices/system/cpu"
    found = [*below.glob("cpufreq/policy*"), *below.glob("cpu[0-9]*/cpufreq")]
    return sorted({folder.resolve() for folder in found})


def cpu_settings(root: Path) -> dict[str, str]:
    """The files that `prepare` writes, with what is in them."""
    files = [folder / name for folder in policies(root) for name in (LOWEST, GOVERNOR)]
    return {str(file): value for file in files for value in [read(file)] if value is not None}


def fasten(root: Path, report: Report) -> None:
    """Governor `performance`, and no clock below the highest allowed."""
    for folder in policies(root):
        available = read(folder / "scaling_available_governors")
        if available is not None and "performance" not in available.split():
            report.problems.append(f"{folder}: no governor `performance`, only: {available}")
        else:
            change(folder / GOVERNOR, "performance", report)
        highest = read(folder / HIGHEST)
        if highest is not None:
            change(folder / LOWEST, highest, report)


def change(path: Path, value: str, report: Report) -> None:
    before = read(path)
    if before is None or before == value:
        return
    wrong = write(path, value, report)
    if wrong:
        report.problems.append(wrong)
    else:
        report.changes.append((str(path), before, value))


# --- Jetson: power mode and clocks --------------------------------------------------------------------------


def power_mode(report: Report) -> tuple[str, str] | None:
    """(number, name) that nvpmodel reports; raises `ValueError` when it cannot be understood."""
    program = tool("nvpmodel")
    if program is None:
        return None
    code, said = call([program, "-q"])
    if code != 0 or len(_MODE.findall(said)) != 1:
        code, said = as_root([program, "-q"], report)
    found = _MODE.findall(said)
    if code != 0 or len(found) != 1:
        raise ValueError(f"`sudo nvpmodel -q` gives no power mode: {last_line(said)}")
    return found[0][1], found[0][0].strip()


def chosen_mode(wanted: str, root: Path) -> str:
    """The number of the mode that the user named; raises `ValueError` with the choices."""
    if tool("nvpmodel") is None:
        raise ValueError("a power mode was asked for, but there is no nvpmodel there")
    known = dict(_MODE_ENTRY.findall(read(root / "etc/nvpmodel.conf") or ""))
    for number, name in known.items():
        if wanted in (number, name):
            return str(number)
    choices = ", ".join(f"{name} ({number})" for number, name in known.items())
    raise ValueError(f"`{wanted}` is not a power mode; choices: {choices or '(/etc/nvpmodel.conf has none)'}")


def set_mode(number: str, report: Report) -> None:
    """Set the power mode unless it is set; a mode that needs a reboot is refused, never booted into."""
    before = power_mode(report)
    if before is None or before[0] == number:
        return
    code, said = as_root([tool("nvpmodel") or "nvpmodel", "-m", number], report, "no\n")
    after = power_mode(report)
    if after is not None and after[0] == number:
        report.changes.append(("power mode", " ".join(before), " ".join(after)))
    elif "reboot" in said.lower():
        report.problems.append(f"`sudo nvpmodel -m {number}` needs a reboot; the mode stays {before[1]}")
    else:
        report.problems.append(f"`sudo nvpmodel -m {number}` failed (exit code {code}): {last_line(said)}")


def store_clocks(path: Path, report: Report) -> str | None:
    """jetson_clocks' own record of the present clocks; without one they are not changed."""
    if os.path.lexists(path):
        path.unlink()  # jetson_clocks would ask whether to overwrite it
    before = len(report.denied)
    if run_jetson_clocks(["--store", str(path)], report) and path.exists():
        return str(path)
    if len(report.denied) > before:  # then so would be the two that come after it
        program = tool("jetson_clocks") or "jetson_clocks"
        report.denied += [allowance([program]), allowance([program, "--restore", str(path)])]
    return None


def run_jetson_clocks(arguments: list[str], report: Report) -> bool:
    program = tool("jetson_clocks")
    if program is None:
        return False
    code, said = as_root([program, *arguments], report, "n\n")
    if code != 0:
        line = " ".join(["sudo", "jetson_clocks", *arguments])
        report.problems.append(f"`{line}` failed (exit code {code}): {last_line(said)}")
    return code == 0
