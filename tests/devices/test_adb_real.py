"""Whole sessions with a real adbd: files, exit codes, a pulled cable, a dead server, a full disk.

24 s on first use, for the device's files (kept in EDGEKD_DEVICE_TEST_CACHE). No phone: see `adbd.py`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.errors import TargetError
from edgekd.targets import adb_program, care
from edgekd.targets.adb_transport import AdbTransport
from edgekd.targets.remote import RemoteSession
from tests.devices import adbd
from tests.devices.adbd import NAME, PORT, SERVER_PORT, Adbd, running_adbd
from tests.devices.namespaces import THEIRS

pytestmark = [pytest.mark.devices, pytest.mark.slow]
BIG = 5_000_000


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adbd]:
    reason = adbd.why_not()
    if reason is not None:
        pytest.skip(reason)
    try:
        adbd.root_filesystem()
    except RuntimeError as error:
        pytest.skip(str(error))
    with running_adbd(tmp_path_factory.mktemp("adbd")) as device:
        yield device
    assert namespaces() == [], "a network namespace is left"


def namespaces() -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, check=True).stdout.decode()
    return [line for line in listed.splitlines() if line.startswith(f"edgekd-adb-{os.getpid()}")]


@pytest.fixture(autouse=True)
def phone(device: Adbd, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Afterwards there is nothing on the device that was not there before."""
    for name, value in device.environment.items():
        monkeypatch.setenv(name, value)
    before = set(device.files())
    yield
    eventually(lambda: device.processes() == [], lambda: f"still runs there: {device.processes()}")
    eventually(
        lambda: set(device.files()) <= before,
        lambda: f"left there: {sorted(set(device.files()) - before)[:5]}",
    )


def eventually(true: Callable[[], bool], otherwise: Callable[[], str], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.1)


@pytest.fixture
def session(device: Adbd) -> Iterator[RemoteSession]:
    with device.target().open() as session:
        yield session


@pytest.fixture
def transport() -> Iterator[AdbTransport]:
    transport = AdbTransport(NAME, f"{THEIRS}:{PORT}", server_port=SERVER_PORT)
    yield transport
    transport.close()


def test_its_shell_is_androids(transport: AdbTransport) -> None:
    finished = transport.run('echo "$KSH_VERSION"; readlink "$(which cat)"', timeout_s=20)
    assert b"MIRBSD KSH" in finished.stdout
    assert b"toybox" in finished.stdout


def test_a_command_gives_exit_code_and_both_streams(session: RemoteSession) -> None:
    script = (
        "import sys; d = sys.stdin.buffer.read(); print(len(d)); print('e', file=sys.stderr); sys.exit(7)"
    )
    finished = session.run([*session.python, "-c", script], stdin=b"\x00x" * 150_000, timeout_s=30)
    assert (finished.code, finished.stdout, finished.stderr) == (7, b"300000\n", b"e\n")


@pytest.mark.parametrize(
    ("command", "code"),
    [("exit 255", 255), ("kill -9 $$", 137), ("sh -c 'kill -11 $$'", 139), ("false #", 1)],
)
def test_the_transport_knows_how_a_command_ended(transport: AdbTransport, command: str, code: int) -> None:
    assert transport.run(command, timeout_s=20).code == code


def test_a_long_command_line_arrives(transport: AdbTransport) -> None:
    assert len(transport.run(f"echo {'x' * 60_000}", timeout_s=20).stdout) == 60_001


@pytest.mark.parametrize("size", [0, 1000, BIG])
def test_files_go_there_and_come_back(session: RemoteSession, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "in").write_bytes(content)
    session.push(tmp_path / "in", "there")
    listed = session.run(["ls", "-a"], timeout_s=20).stdout.split()
    session.pull("there", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    assert b"there" in listed
    assert not [name for name in listed if name.endswith(b".part")]


def test_a_name_that_a_shell_would_misread(transport: AdbTransport, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"content")
    remote = "/data/local/tmp/it's $HOME `a`;b"
    transport.put(tmp_path / "in", remote, timeout_s=20)
    transport.get(remote, tmp_path / "back", timeout_s=20)
    assert (tmp_path / "back").read_bytes() == b"content"
    transport.run("rm /data/local/tmp/it*", timeout_s=20)


def test_a_full_disk_says_so_and_nothing_half_stays(transport: AdbTransport, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(os.urandom(20_000_000))
    with pytest.raises(TargetError, match=r"cannot push in \(20\.0 MB\): its disk is full, \d+\.\d MB free"):
        transport.put(tmp_path / "in", "/data/small/in", timeout_s=30)
    assert transport.run("ls /data/small", timeout_s=20).stdout == b""


def test_a_command_that_takes_too_long_is_ended_there(transport: AdbTransport, device: Adbd) -> None:
    with pytest.raises(TargetError, match="no answer within 2 s"):
        transport.run("sleep 301; echo never", timeout_s=2)
    eventually(lambda: device.processes() == [], lambda: f"still runs: {device.processes()}")


def test_a_server_that_dies_in_the_midst_is_a_lost_link(transport: AdbTransport, device: Adbd) -> None:
    """adb itself then ends with exit code 0."""
    transport.run("true", timeout_s=20)
    environment = {**os.environ, "ANDROID_ADB_SERVER_PORT": str(SERVER_PORT)}
    stop = [str(device.bin / "adb"), "kill-server"]
    threading.Timer(1.5, lambda: subprocess.run(stop, env=environment, check=False)).start()
    with pytest.raises(TargetError, match="lost before the command ended"):
        transport.run("sleep 302", timeout_s=60)
    assert transport.run("echo back", timeout_s=20).stdout == b"back\n"


@pytest.fixture
def quick_pulse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adb_program, "PULSE_S", 2.0)
    monkeypatch.setattr(adb_program, "ANSWER_S", 2.0)


@pytest.mark.usefixtures("quick_pulse")
def test_a_pulled_cable_ends_a_command_with_an_error(device: Adbd) -> None:
    """Of itself, adb waits for ever."""
    started = time.monotonic()
    try:
        with device.target().open() as session, pytest.raises(TargetError, match="the link was lost"):
            threading.Timer(1.0, device.cable, ["down"]).start()
            session.run(["sleep", "303"], timeout_s=600)
        assert time.monotonic() - started < 60
    finally:
        device.cable("up")
    with device.target().open() as session:  # the next takes the place of the lost one
        assert session.run(["echo", "back"], timeout_s=20).stdout == b"back\n"


@pytest.mark.usefixtures("quick_pulse")
def test_a_cable_pulled_while_a_file_goes_there(device: Adbd, tmp_path: Path) -> None:
    with (tmp_path / "in").open("wb") as stream:
        stream.truncate(400_000_000)
    try:
        with device.target().open() as session, pytest.raises(TargetError, match=r"no longer answers"):
            threading.Timer(0.3, device.cable, ["down"]).start()
            session.push(tmp_path / "in")
    finally:
        device.cable("up")


def test_a_short_flap_is_survived(device: Adbd) -> None:
    with device.target().open() as session:
        device.cable("down")
        threading.Timer(1.5, device.cable, ["up"]).start()
        assert session.run(["echo", "through"], timeout_s=60).stdout == b"through\n"


def test_a_killed_host_leaves_nothing_there(device: Adbd) -> None:
    script = (
        "from edgekd.targets.adb import AdbTarget\n"
        f"with AdbTarget(name='{NAME}', server_port={SERVER_PORT}).session() as session:\n"
        "    print('open', flush=True)\n    session.run(['sleep', '304'], timeout_s=600)\n"
    )
    host = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    with host:
        assert host.stdout is not None
        assert host.stdout.readline() == b"open\n"
        eventually(lambda: any("sleep 304" in line for line in device.processes()), lambda: "never ran")
        host.send_signal(signal.SIGKILL)
    eventually(lambda: device.processes() == [], lambda: f"still runs: {device.processes()}")


def test_a_device_that_is_not_there_is_named_and_its_address_is_not(device: Adbd) -> None:
    for serial in ("R58-SECRET", "192.0.2.99:5555"):
        transport = AdbTransport(NAME, serial, server_port=SERVER_PORT)
        with contextlib.closing(transport), pytest.raises(TargetError) as raised:
            transport.run("true", timeout_s=20)
        assert serial.partition(":")[0] not in str(raised.value)
        assert str(raised.value).startswith("phone: ")


def test_it_is_prepared_restored_and_cleaned(session: RemoteSession) -> None:
    """A synthetic /sys in the session's folder: namespaces have no clocks of their own."""
    policy = "root/sys/devices/system/cpu/cpufreq/policy0"
    make = f"mkdir -p {policy}; echo ondemand > {policy}/scaling_governor"
    session.run(["sh", "-c", make], timeout_s=20)
    root = f"{session.folder}/root"
    assert care.prepare(session, name=NAME, root=root).changes[0].after == "performance"
    with pytest.raises(TargetError, match="it is prepared"):
        care.clean(session, name=NAME)
    restored = care.restore(session, name=NAME, root=root)
    assert (restored.changes[0].after, restored.problems) == ("ondemand", ())
    assert care.clean(session, name=NAME).problems == ()


@pytest.mark.timeout(600)
def test_it_is_set_up_without_a_network_of_its_own_and_then_runs_a_graph(
    device: Adbd, tmp_path: Path
) -> None:
    """Its Python has neither pip nor ensurepip, as Debian's without `python3-venv`: pip is pushed as well."""
    with device.target().open() as session:
        try:
            done = care.set_up(
                session, name=NAME, packages=BACKENDS.load("onnx").device_packages, offline=True
            )
        except TargetError as error:
            if "does not reach the package index" not in error.what:
                raise
            pytest.skip(f"no package index here: {error.what}")
        assert (done.source, set(done.installed)) == ("this machine", {"numpy", "onnxruntime"})
        assert done.python == "~/.cache/edgekd/venv/bin/python"
    (tmp_path / "graph.onnx").write_bytes(BACKENDS.load("onnx").baseline_graph())
    with device.target(python=done.python).open() as session:
        session.push(tmp_path / "graph.onnx")
        script = (
            "import numpy, onnxruntime as o\ns = o.InferenceSession('graph.onnx')\n"
            "print(s.run(None, {'input': numpy.float32([[-1.0]])})[0].tolist())"
        )
        ran = session.run([*session.python, "-c", script], timeout_s=120, env={"ORT_DISABLE_TELEMETRY": "1"})
        assert ran.stdout == b"[[0.0]]\n", ran.stderr
    with device.target().open() as session:
        removed = care.clean(session, name=NAME).removed
    assert removed["venv"] > 10_000_000
