"""A scripted `adb` for unhappy paths: records how it is called, answers as told, else runs things here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

SERIAL = "R58-SECRET"

# `$@` begins with the verb. A device that works: its shell is ours, its files are ours.
_WORKS = {
    "start-server": ":",
    "kill-server": ":",
    "connect": 'echo "connected to $2"',
    "disconnect": ":",
    "get-state": "echo device",
    "get-serialno": "echo R58-SECRET",
    "features": "echo shell_v2; echo cmd",
    "shell": 'shift 2; sh -c "$*"; exit $?',
    "push": 'cp -- "$2" "$3"',
    "pull": 'cp -- "$2" "$3"',
}


class ScriptedAdb:
    """First on PATH as long as the test runs; `calls` are its argument lists so far."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._log, self._program = folder / "calls", folder / "bin" / "adb"
        self._program.parent.mkdir()
        self._path = str(self._program.parent)
        monkeypatch.setenv("PATH", self._path, prepend=":")
        self.answer({})

    def answer(self, answers: Mapping[str, str]) -> None:
        """Shell text instead of what works, by verb."""
        cases = "".join(f"{verb})\n{text}\n;;\n" for verb, text in {**_WORKS, **answers}.items())
        self._program.write_text(
            "#!/bin/sh\n"
            f"printf '%s %s\\n' \"port=$ANDROID_ADB_SERVER_PORT\" \"$*\" | head -n 1 >> '{self._log}'\n"
            'if [ "$1" = -s ]; then shift 2; fi\n'
            f'case "$1" in\n{cases}*) echo "adb: unknown command $1" >&2; exit 1;;\nesac\n'
        )
        self._program.chmod(0o755)

    def calls(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []

    def verbs(self) -> list[str]:
        words = [call.split()[1:] for call in self.calls()]
        return [word[2] if word[0] == "-s" else word[0] for word in words]
