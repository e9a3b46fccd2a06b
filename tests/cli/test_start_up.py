"""What typing `edgekd` costs: only light modules are imported, and every command explains itself."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from edgekd.core.errors import EdgekdError
from tests.cli.running import environment

HEAVY = ("torch", "torchvision", "onnx", "onnxruntime", "plotly", "optuna", "sklearn")
"""NumPy is not among them: recipes need it. Nothing but `--help` is promised to do without it."""

COMMANDS = (
    *("init", "validate", "plan", "run", "ablate", "measure", "report", "gate", "show", "bundle", "verify"),
    *("audit", "bench", "export", "history", "setup"),
    *("predict", "list", "schema", "doctor", "store", "store size", "store gc", "store export"),
    "store import",
    *("device", "device add", "device list", "device show", "device doctor", "device setup"),
    *("device prepare", "device restore", "device clean", "device remove"),
    *("kit", "kit write", "kit read"),
)

_HELP_OF_ALL = """
import contextlib, io, json, sys
from edgekd.cli.main import app
import typer
command = typer.main.get_command(app)
told = {}
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        command.main(args=[*words.split(), "--help"], prog_name="edgekd", standalone_mode=False)
    told[words] = out.getvalue()
loaded = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
print(json.dumps({"told": told, "loaded": loaded, "commands": sorted(command.commands)}))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, str] | list[str]]:
    """The help of every command, printed in one process, and what that process imported."""
    arguments = [json.dumps(["", *COMMANDS]), json.dumps(HEAVY)]
    done = subprocess.run(
        [sys.executable, "-c", _HELP_OF_ALL, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, dict[str, str] | list[str]] = json.loads(done.stdout)
    return result


def test_no_help_imports_anything_heavy(found: dict[str, list[str]]) -> None:
    assert found["loaded"] == []


def test_every_command_is_checked_here(found: dict[str, list[str]]) -> None:
    assert found["commands"] == sorted({words.split()[0] for words in COMMANDS})


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_says_what_it_does(found: dict[str, dict[str, str]], words: str) -> None:
    text = found["told"][words]
    assert f"Usage: edgekd {words}" in text
    body = [line for line in text.splitlines() if line.strip() and "Usage:" not in line]
    assert len(body[0].split()) >= 3, f"`edgekd {words} --help` does not start with a sentence"


def test_the_overview_explains_every_exit_code(found: dict[str, dict[str, str]]) -> None:
    text = found["told"][""]
    codes = {error.exit_code for error in _all_errors()} | {0, 1, 3, 130, 143}
    assert [code for code in sorted(codes) if str(code) not in text] == []


def _all_errors(kind: type[EdgekdError] = EdgekdError) -> list[type[EdgekdError]]:
    return [kind, *(error for sub in kind.__subclasses__() for error in _all_errors(sub))]
