"""Asks the converter's Python for one conversion, by files in a folder and JSON, within a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgekd.backends.litert import environment
from edgekd.core.errors import EdgekdError, ModelError

CONVERTER = Path(__file__).with_name("converter.py")
TIME_LIMIT_S = 1800.0
_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "JAX_PLATFORMS": "cpu",
    "PYTHONNOUSERSITE": "1",
}


def convert(
    request: dict[str, Any],
    folder: Path,
    *,
    time_limit_s: float = TIME_LIMIT_S,
    suspects: Callable[[], list[str]] = list,
) -> dict[str, Any]:
    """The converter's answer to `request` (see converter.py), which it works on in `folder`.

    `suspects`: operators, with their modules, that may be the reason of a refusal which names no module.
    Raises `MissingEnvironmentError` without its Python, `ModelError` when it cannot convert, when it ends
    without an answer, and when its time is over. However this ends, no process of it is left.
    """
    interpreter = environment.python()
    surroundings = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    with (folder / "noise.txt").open("w+b") as noise:
        with subprocess.Popen(
            [str(interpreter), str(CONVERTER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=noise,
            cwd=folder,
            env={**surroundings, **_QUIET, "TMPDIR": str(folder)},
            start_new_session=True,
        ) as process:
            try:
                said, _ = process.communicate(json.dumps(request).encode(), time_limit_s)
            except subprocess.TimeoutExpired:
                raise _failure(
                    f"LiteRT's converter took longer than {time_limit_s:g} seconds",
                    "use a smaller network, or another backend",
                ) from None
            finally:
                _end(process)
        noise.seek(0)
        return _answer(said, process.returncode, noise.read().decode("utf-8", "replace"), suspects)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill it with everything that it started; nothing happens when it is gone."""
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)


def _answer(said: bytes, code: int, noise: str, suspects: Callable[[], list[str]]) -> dict[str, Any]:
    lines = said.decode("utf-8", "replace").splitlines()
    try:
        answer = json.loads(lines[-1]) if len(lines) == 1 else None
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise _failure(f"LiteRT's converter {_ending(code)}: {_last(noise)}", "see whether memory is short")
    if not answer.get("ok"):
        raise _refusal(answer, suspects)
    return answer


def _ending(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with {code} and without an answer"


def _last(noise: str) -> str:
    lines = [line.strip() for line in noise.splitlines() if line.strip()]
    return " ".join(lines[-2:])[:300] or "it said nothing"


def _refusal(answer: dict[str, Any], suspects: Callable[[], list[str]]) -> EdgekdError:
    if answer.get("missing"):
        return environment.MissingEnvironmentError(
            f"the converter's Python cannot import `{answer['missing']}`"
        )
    operator, module = answer.get("operator"), answer.get("module")
    where = f" in {module}" if module else ""
    found = [] if module else suspects()
    if found:
        return _failure(
            f"LiteRT's converter does not take {'; '.join(found)}: {answer.get('message')}",
            "replace that operation, keep it out of the network, or use the onnx backend",
        )
    if operator:
        return _failure(
            f"LiteRT's converter does not know `{operator}`{where}",
            "replace that operation, keep it out of the network, or use the onnx backend",
        )
    return _failure(f"LiteRT's converter refuses the network{where}: {answer.get('message')}", None)


def _failure(what: str, fix: str | None) -> ModelError:
    return ModelError(what, fix=fix or "replace that operation, or use the onnx backend for this network")
