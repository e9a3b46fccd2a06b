"""A real sshd on loopback: files, commands, and every way not to get in."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from edgekd.core.errors import TargetError
from edgekd.targets import remote
from edgekd.targets.addresses import parse_ssh
from edgekd.targets.host_key_fetch import fetch_host_key
from edgekd.targets.host_keys import parse_key
from tests.devices.sshd import NAME, Sshd, free_port, make_key, running_sshd, user

pytestmark = pytest.mark.devices
WAIT_S = 60.0
LARGE = 5_000_000


def refused(server: Sshd, **fields: object) -> str:
    """What somebody is told who does not get in; nowhere does it say where the device is."""
    with pytest.raises(TargetError) as raised, server.target(**fields).session():
        pass
    text = str(raised.value)
    assert text.startswith(f"{NAME}: ")
    for secret in (server.host, str(server.port), f"{user()}@"):
        assert secret not in text
    return text


def test_files_and_commands_go_there_and_back(known: Sshd, tmp_path: Path) -> None:
    content = os.urandom(LARGE)
    (tmp_path / "large").write_bytes(content)
    (tmp_path / "small").write_bytes(b"small")
    with known.target().session() as session:
        for name in ("large", "small"):
            session.push(tmp_path / name)
        finished = session.run(["sh", "-c", "cat small; wc -c < large; exit 255"], timeout_s=WAIT_S)
        session.pull("large", tmp_path / "back")
    assert (finished.code, finished.stdout) == (255, b"small5000000\n")
    assert (tmp_path / "back").read_bytes() == content
    assert known.sessions == known.tickets == []


def test_a_login_shells_chatter_disturbs_nothing(known: Sshd, tmp_path: Path) -> None:
    start_up = known.folder / "home" / ".bashrc"
    start_up.write_text("echo Welcome to the board; echo oops >&2; printf '{\"keeper\"'\n")
    try:
        test_files_and_commands_go_there_and_back(known, tmp_path)
    finally:
        start_up.unlink()


def test_a_transport_without_a_session_has_exit_codes_of_its_own(known: Sshd) -> None:
    with closing(known.target().transport()) as transport:
        finished = transport.run("cat; echo err >&2; exit 255", stdin=b"in", timeout_s=WAIT_S)
        assert (finished.code, finished.stdout, finished.stderr) == (255, b"in", b"err\n")
        with pytest.raises(TargetError, match="within 1 s"):
            transport.run("sleep 60", timeout_s=1)


def test_a_file_arrives_whole_or_not_at_all(known: Sshd, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with closing(known.target().transport()) as transport:
        with pytest.raises(TargetError, match=r"cannot push file: .*(nonexistent|No such file)"):
            transport.put(tmp_path / "file", f"{tmp_path}/absent/file", timeout_s=WAIT_S)
        with pytest.raises(TargetError, match="cannot push"):
            transport.put(tmp_path / "absent", f"{tmp_path}/file2", timeout_s=WAIT_S)
        with pytest.raises(TargetError, match="cannot pull absent"):
            transport.get(f"{tmp_path}/absent", tmp_path / "x", timeout_s=WAIT_S)


def test_another_host_key_is_refused_and_both_are_named(known: Sshd, tmp_path: Path) -> None:
    other = parse_key(make_key(tmp_path / "other").with_suffix(".pub").read_text())
    text = refused(known, host_key=other.line, fingerprint=other.fingerprint)
    assert known.host_key.fingerprint in text and other.fingerprint in text
    assert f"edgekd device add {NAME}" in text


def test_a_host_key_of_another_type_is_refused(known: Sshd, tmp_path: Path) -> None:
    other = parse_key(make_key(tmp_path / "other", "ecdsa").with_suffix(".pub").read_text())
    assert "no host key of the pinned type" in refused(
        known, host_key=other.line, fingerprint=other.fingerprint
    )


def test_an_unknown_user_key_is_refused(known: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_DEVICE_BOARD_KEY", str(make_key(tmp_path / "stranger")))
    text = refused(known)
    assert "does not accept this user's key" in text and "ssh-copy-id" in text


def test_a_key_file_that_is_not_there_is_named(known: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_DEVICE_BOARD_KEY", "/no/key")
    assert "the private key's file is not there" in refused(known)


def test_a_port_where_nobody_listens_is_refused(known: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_DEVICE_BOARD", f"ssh://{user()}@{known.host}:{free_port()}")
    assert "refuses the connection" in refused(known)


def test_a_name_that_nobody_has_is_told(known: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_DEVICE_BOARD", "ssh://nobody@secret-board.invalid")
    text = refused(known)
    assert "its name is not known" in text and "secret-board" not in text


def test_a_device_without_python_is_told(known: Sshd) -> None:
    assert "it has no `python9`" in refused(known, python="python9")


def test_a_python_in_the_home_folder_is_found(known: Sshd) -> None:
    (known.folder / "home" / "py thon").symlink_to(sys.executable)
    with known.target(python="~/py thon").session() as session:
        assert session.run([*session.python, "-c", "print(1)"], timeout_s=WAIT_S).stdout == b"1\n"


def test_the_address_is_in_no_fact(known: Sshd) -> None:
    target = known.target()
    for text in (str(target.facts()), target.model_dump_json(), repr(target)):
        assert known.host not in text and str(known.port) not in text


def test_the_fetched_key_is_the_servers(known: Sshd) -> None:
    assert fetch_host_key(parse_ssh(known.address, where=NAME), NAME) == known.host_key


def test_the_strongest_of_several_keys_is_fetched(tmp_path: Path, server: Sshd) -> None:
    make_key(tmp_path / "rsa", "rsa")
    with running_sshd(tmp_path / "two", more=f"HostKey {tmp_path}/rsa") as two:
        assert fetch_host_key(parse_ssh(two.address, where=NAME), NAME).kind == "ssh-ed25519"


# --- the user's ssh configuration ---------------------------------------------------------------------------


@pytest.fixture
def configured(known: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `ssh` whose configuration is the file that is returned, instead of this user's own."""
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {tmp_path}/config "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("EDGEKD_DEVICE_BOARD", "ssh://lab-board")
    return tmp_path / "config"


def test_names_of_the_users_configuration_count(known: Sshd, configured: Path) -> None:
    configured.write_text(
        f"Host lab-board\n HostName {known.host}\n Port {known.port}\n User {user()}\n"
        " ControlMaster yes\n ControlPath /no/such/place\n RemoteCommand false\n RequestTTY force\n"
        " ForwardX11 yes\n LocalForward 1 localhost:1\n LogLevel QUIET\n StrictHostKeyChecking no\n"
    )
    with known.target().session() as session:
        assert session.run(["echo", "in"], timeout_s=WAIT_S).stdout == b"in\n"


def test_a_device_behind_a_jump_host_is_reached(known: Sshd, configured: Path, tmp_path: Path) -> None:
    line = f"[{known.host}]:{known.port} {known.host_key.line}\n"
    (tmp_path / "known_hosts").write_text(line)
    configured.write_text(
        f"Host lab-board\n HostName {known.host}\n Port {known.port}\n User {user()}\n ProxyJump jump\n"
        f"Host jump\n HostName {known.host}\n Port {known.port}\n User {user()}\n"
        f" IdentityFile {known.key}\n UserKnownHostsFile {tmp_path}/known_hosts\n"
    )
    assert fetch_host_key(parse_ssh("ssh://lab-board", where=NAME), NAME) == known.host_key
    with known.target().session() as session:
        assert session.run(["echo", "in"], timeout_s=WAIT_S).stdout == b"in\n"


def test_an_error_does_not_tell_what_a_name_stands_for(known: Sshd, configured: Path) -> None:
    configured.write_text(
        f"Host lab-board\n HostName {known.host}\n Port {known.port}\n User {user()}\n BadOption x\n"
    )
    text = refused(known)
    assert "lab-board" not in text


RELAY = """
import os, socket, sys, threading, time
def copy(source, sink):
    while piece := os.read(source, 2048):
        time.sleep(len(piece) / {rate})
        os.write(sink, piece)
device = socket.create_connection((sys.argv[1], int(sys.argv[2])))
device.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
threading.Thread(target=copy, args=(0, device.fileno()), daemon=True).start()
copy(device.fileno(), 1)
"""


def test_a_slow_link_is_slow_and_no_loss(known: Sshd, configured: Path, tmp_path: Path) -> None:
    """1.5 MB at 80 kB/s take longer than a silent link is borne, and than a file may show no progress."""
    (tmp_path / "relay.py").write_text(RELAY.format(rate=80_000))
    configured.write_text(
        f"Host lab-board\n HostName {known.host}\n Port {known.port}\n User {user()}\n"
        f" ProxyCommand {sys.executable} {tmp_path}/relay.py %h %p\n"
    )
    (tmp_path / "file").write_bytes(os.urandom(1_500_000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "STALL_S", 12.0)
        started = time.monotonic()
        with known.target().session() as session:
            session.push(tmp_path / "file")
            session.pull("file", tmp_path / "back")
    assert time.monotonic() - started > 30
    assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()


# --- disks --------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    if os.getuid() != 0:
        pytest.skip("needs root, to mount a disk of two megabytes")
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("size", [LARGE, 900_000], ids=["through cat", "through the keeper"])
def test_a_full_disk_says_so_and_the_session_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Sshd, size: int
) -> None:
    assert remote._SMALL_BYTES > 900_000
    (tmp_path / "file").write_bytes(b"x" * size)
    with running_sshd(tmp_path / "sshd") as full, small_disk(full.home):
        for name, value in full.environment().items():
            monkeypatch.setenv(name, value)
        with full.target().session() as session:
            with pytest.raises(
                TargetError, match=r"cannot push \w+.*its disk is full, \d\.\d MB free"
            ) as told:
                for number in range(4):
                    session.push(tmp_path / "file", f"file{number}")
            assert "edgekd device clean board" in str(told.value)
            assert session.run(["sh", "-c", "rm file*; echo on"], timeout_s=WAIT_S).stdout == b"on\n"
            listed = session.run(["ls", "-A"], timeout_s=WAIT_S).stdout.split()
        assert listed == [b".keeper"]
        assert full.sessions == []


def test_a_disk_that_is_full_before_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Sshd
) -> None:
    with running_sshd(tmp_path / "sshd") as full, small_disk(full.home):
        with contextlib.suppress(OSError), (full.home / "fill").open("wb") as fill:
            while True:
                fill.write(b"x" * 4096)
                fill.flush()
        for name, value in full.environment().items():
            monkeypatch.setenv(name, value)
        (tmp_path / "file").write_bytes(b"x" * 10_000)
        with pytest.raises(TargetError, match=r"full|No space"), full.target().session() as session:
            session.push(tmp_path / "file")


def test_a_server_that_allows_one_session_a_connection_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Sshd
) -> None:
    with running_sshd(tmp_path / "sshd", more="MaxSessions 1") as narrow:
        for name, value in narrow.environment().items():
            monkeypatch.setenv(name, value)
        test_files_and_commands_go_there_and_back(narrow, tmp_path)
