"""Runs one of the scripts of `edgekd.targets.on_device` through a session and reads its answer."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd.core.errors import TargetError
from edgekd.targets.target import Finished, Session

OLDEST = (3, 8)
_TAIL_CHARACTERS = 1500
_MODULES = ("edgekd.targets.traces",)
# Reads everything from its standard input; whatever native code prints goes to standard error.
_LOADER = f"""
import json, os, sys, types
output = os.dup(1)
os.dup2(2, 1)
def answer(**fields):
    os.write(output, (json.dumps(dict(fields, edgekd=1)) + chr(10)).encode())
    sys.exit(0)
if sys.version_info < {OLDEST}:
    answer(too_old=".".join(map(str, sys.version_info[:3])))
sent = json.loads(sys.stdin.read())
for name in ("edgekd", "edgekd.targets", "edgekd.targets.on_device"):
    sys.modules[name] = types.ModuleType(name)
for name, source in sent["modules"]:
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
answer(answer=module.main(sent["request"]))
"""


def ask(
    session: Session,
    script: str,
    request: Mapping[str, Any],
    *,
    where: str,
    timeout_s: float,
    python: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The answer of `on_device/SCRIPT.py` to `request`, run by `python` (the session's by default).

    Raises `TargetError` when that Python is absent, too old, or ends without an answer.
    """
    names = (*_MODULES, f"edgekd.targets.on_device.{script}")
    sent = {"modules": [(name, _source(name)) for name in names], "request": dict(request)}
    finished = session.run(
        [*(python or session.python), "-c", _LOADER],
        stdin=json.dumps(sent).encode(),
        timeout_s=timeout_s,
        env={"ORT_DISABLE_TELEMETRY": "1"},
    )
    return _answer(finished, script, where)


def _answer(finished: Finished, script: str, where: str) -> dict[str, Any]:
    found = [value for line in finished.stdout.splitlines() if (value := _object(line)) is not None]
    if len(found) != 1 or finished.code != 0:
        raise TargetError(f"`{script}` gave no answer there, {ending(finished)}", where=where)
    if "too_old" in found[0]:
        oldest = ".".join(map(str, OLDEST))
        raise TargetError(
            f"its Python is {found[0]['too_old']}; {oldest} or newer is needed",
            where=where,
            fix="install a newer one there and name it in the devices file (`python`)",
        )
    answer: dict[str, Any] = found[0]["answer"]
    return answer


def _object(line: bytes) -> dict[str, Any] | None:
    """The answer's line, among whatever a login shell printed beside it."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and value.get("edgekd") == 1 else None


def _source(name: str) -> str:
    return Path(importlib.import_module(name).__file__ or "").read_text(encoding="utf-8")


def ending(finished: Finished) -> str:
    """How a command ended and what it said last."""
    how = f"killed by signal {-finished.code}" if finished.code < 0 else f"exit code {finished.code}"
    tail = finished.stderr.decode(errors="replace").strip()[-_TAIL_CHARACTERS:]
    return f"{how}; its last words: {tail or '(none)'}"
