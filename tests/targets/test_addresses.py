"""Addresses come from the environment or a private file, and do not get out."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.core.errors import TargetError, UsageError
from edgekd.targets import addresses
from edgekd.targets.addresses import SshAddress, find_address, parse_ssh, source_of


@pytest.fixture(autouse=True)
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "edgekd" / "addresses.yaml"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ssh://pi@pi5.lan:2222", SshAddress("pi5.lan", "pi", 2222)),
        ("ssh://Pi5", SshAddress("Pi5")),
        ("ssh://pi@192.0.2.7/", SshAddress("192.0.2.7", "pi")),
        ("ssh://pi@[fe80::1%eth0]:22", SshAddress("fe80::1%eth0", "pi", 22)),
        ("ssh://pi@[::1]", SshAddress("::1", "pi")),
    ],
)
def test_an_address_has_host_user_and_port(text: str, address: SshAddress) -> None:
    assert parse_ssh(text, where="pi5") == address


@pytest.mark.parametrize(
    "text",
    [
        "pi@secret.lan",
        "ssh://",
        "ssh://secret.lan:port",
        "ssh://secret.lan:0",
        "ssh://secret.lan/folder",
        "ssh://pi:password@secret.lan",
        "ssh://-oProxyCommand=secret.lan",
        "ssh://-l@secret.lan",
        "ssh://a b@secret.lan",
        "http://secret.lan",
    ],
)
def test_a_bad_address_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(UsageError, match="ssh://user@host:port") as raised:
        parse_ssh(text, where="pi5")
    assert "secret" not in str(raised.value)


def test_printing_an_address_hides_it() -> None:
    assert "secret" not in repr(parse_ssh("ssh://secretuser@secret.lan", where="pi5"))


def test_what_was_remembered_is_found_and_only_the_owner_may_read_it(private: Path) -> None:
    addresses.remember("pi5", "ssh://pi@pi5.lan")
    addresses.remember("nano", "ssh://n@nano")
    assert find_address("pi5") == "ssh://pi@pi5.lan"
    assert source_of("pi5") == str(private)
    assert private.stat().st_mode & 0o777 == 0o600
    assert addresses.forget("pi5")
    assert not addresses.forget("pi5")
    assert source_of("pi5") is None
    assert find_address("nano") == "ssh://n@nano"


def test_the_environment_goes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses.remember("my-pi.5", "ssh://pi@file")
    monkeypatch.setenv("EDGEKD_DEVICE_MY_PI_5", "ssh://pi@environment")
    assert find_address("my-pi.5") == "ssh://pi@environment"
    assert source_of("my-pi.5") == "EDGEKD_DEVICE_MY_PI_5"


def test_an_unknown_address_says_how_to_give_one() -> None:
    with pytest.raises(TargetError, match=r"edgekd device add pi5(.|\n)*EDGEKD_DEVICE_PI5"):
        find_address("pi5")


def test_a_key_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert addresses.find_key("pi5") is None
    monkeypatch.setenv("EDGEKD_DEVICE_PI5_KEY", "~/.ssh/pi")
    assert addresses.find_key("pi5") == Path("~/.ssh/pi").expanduser()


@pytest.mark.parametrize(
    "text", ["pi5: {host: secret.lan}", "- secret.lan", "pi5: [secret.lan", "a: !!x secret"]
)
def test_a_damaged_file_says_which_and_not_what_is_in_it(private: Path, text: str) -> None:
    private.parent.mkdir()
    private.write_text(text)
    with pytest.raises(UsageError) as raised:
        find_address("pi5")
    assert str(private) in str(raised.value)
    assert "secret" not in str(raised.value)
