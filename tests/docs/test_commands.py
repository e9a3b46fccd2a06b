"""Every command line in the documentation has commands, arguments and options that exist."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import typer

from edgekd.cli.main import app
from tests.docs.reading import DOCUMENTS, blocks, name_of, prose, spans


def _commands() -> list[tuple[str, str]]:
    """(document, command line) of every `edgekd ...` in a code span or a shell block."""
    found = []
    for document in DOCUMENTS:
        lines = spans(prose(document))
        for block in blocks(document):
            if block.language in ("sh", "console"):
                lines += block.text.splitlines()
        found += [(name_of(document), line) for line in lines if line.startswith("edgekd ")]
    return found


COMMANDS = _commands()


def _parse(line: str) -> None:
    """Parse as the command line does, without running; raises click's error for what it would refuse."""
    words = shlex.split(line, comments=True)[1:]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, f"no such command; there are {list(command.commands)}"
        command, words = command.commands[words[0]], words[1:]
    if words:
        command.make_context(command.name, list(words))


@pytest.mark.parametrize(("document", "line"), COMMANDS)
def test_a_command_line_in_the_documentation_exists(document: str, line: str) -> None:
    _parse(line)


def test_a_wrong_option_would_be_noticed() -> None:
    with pytest.raises(Exception, match="--wyh"):
        _parse("edgekd plan quickstart --wyh")


def test_the_readme_names_the_main_commands() -> None:
    names = {line.split()[1] for document, line in COMMANDS if document == "README.md"}
    assert {"init", "plan", "run", "bundle"} <= names
