"""Reads the documentation as its tests see it: files, fenced blocks, code spans, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [
        *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "pipelines/README.md")),
        *(REPOSITORY / "docs").rglob("*.md"),
    ]
)

_FENCE = re.compile(r"^```(\w*)[ \t]*([^\n]*)\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block: ```` ```language key=value ````."""

    document: str
    language: str
    info: str
    text: str

    def value(self, key: str) -> str | None:
        """What `key=` is followed by."""
        found = re.search(rf"\b{key}=(\S+)", self.info)
        return found[1] if found else None


def name_of(document: Path) -> str:
    return document.relative_to(REPOSITORY).as_posix()


def text_of(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def blocks(document: Path) -> list[Block]:
    return [Block(name_of(document), *found.groups()) for found in _FENCE.finditer(text_of(document))]


def all_blocks() -> list[Block]:
    return [block for document in DOCUMENTS for block in blocks(document)]


def prose(document: Path) -> str:
    """The text without its fenced blocks."""
    return _FENCE.sub("", text_of(document))


def paragraphs(document: Path) -> Iterator[str]:
    """Table rows one by one, other text by paragraph: what belongs together stands in one of them."""
    for part in re.split(r"\n\s*\n", prose(document)):
        lines = part.splitlines()
        rows = [line for line in lines if line.startswith("|")]
        yield from rows
        rest = " ".join(line for line in lines if not line.startswith("|")).strip()
        if rest:
            yield rest


def spans(text: str) -> list[str]:
    return _SPAN.findall(text)


def links(document: Path) -> list[str]:
    """Relative links, without their anchors."""
    found = [link.partition("#")[0] for link in _LINK.findall(prose(document))]
    return [link for link in found if link and "://" not in link]
