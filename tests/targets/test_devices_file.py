"""Named targets: `local` always, others from a file that explains what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from edgekd.core.errors import UsageError
from edgekd.targets.catalogue import TARGET_KINDS
from edgekd.targets.devices_file import read_targets, select_targets
from edgekd.targets.local import LocalTarget


def write(folder: Path, text: str) -> Path:
    path = folder / "edgekd-devices.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", [None, "", "# nothing yet\n"])
def test_local_is_there_without_being_listed(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "absent.yaml" if text is None else write(tmp_path, text)
    assert read_targets(path) == {"local": LocalTarget(name="local")}
    assert read_targets(None) == {"local": LocalTarget(name="local")}


def test_a_file_names_targets_and_may_set_local_up(tmp_path: Path) -> None:
    path = write(
        tmp_path, "local: {kind: local, threads: 2}\nbig: {kind: local, cores: [1], expect: {cpu: EPYC}}\n"
    )
    targets = read_targets(path)
    assert targets["local"].threads == 2
    assert targets["big"].cores == (1,)
    assert targets["big"].facts()["expect"] == {"cpu": "EPYC"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pi5: {kind: lokal}", r"pi5\.kind: `lokal` is not a kind of target; close names: local"),
        ("pi5: {host: pi}", "needs a `kind`"),
        ("pi5: 3", "needs a `kind`"),
        ("pi5: {kind: local, treads: 2}", "treads"),
        ("pi5: {kind: local, threads: 0}", "at least 1"),
        ("../x: {kind: local}", "it names a folder"),
        ("[a, b]", "must map names to targets"),
        ("a: {kind: local", "cannot read the targets"),
        ("a: !!python/object/apply:os.system [id]", "cannot read the targets"),
    ],
)
def test_a_bad_file_says_where_and_what(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError, match=message) as raised:
        read_targets(path)
    assert str(path) in str(raised.value)


def test_an_unknown_target_lists_the_choices() -> None:
    with pytest.raises(UsageError, match=r"`locla` is not a target; close names: local(.|\n)*choices: local"):
        select_targets(["locla"], read_targets(None))


def test_targets_are_selected_in_the_asked_order(tmp_path: Path) -> None:
    targets = read_targets(write(tmp_path, "b: {kind: local}\na: {kind: local}"))
    assert [target.name for target in select_targets(["b", "local", "a"], targets)] == ["b", "local", "a"]


def test_every_kind_of_target_loads() -> None:
    for kind in TARGET_KINDS:
        assert TARGET_KINDS.load(kind.name).model_fields["kind"].default == kind.name


def test_a_target_cannot_change_under_a_measurement() -> None:
    with pytest.raises(ValidationError):
        LocalTarget(name="local").threads = 4  # type: ignore[misc]
