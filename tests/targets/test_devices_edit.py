"""The devices file is people's: what they wrote in it stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.core.errors import UsageError
from edgekd.targets.devices_edit import remove_entry, write_entry
from edgekd.targets.devices_file import read_targets

FILE = """# Our boards.
local: {kind: local, threads: 2}   # the laptop

# In the lab, second shelf.
big:
  kind: local      # for now
  # Only the fast ones.
  cores: [4, 5]
  expect: {cpu: EPYC}  # not the old one

# The last one.
small:
  threads: 1
  kind: local
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "edgekd-devices.yaml"
    path.write_text(FILE)
    return path


def test_the_first_entry_makes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "edgekd-devices.yaml"
    write_entry(path, "pi", {"kind": "local", "threads": 3})
    assert read_targets(path)["pi"].threads == 3
    assert path.read_text().startswith("# ")


def test_a_new_entry_comes_last_and_nothing_else_changes(path: Path) -> None:
    write_entry(path, "pi", {"kind": "local", "cores": [1, 2]})
    assert path.read_text() == FILE + "\npi:\n  kind: local\n  cores: [1, 2]\n"


@pytest.mark.parametrize(
    ("name", "fields", "old", "new"),
    [
        ("local", {"threads": 4}, "threads: 2}", "threads: 4}"),
        ("local", {"cores": [1]}, "{kind: local", "{cores: [1], kind: local"),
        ("big", {"cores": [6]}, "cores: [4, 5]", "cores: [6]"),
        ("big", {"threads": 8}, "big:\n  kind", "big:\n  threads: 8\n  kind"),
        ("big", {"kind": "local"}, "", ""),
        ("small", {"threads": 2, "cores": [0]}, "  threads: 1", "  cores: [0]\n  threads: 2"),
    ],
)
def test_a_field_changes_where_it_stands(
    path: Path, name: str, fields: dict[str, object], old: str, new: str
) -> None:
    write_entry(path, name, fields)
    assert path.read_text() == FILE.replace(old, new)


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("local", "local: {kind: local, threads: 2}   # the laptop\n"),
        ("small", "small:\n  threads: 1\n  kind: local\n"),
    ],
)
def test_an_entry_goes_and_comments_stay(path: Path, name: str, gone: str) -> None:
    assert remove_entry(path, name)
    assert path.read_text() == FILE.replace(gone, "")
    assert not remove_entry(path, name)


def test_the_comments_within_an_entry_go_with_it(path: Path) -> None:
    assert remove_entry(path, "big")
    assert "Only the fast ones" not in path.read_text()
    assert "# The last one." in path.read_text()
    assert set(read_targets(path)) == {"local", "small"}


def test_the_last_entry_may_go(tmp_path: Path) -> None:
    path = tmp_path / "edgekd-devices.yaml"
    write_entry(path, "pi", {"kind": "local"})
    assert remove_entry(path, "pi")
    assert set(read_targets(path)) == {"local"}
    assert not remove_entry(tmp_path / "absent.yaml", "pi")


def test_values_that_need_quotes_get_them(path: Path) -> None:
    write_entry(path, "local", {"expect": {"cpu": "a, b: {c}"}})
    assert read_targets(path)["local"].expect == {"cpu": "a, b: {c}"}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("{a: {kind: local}}\n", "b"),
        ("a: 3\n", "a"),
        ("x: &x {kind: local, threads: 1}\na: *x\n", "a"),
        ("a: {kind: local}\na: {kind: local}\n", "a"),
        ("a:\n  kind: local\n  cores:\n    - 1\n", "a"),
    ],
)
def test_what_cannot_be_changed_safely_is_left_alone(tmp_path: Path, text: str, name: str) -> None:
    path = tmp_path / "edgekd-devices.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match="by hand"):
        write_entry(path, name, {"kind": "local", "cores": [1], "threads": 2})
    assert path.read_text() == text


def test_an_entry_on_a_line_with_others_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "edgekd-devices.yaml"
    path.write_text("{a: {kind: local}, b: {kind: local}}\n")
    with pytest.raises(UsageError, match="by hand"):
        remove_entry(path, "a")


def test_fields_that_make_no_target_are_not_written(path: Path) -> None:
    with pytest.raises(UsageError, match="treads"):
        write_entry(path, "local", {"treads": 2})
    assert path.read_text() == FILE


def test_a_file_that_is_no_yaml_is_left_alone(path: Path) -> None:
    path.write_text("a: {")
    with pytest.raises(UsageError, match="cannot read the targets"):
        write_entry(path, "a", {"kind": "local"})
    with pytest.raises(UsageError, match="cannot read the targets"):
        remove_entry(path, "a")
