"""The adb transport against a scripted adb: every way it fails has its own words, and a limit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekd.core.errors import TargetError, UsageError
from edgekd.targets import adb_program, adb_transport
from edgekd.targets.adb import AdbTarget, parse_adb
from edgekd.targets.adb_transport import AdbTransport
from tests.targets.scripted_adb import SERIAL, ScriptedAdb

NETWORK = "192.0.2.7:5555"


@pytest.fixture
def adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedAdb:
    monkeypatch.setattr(adb_transport, "_SETTLE_S", 0.2)
    monkeypatch.setattr(adb_transport, "_POLL_S", 0.02)
    return ScriptedAdb(tmp_path, monkeypatch)


@pytest.fixture
def phone(adb: ScriptedAdb) -> Iterator[AdbTransport]:
    transport = AdbTransport("phone", SERIAL)
    yield transport
    transport.close()


def test_a_command_gives_exit_code_and_both_streams(phone: AdbTransport) -> None:
    finished = phone.run("cat; echo err >&2; exit 7", stdin=b"in\x00put", timeout_s=10)
    assert (finished.code, finished.stdout, finished.stderr) == (7, b"in\x00put", b"err\n")


@pytest.mark.parametrize(
    ("command", "code"),
    [("exec sh -c 'exit 255'", 255), ("false # a remark", 1), ("cat <<X\ntext\nX", 0), ("kill -9 $$", 137)],
)
def test_however_a_command_ends_it_is_returned(phone: AdbTransport, command: str, code: int) -> None:
    assert phone.run(command, timeout_s=10).code == code


def test_a_command_without_input_sees_its_end(phone: AdbTransport) -> None:
    assert phone.run("cat; echo done", timeout_s=10).stdout == b"done\n"


def test_the_connection_is_made_once(adb: ScriptedAdb, phone: AdbTransport) -> None:
    phone.run("true", timeout_s=10)
    phone.run("true", timeout_s=10)
    assert adb.verbs() == ["start-server", "get-state", "features", "shell", "shell", "shell"]
    assert all("-s R58-SECRET" in call for call in adb.calls() if "start-server" not in call)


def test_files_go_there_whole_and_come_back(phone: AdbTransport, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"\x00content")
    remote = tmp_path / "it's there"
    phone.put(tmp_path / "in", str(remote), timeout_s=10)
    phone.get(str(remote), tmp_path / "back", timeout_s=10)
    assert remote.read_bytes() == (tmp_path / "back").read_bytes() == b"\x00content"
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_a_file_that_arrives_cut_short_is_not_there(
    adb: ScriptedAdb, phone: AdbTransport, tmp_path: Path
) -> None:
    adb.answer({"push": 'head -c 3 "$2" > "$3"'})
    (tmp_path / "in").write_bytes(b"content")
    with pytest.raises(TargetError, match=r"cannot push in .*did not arrive whole"):
        phone.put(tmp_path / "in", str(tmp_path / "out"), timeout_s=10)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.part").exists()


def test_a_full_disk_there_is_the_devices(adb: ScriptedAdb, phone: AdbTransport, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"content")
    said = "adb: error: failed to copy 'in' to '/x': remote write failed: No space left on device"
    adb.answer({"push": f'echo "{said}" >&2; exit 1'})
    with pytest.raises(TargetError, match=r"cannot push in \(0.0 MB\): its disk is full, \d+\.\d MB free"):
        phone.put(tmp_path / "in", "/x", timeout_s=10)


def test_a_full_disk_here_is_ours(adb: ScriptedAdb, phone: AdbTransport, tmp_path: Path) -> None:
    adb.answer({"pull": "echo \"adb: error: cannot write '/back': No space left on device\" >&2; exit 1"})
    with pytest.raises(OSError, match="No space left"):
        phone.get("/x", tmp_path / "back", timeout_s=10)


def test_what_is_not_there_cannot_be_pulled(adb: ScriptedAdb, phone: AdbTransport, tmp_path: Path) -> None:
    said = "adb: error: failed to stat remote object '/x': No such file or directory"
    adb.answer({"pull": f'echo "{said}" >&2; exit 1'})
    with pytest.raises(TargetError, match=r"cannot pull x: .*No such file"):
        phone.get("/x", tmp_path / "back", timeout_s=10)
    assert list(tmp_path.glob("*back*")) == []


# --- states -------------------------------------------------------------------------------------------------

UNAUTHORIZED = """error: device unauthorized.
This adb server's $ADB_VENDOR_KEYS is not set
Try 'adb kill-server' if that seems wrong.
Otherwise check for a confirmation dialog on your device."""


@pytest.mark.parametrize(
    ("state", "message", "fix"),
    [
        (f'cat >&2 <<"X"\n{UNAUTHORIZED}\nX\nexit 1', "has not allowed this computer", "unlock its screen"),
        ("echo unauthorized", "has not allowed this computer", "Allow USB debugging"),
        ("echo authorizing", "is still asking", "unlock its screen"),
        ("echo offline", r"\(offline\)", "plug it in again"),
        ("echo 'error: device offline' >&2; exit 1", r"\(offline\)", "plug it in again"),
        (
            "echo \"error: device 'R58-SECRET' not found\" >&2; exit 1",
            "no device with this serial",
            "adb devices",
        ),
        ("echo 'error: no devices/emulators found' >&2; exit 1", "no device is attached", "USB debugging on"),
        ("echo 'error: more than one device/emulator' >&2; exit 1", "several devices", "adb://SERIAL"),
        ("echo 'error: insufficient permissions for device: udev' >&2; exit 1", "may not open", "udev rules"),
        ("echo recovery", "adb says: recovery", ""),
    ],
)
def test_a_device_that_is_not_ready_says_why(
    adb: ScriptedAdb, phone: AdbTransport, state: str, message: str, fix: str
) -> None:
    adb.answer({"get-state": state})
    with pytest.raises(TargetError, match=f"^phone: .*{message}") as raised:
        phone.run("true", timeout_s=10)
    assert raised.value.exit_code == 4
    assert fix in (raised.value.fix or "")
    assert "SECRET" not in str(raised.value)


def test_a_device_that_needs_a_moment_is_waited_for(
    adb: ScriptedAdb, phone: AdbTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adb_transport, "_SETTLE_S", 60.0)
    count = f'echo x >> "{tmp_path}/n"; '
    adb.answer({"get-state": count + f'[ $(wc -l < "{tmp_path}/n") -ge 3 ] && echo device || echo offline'})
    assert phone.run("echo yes", timeout_s=10).stdout == b"yes\n"


def test_the_only_device_attached_keeps_its_serial(adb: ScriptedAdb) -> None:
    transport = AdbTransport("phone", None)
    transport.run("true", timeout_s=10)
    assert adb.calls()[1] == "port= get-state"
    assert adb.calls()[-1].startswith("port= -s R58-SECRET shell")


def test_an_android_without_exit_codes_is_refused(adb: ScriptedAdb, phone: AdbTransport) -> None:
    adb.answer({"features": "echo cmd"})
    with pytest.raises(TargetError, match=r"no exit codes(.|\n)*Android 7"):
        phone.run("true", timeout_s=10)


def test_without_adb_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetError, match=r"the program `adb`, which is not on PATH(.|\n)*apt install adb"):
        AdbTransport("phone", SERIAL).run("true", timeout_s=10)


def test_a_server_that_does_not_start_is_named(adb: ScriptedAdb, phone: AdbTransport) -> None:
    adb.answer(
        {"start-server": "echo '* failed to start daemon\nerror: cannot connect to daemon' >&2; exit 1"}
    )
    with pytest.raises(TargetError, match=r"server does not start(.|\n)*server_port"):
        phone.run("true", timeout_s=10)


# --- a link that goes ---------------------------------------------------------------------------------------


def test_adb_that_ends_with_0_in_the_midst_is_a_lost_device(adb: ScriptedAdb, phone: AdbTransport) -> None:
    """As the real one does when its server is killed or the device disconnects."""
    phone.run("true", timeout_s=10)
    adb.answer({"shell": "echo half of the output; exit 0"})
    with pytest.raises(TargetError, match="connection was lost before the command ended"):
        phone.run("echo all of it", timeout_s=10)


def test_output_that_looks_like_an_error_of_adb_is_not_one(adb: ScriptedAdb, phone: AdbTransport) -> None:
    phone.run("true", timeout_s=10)
    adb.answer({"shell": "echo unauthorized; echo unauthorized >&2; echo error: closed >&2; exit 1"})
    with pytest.raises(TargetError, match="lost before the command ended: adb says: error: closed"):
        phone.run("true", timeout_s=10)


def test_adb_that_waits_for_ever_is_killed_with_its_children(
    adb: ScriptedAdb, phone: AdbTransport, tmp_path: Path
) -> None:
    phone.run("true", timeout_s=10)
    adb.answer({"shell": f'sleep 60 & echo $! > "{tmp_path}/child"; wait'})
    with pytest.raises(TargetError, match=r"no answer within 1 s(.|\n)*cable"):
        phone.run("true", timeout_s=0.6)
    child = (tmp_path / "child").read_text().strip()
    deadline = time.monotonic() + 5
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(child)


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_after_a_loss_the_state_is_looked_at_again(adb: ScriptedAdb, phone: AdbTransport) -> None:
    phone.run("true", timeout_s=10)
    adb.answer({"shell": "exit 0"})
    with pytest.raises(TargetError):
        phone.run("true", timeout_s=10)
    adb.answer({"get-state": "echo 'error: device offline' >&2; exit 1"})
    with pytest.raises(TargetError, match="offline"):
        phone.run("true", timeout_s=10)
    adb.answer({})
    assert phone.run("echo back", timeout_s=10).stdout == b"back\n"


def test_a_network_device_is_connected_and_connected_anew(adb: ScriptedAdb) -> None:
    """What the server holds for connected may be dead since the cable was pulled."""
    transport = AdbTransport("board", NETWORK)
    adb.answer({"shell": "exit 0"})
    with pytest.raises(TargetError, match="connection was lost"):
        transport.run("true", timeout_s=10)
    verbs = [verb for verb in adb.verbs() if "connect" in verb]
    assert verbs == ["connect", "disconnect", "connect"]


@pytest.mark.parametrize(
    "said",
    [
        "failed to connect to '192.0.2.7:5555': Connection refused",
        "unable to connect to 192.0.2.7:5555: No route to host",
        "failed to resolve host: '192.0.2.7': Name or service not known",
    ],
)
def test_a_connection_that_fails_with_exit_code_0_fails_and_names_no_address(
    adb: ScriptedAdb, said: str
) -> None:
    adb.answer({"connect": f'echo "{said}"'})
    with pytest.raises(TargetError, match="board: cannot connect") as raised:
        AdbTransport("board", NETWORK).run("true", timeout_s=10)
    assert "192.0.2.7" not in str(raised.value)
    assert said.rpartition(":")[2].strip() in str(raised.value)


# --- the server ---------------------------------------------------------------------------------------------


def test_the_users_server_is_left_running(adb: ScriptedAdb, phone: AdbTransport) -> None:
    phone.run("true", timeout_s=10)
    phone.close()
    assert "kill-server" not in adb.verbs()
    assert all(call.startswith("port= ") for call in adb.calls())


def test_an_own_server_ends_with_the_last_who_uses_it(
    adb: ScriptedAdb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adb_program, "_lock_file", lambda port: tmp_path / f"{port}.lock")
    one, other = (AdbTransport("phone", SERIAL, server_port=5099) for _ in range(2))
    for transport in (one, other):
        transport.run("true", timeout_s=10)
    one.close()
    assert "kill-server" not in adb.verbs()
    other.close()
    other.close()
    assert adb.verbs().count("kill-server") == 1
    assert all(call.startswith("port=5099 ") for call in adb.calls())


def test_a_long_lived_command_has_pipes_and_sees_the_end_of_its_input(phone: AdbTransport) -> None:
    process = phone.start("read line; echo got $line; cat; echo end")
    assert process.stdin is not None
    process.stdin.write(b"first\n")
    process.stdin.flush()
    assert process.stdout is not None
    assert process.stdout.readline() == b"got first\n"
    stdout, _ = process.communicate(timeout=10)
    assert stdout == b"end\n"


# --- addresses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "serial"),
    [
        ("adb://R58N123ABC", "R58N123ABC"),
        ("adb://emulator-5554", "emulator-5554"),
        ("adb://board.lan:5555", "board.lan:5555"),
        ("adb://[2001:db8::1]:5555", "[2001:db8::1]:5555"),
        ("adb://adb-R58N-x1y2._adb-tls-connect._tcp", "adb-R58N-x1y2._adb-tls-connect._tcp"),
        ("adb://", None),
    ],
)
def test_an_address_names_a_serial(address: str, serial: str | None) -> None:
    assert parse_adb(address, where="phone") == serial


@pytest.mark.parametrize(
    "address", ["ssh://pi@host", "R58N", "adb://-a", "adb://a;b", "adb://h:0", "adb://h:70000"]
)
def test_anything_else_is_no_address_and_is_not_repeated(address: str) -> None:
    with pytest.raises(UsageError, match=r"none of adb's(.|\n)*adb://SERIAL") as raised:
        parse_adb(address, where="phone")
    assert address not in str(raised.value)


def test_a_long_lived_command_that_was_cut_off_did_not_end_well(
    adb: ScriptedAdb, phone: AdbTransport
) -> None:
    """adb's own exit code is 0 then; whoever started it must not take that for a good end."""
    good = phone.start("true")
    good.communicate(timeout=10)
    failed = phone.start("exit 3")
    failed.communicate(timeout=10)
    adb.answer({"shell": "exit 0"})
    cut = phone.start("true")
    cut.communicate(timeout=10)
    assert [bool(process.returncode) for process in (good, failed, cut)] == [False, True, True]


def test_a_long_lived_command_ends_when_the_device_no_longer_answers(
    adb: ScriptedAdb, phone: AdbTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone.run("true", timeout_s=10)
    monkeypatch.setattr(adb_program, "PULSE_S", 0.1)
    adb.answer({"shell": '[ "$3" = true ] && exit 1; exec sleep 60'})
    process = phone.start("keep")
    process.communicate(timeout=20)
    assert process.returncode != 0
    assert "no longer answers" in str(phone.trouble())


# --- the target ---------------------------------------------------------------------------------------------


def test_its_facts_say_experimental_and_nothing_of_where_it_is() -> None:
    facts = AdbTarget(name="phone", server_port=5099).facts()
    assert facts["experimental"] is True
    assert "server_port" not in facts


def test_an_unknown_address_says_how_to_give_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(TargetError, match=r"not known(.|\n)*EDGEKD_DEVICE_PHONE=adb://SERIAL"):
        AdbTarget(name="phone").transport()


def test_its_address_comes_from_the_environment(adb: ScriptedAdb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_DEVICE_PHONE", f"adb://{SERIAL}")
    transport = AdbTarget(name="phone").transport()
    assert transport.run("echo there", timeout_s=10).stdout == b"there\n"
    transport.close()
