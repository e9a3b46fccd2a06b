"""`edgekd device ...` as its users call it, with a real sshd at the other end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from edgekd.backends.catalogue import BACKENDS
from edgekd.targets.devices_file import DEVICES_FILE
from tests.cli.running import edgekd
from tests.devices.sshd import NAME, Sshd, make_key, running_sshd, user

pytestmark = pytest.mark.devices


class Project:
    """A folder, a private configuration, and one device that is not added yet."""

    def __init__(self, folder: Path, server: Sshd) -> None:
        self.folder, self.server = folder, server
        self.environment = {
            "XDG_CONFIG_HOME": str(folder / "config"),
            "EDGEKD_DEVICE_BOARD_KEY": str(server.key),
        }

    def call(self, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """What is told never tells where the device is."""
        done = self.call_openly(*words, **changes)
        for secret in (self.server.host, str(self.server.port), f"{user()}@{self.server.host}"):
            assert secret not in done.stdout + done.stderr, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    def call_openly(self, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, **changes}
        return edgekd("device", *words, folder=self.folder, timeout_s=100, **environment)

    def add(self, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
        python = () if "--python" in words else ("--python", sys.executable)
        return self.call("add", NAME, self.server.address, *python, *words, **changes)

    def entry(self) -> dict[str, object]:
        return dict(yaml.safe_load((self.folder / DEVICES_FILE).read_text())[NAME])


@pytest.fixture
def project(server: Sshd, tmp_path: Path) -> Project:
    return Project(tmp_path, server)


@pytest.fixture
def added(project: Project) -> Project:
    assert project.add("--fingerprint", project.server.host_key.fingerprint).returncode == 0
    return project


def test_nothing_is_pinned_that_nobody_answers_for(project: Project) -> None:
    done = project.add()
    assert done.returncode == 2
    assert project.server.host_key.fingerprint in done.stdout
    assert "nobody is there to compare its host key" in done.stderr and "--fingerprint" in done.stderr
    assert not (project.folder / DEVICES_FILE).exists()


def test_another_fingerprint_is_refused_and_both_are_named(project: Project) -> None:
    wrong = "SHA256:" + "a" * 43
    done = project.add("--fingerprint", wrong)
    assert done.returncode == 2
    assert project.server.host_key.fingerprint in done.stderr and wrong in done.stderr
    assert project.add("--fingerprint", "12:34").returncode == 2
    assert not (project.folder / DEVICES_FILE).exists()


def test_a_device_is_added_and_says_what_it_is(project: Project) -> None:
    key = project.server.host_key
    done = project.add("--fingerprint", key.fingerprint, "--cores", "0", "--cache", "20MB", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert "onnxruntime" in done.stdout and "cores" in done.stdout
    entry = project.entry()
    assert (entry["host_key"], entry["fingerprint"]) == (key.line, key.fingerprint)
    assert (entry["cores"], entry["cache"]) == ([0], "20MB")
    text = (project.folder / DEVICES_FILE).read_text()
    assert project.server.host not in text and user() not in text.replace(str(sys.executable), "")
    private = project.folder / "config" / "edgekd" / "addresses.yaml"
    assert project.server.address in private.read_text()
    assert private.stat().st_mode & 0o777 == 0o600


def test_a_key_may_be_brought_along(project: Project) -> None:
    done = project.add("--host-key", str(project.server.folder / "host.pub"))
    assert done.returncode == 0, done.stderr
    assert project.entry()["fingerprint"] == project.server.host_key.fingerprint


def test_a_person_is_asked(project: Project) -> None:
    """At a terminal: a no pins nothing, a yes does."""
    for answer, code, pinned in (("n", 130, False), ("y", 0, True)):
        assert _at_a_terminal(project, answer) == code
        assert (project.folder / DEVICES_FILE).exists() is pinned


def _at_a_terminal(project: Project, answer: str) -> int:
    ours, theirs = os.openpty()
    words = ["device", "add", NAME, project.server.address, "--python", sys.executable]
    environment = {
        **os.environ,
        **project.environment,
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "edgekd.cli.main", *words],
        cwd=project.folder,
        env=environment,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        os.write(ours, f"{answer}\n".encode())
        process.communicate(timeout=100)
    os.close(ours)
    os.close(theirs)
    return process.returncode


def test_added_again_it_gets_the_new_key_and_keeps_the_rest(
    added: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = added.folder / DEVICES_FILE
    path.write_text(path.read_text() + "  expect: {cpu: x}  # ours\n")
    with running_sshd(tmp_path_factory.mktemp("new")) as anew:
        added.server = anew
        added.environment["EDGEKD_DEVICE_BOARD_KEY"] = str(anew.key)
        changed = added.call("doctor", NAME, EDGEKD_DEVICE_BOARD=anew.address)
        assert changed.returncode == 4
        assert anew.host_key.fingerprint in changed.stderr and "edgekd device add board" in changed.stderr
        done = added.add("--fingerprint", anew.host_key.fingerprint)
    assert done.returncode == 0, done.stderr
    assert "WARNING: so far board was known by SHA256:" in done.stderr
    assert added.entry()["fingerprint"] == anew.host_key.fingerprint
    assert "expect: {cpu: x}  # ours" in path.read_text()


def test_a_device_that_lets_nobody_in_stays_added(project: Project, tmp_path: Path) -> None:
    done = project.add("--yes", EDGEKD_DEVICE_BOARD_KEY=str(make_key(tmp_path / "stranger")))
    assert done.returncode == 4
    assert "is added, but not ready" in done.stdout and "does not accept this user's key" in done.stderr
    assert project.entry()["kind"] == "ssh"


def test_a_device_without_the_runtime_says_what_setup_would_do(project: Project) -> None:
    done = project.add("--yes", "--python", "/usr/bin/python3")
    assert done.returncode in (0, 4)
    if "runs ONNX Runtime" not in done.stdout:
        assert "does not run onnx, openvino, " in done.stdout
        assert "No module named 'numpy'" in done.stdout
        assert "edgekd device setup board" in done.stdout


def test_list_and_show_tell_where_the_address_is_from(added: Project) -> None:
    rows = json.loads(added.call("list", "--json").stdout)
    assert [row["name"] for row in rows] == ["local", NAME]
    assert rows[1]["address_from"].endswith("addresses.yaml")
    elsewhere = added.call("list", XDG_CONFIG_HOME=str(added.folder / "nobody"))
    assert "address unknown on this machine" in elsewhere.stdout
    shown = added.call_openly("show", NAME, "--address")
    assert added.server.address in shown.stdout


def test_a_doctor_says_what_is_well(added: Project) -> None:
    done = added.call("doctor", NAME, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {check["state"] for check in found["checks"]} <= {"ok", "note"}
    assert found["facts"]["cores"]
    assert found["runtimes"]["versions"]["onnx"]["onnxruntime"]
    assert {*found["runtimes"]["versions"], *found["runtimes"]["absent"]} == {*BACKENDS.names()}


def test_a_doctor_says_what_is_wrong(added: Project) -> None:
    path = added.folder / DEVICES_FILE
    path.write_text(path.read_text() + "  expect: {cpu: Cortex-A76}\n")
    done = added.call("doctor", NAME)
    assert done.returncode == 4
    assert "bad   wrong device: `cpu` should contain `Cortex-A76`" in done.stdout


def test_a_busy_device_is_waited_for_if_asked(added: Project, known: Sshd) -> None:
    with known.target().session():
        busy = added.call("restore", NAME)
        assert busy.returncode == 4
        assert "busy: " in busy.stderr and "--wait" in busy.stderr
        waited = added.call("restore", NAME, "--wait", "1s")
        assert waited.returncode == 4
        assert "waiting for board: " in waited.stderr
    assert added.call("restore", NAME, "--wait", "1s").returncode == 0
    assert added.call("restore", NAME, "--wait", "soon").returncode == 2


def test_clean_leaves_nothing_there(added: Project) -> None:
    objects = added.server.home / "edgekd" / "objects"
    objects.mkdir(parents=True, exist_ok=True)
    (objects / "x").write_bytes(b"x" * 1000)
    done = added.call("clean", NAME)
    assert done.returncode == 0, done.stderr
    assert "removed objects" in done.stdout
    assert not objects.exists()


def test_a_removed_device_is_forgotten(added: Project) -> None:
    done = added.call("remove", NAME)
    assert done.returncode == 0
    assert NAME not in (added.folder / DEVICES_FILE).read_text().replace("edgekd", "")
    assert added.server.address not in (added.folder / "config" / "edgekd" / "addresses.yaml").read_text()
    again = added.call("remove", NAME)
    assert again.returncode == 2 and "choices: local" in again.stderr


def test_this_machine_is_no_device(project: Project) -> None:
    assert "edgekd doctor" in project.call("doctor", "local").stderr
    done = project.call_openly("add", "local", "ssh://pi@pi5")
    assert done.returncode == 2 and "this machine" in done.stderr
    for name, address in (("../x", "ssh://pi@pi5"), ("pi5", "pi@pi5"), ("pi5", "ssh://-o@x")):
        done = project.call_openly("add", name, address, "--yes")
        assert done.returncode == 2, done.stderr
