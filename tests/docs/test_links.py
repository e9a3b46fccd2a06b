"""Every relative link leads somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.reading import DOCUMENTS, REPOSITORY, links, name_of, text_of

PICTURE = REPOSITORY / "docs" / "images" / "report.png"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_relative_links_resolve(document: Path) -> None:
    targets = {link: (document.parent / link).resolve() for link in links(document)}
    missing = [link for link, path in targets.items() if not path.exists() and path != PICTURE]
    assert not missing, f"{name_of(document)} links to what is not there: {missing}"


def test_the_picture_of_the_report_is_there() -> None:
    if not PICTURE.is_file():
        pytest.skip(f"{name_of(PICTURE)} is taken from the run on EuroSAT, which has not been done yet")
    assert PICTURE.read_bytes().startswith(b"\x89PNG")


def test_every_decision_is_in_the_index() -> None:
    folder = REPOSITORY / "docs" / "decisions"
    notes = {path.name for path in folder.glob("[0-9]*.md")}
    assert set(links(folder / "README.md")) == notes


@pytest.mark.parametrize("note", sorted((REPOSITORY / "docs" / "decisions").glob("[0-9]*.md")), ids=name_of)
def test_a_decision_says_context_choice_and_price(note: Path) -> None:
    text = text_of(note)
    assert text.startswith(f"# {note.name[:4]} ")
    assert all(f"**{part}" in text for part in ("Context", "Choice", "Given up"))
