"""Clocks are saved, set and put back, whatever happens: on a synthetic device, for want of a real one."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekd.core.errors import TargetError
from edgekd.targets import care
from edgekd.targets.local import LocalTarget
from edgekd.targets.on_device import clocks, sweep
from edgekd.targets.target import Session
from tests.targets.synthetic_device import ASK_FOR_REBOOT, KILL_CALLER, SyntheticDevice

BEFORE = ["ondemand", "600000", "ondemand", "800000"]
FASTEST = ["performance", "1800000", "performance", "2400000"]


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SyntheticDevice:
    return SyntheticDevice(tmp_path, monkeypatch)


@pytest.fixture
def session(device: SyntheticDevice) -> Iterator[Session]:
    with LocalTarget(name="local").session() as session:
        yield session


def prepare(session: Session, device: SyntheticDevice, power_mode: str | None = None) -> care.Tended:
    return care.prepare(session, name="pi5", power_mode=power_mode, root=str(device.below))


def restore(session: Session, device: SyntheticDevice) -> care.Tended:
    return care.restore(session, name="pi5", root=str(device.below))


def test_the_fastest_clocks_are_set_and_put_back(session: Session, device: SyntheticDevice) -> None:
    done = prepare(session, device)
    assert (device.settings(), done.problems) == (FASTEST, ())
    assert [(Path(c.what).name, c.before, c.after) for c in done.changes][:2] == [
        ("scaling_governor", "ondemand", "performance"),
        ("scaling_min_freq", "600000", "1800000"),
    ]
    back = restore(session, device)
    assert (device.settings(), back.problems, len(back.changes)) == (BEFORE, (), 4)
    assert not device.state.exists()


def test_twice_is_as_good_as_once(session: Session, device: SyntheticDevice) -> None:
    prepare(session, device)
    again = prepare(session, device)
    assert (again.changes, again.problems) == ((), ())
    assert "stays saved" in again.notes[0]
    restore(session, device)
    assert device.settings() == BEFORE
    assert restore(session, device).notes == ("nothing to restore: it is not prepared",)


def test_what_was_set_by_hand_before_comes_back(session: Session, device: SyntheticDevice) -> None:
    governor = device.below / "sys/devices/system/cpu/cpufreq/policy2/scaling_governor"
    governor.write_text("conservative\n")
    prepare(session, device)
    restore(session, device)
    assert governor.read_text().strip() == "conservative"


def test_a_device_without_cpufreq_says_so(session: Session, device: SyntheticDevice) -> None:
    shutil.rmtree(device.below / "sys")
    assert "no cpufreq" in prepare(session, device).notes[0]
    assert not device.state.exists()


def test_a_missing_governor_names_those_there_are(session: Session, device: SyntheticDevice) -> None:
    for policy in (device.below / "sys/devices/system/cpu/cpufreq").iterdir():
        (policy / "scaling_available_governors").write_text("schedutil\n")
    done = prepare(session, device)
    assert all("no governor `performance`, only: schedutil" in problem for problem in done.problems)
    assert device.settings()[1] == "1800000", "what can be set is set"


# --- Jetson -------------------------------------------------------------------------------------------------


def test_a_jetsons_clocks_are_stored_set_and_restored(session: Session, device: SyntheticDevice) -> None:
    device.make_jetson()
    done = prepare(session, device)
    assert device.settings() == [*FASTEST, "1", "highest"]
    assert "the power mode stays 1 15W" in done.notes
    assert restore(session, device).problems == ()
    assert device.settings() == [*BEFORE, "1", "dynamic"]
    assert list(device.state.parent.glob("*.conf")) == []


@pytest.mark.parametrize("wanted", ["MAXN", "0"])
def test_a_power_mode_is_set_when_it_is_named(session: Session, device: SyntheticDevice, wanted: str) -> None:
    device.make_jetson()
    done = prepare(session, device, wanted)
    assert ("power mode", "1 15W", "0 MAXN") in [(c.what, c.before, c.after) for c in done.changes]
    assert device.settings()[-2:] == ["0", "highest"]
    restore(session, device)
    assert device.settings() == [*BEFORE, "1", "dynamic"]


def test_an_unknown_power_mode_lists_the_choices_and_changes_nothing(
    session: Session, device: SyntheticDevice
) -> None:
    device.make_jetson()
    done = prepare(session, device, "MAXQ")
    assert "choices: MAXN (0), 15W (1), 7W (2)" in done.problems[0]
    assert device.settings() == [*BEFORE, "1", "dynamic"]
    assert not device.state.exists()


def test_a_mode_that_needs_a_reboot_is_refused(session: Session, device: SyntheticDevice) -> None:
    device.make_jetson(on_mode=ASK_FOR_REBOOT)
    done = prepare(session, device, "MAXN")
    assert "`sudo nvpmodel -m 0` needs a reboot; the mode stays 15W" in done.problems
    assert not device.file("rebooted").exists()
    restore(session, device)
    assert device.settings() == [*BEFORE, "1", "dynamic"]


def test_a_tool_that_is_not_understood_stops_everything(session: Session, device: SyntheticDevice) -> None:
    device.make_jetson()
    device.tool("nvpmodel", "echo 'NVPM ERROR: no such thing'; exit 255")
    done = prepare(session, device)
    assert "`sudo nvpmodel -q` gives no power mode: NVPM ERROR: no such thing" in done.problems[0]
    assert device.settings()[:4] == BEFORE
    assert not device.state.exists()


def test_clocks_that_cannot_be_stored_are_not_touched(session: Session, device: SyntheticDevice) -> None:
    device.make_jetson()
    device.tool("jetson_clocks", "echo 'Error: not supported'; exit 1")
    done = prepare(session, device)
    assert "jetson_clocks --store" in done.problems[0]
    assert "not supported" in done.problems[0]
    assert device.settings() == [*FASTEST, "1", "dynamic"]


# --- interruptions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["on_mode", "on_clocks"])
def test_an_interrupted_prepare_can_be_restored(
    session: Session, device: SyntheticDevice, where: str
) -> None:
    device.make_jetson(**{where: KILL_CALLER})
    with pytest.raises(TargetError, match="killed by signal 9"):
        prepare(session, device, "MAXN")
    device.make_jetson()
    assert restore(session, device).problems == ()
    assert device.settings() == [*BEFORE, "1", "dynamic"]


def test_an_interrupted_restore_is_done_again(session: Session, device: SyntheticDevice) -> None:
    device.make_jetson(on_restore=KILL_CALLER)
    prepare(session, device, "MAXN")
    with pytest.raises(TargetError, match="killed by signal 9"):
        restore(session, device)
    device.make_jetson()
    assert restore(session, device).problems == ()
    assert device.settings() == [*BEFORE, "1", "dynamic"]


def test_what_cannot_be_put_back_keeps_the_state(session: Session, device: SyntheticDevice) -> None:
    device.make_jetson(on_restore="echo 'cannot'; exit 1")
    prepare(session, device)
    assert "jetson_clocks --restore" in restore(session, device).problems[0]
    assert device.state.exists()
    device.make_jetson()
    assert restore(session, device).problems == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        '{"version": 1}',
        '{"version": 9, "files": {}, "saved_at": "", "power_mode": null, "jetson_clocks": null}',
        '{"version": 1, "saved_at": "", "power_mode": null, "jetson_clocks": null, "files": {"/etc/x": "x"}}',
        '{"version": 1, "saved_at": "", "power_mode": null, "jetson_clocks": null, '
        '"files": {"/sys/../tmp/scaling_governor": "x"}}',
    ],
)
def test_a_state_that_is_not_ours_is_not_followed(
    session: Session, device: SyntheticDevice, text: str
) -> None:
    device.state.parent.mkdir(parents=True)
    device.state.write_text(text)
    for done in (prepare(session, device), restore(session, device)):
        assert "prepared.json" in done.problems[0]
        assert done.changes == ()
    assert device.settings() == BEFORE


# --- rights -------------------------------------------------------------------------------------------------


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Unlike pytest's own, one that another user may enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def as_somebody(device: SyntheticDevice) -> tuple[str, ...]:
    """A Python that may not write the synthetic /sys."""
    for path in (device.below / "sys").rglob("scaling_*"):
        path.chmod(0o444)
    if os.geteuid() != 0:
        return (sys.executable,)
    if shutil.which("setpriv") is None:
        pytest.skip("running as root without setpriv(1): nothing can be forbidden")
    device.state.parent.mkdir(parents=True)
    os.chown(device.state.parent, 65534, 65534)
    plain = str(Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}"))
    return ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", plain)


def test_a_line_that_needs_a_right_is_named_with_what_would_allow_it(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = SyntheticDevice(open_folder, monkeypatch)
    device.tool("sudo", "echo 'sudo: a password is required' >&2; exit 1")
    with LocalTarget(name="local").session() as session:
        session.python = as_somebody(device)
        done = prepare(session, device)
    path = device.below / "sys/devices/system/cpu/cpufreq/policy0/scaling_governor"
    line = f"`echo performance | sudo tee {path}` failed: sudo: a password is required"
    assert line in done.problems
    assert len(done.problems) == 4
    assert device.settings() == BEFORE
    allowed = done.sudoers("pi") or ""
    assert allowed.startswith("pi ALL=(root) NOPASSWD: ")
    assert f"tee {path}" in allowed
    assert "*" not in allowed, "a wildcard of sudoers would allow any file"


def test_all_of_jetson_clocks_is_named_at_once(
    device: SyntheticDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.make_jetson()
    device.tool("sudo", "echo 'sudo: a password is required' >&2; exit 1")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    report = clocks.Report()
    path = device.file("stored.conf")
    assert clocks.store_clocks(path, report) is None
    program = device.file("bin") / "jetson_clocks"
    assert report.denied == [f"{program} --store {path}", f'{program} ""', f"{program} --restore {path}"]


def test_sudo_never_asks(device: SyntheticDevice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device.tool("sudo", f'printf "%s " "$@" > "{tmp_path}/sudo.log"; shift; exec "$@"')
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    report = clocks.Report()
    assert clocks.as_root(["tee", str(tmp_path / "file")], report, "value") == (0, "value")
    assert (tmp_path / "sudo.log").read_text().startswith("-n tee ")
    assert (tmp_path / "file").read_text() == "value"
    assert report.denied == []


# --- cleaning -----------------------------------------------------------------------------------------------


def test_cleaning_removes_what_is_kept_and_says_how_much(session: Session, device: SyntheticDevice) -> None:
    kept = device.cache / "edgekd"
    for folder in ("venv/bin", "objects"):
        (kept / folder).mkdir(parents=True)
    (kept / "objects/abc").write_bytes(b"12345")
    (kept / "venv/bin/python").symlink_to(sys.executable)
    (device.cache / "somebody-elses").write_text("stays")
    done = care.clean(session, name="pi5")
    assert (done.removed["objects"], done.problems) == (5, ())
    assert list(kept.iterdir()) == []
    assert (device.cache / "somebody-elses").exists()
    assert Path(sys.executable).exists(), "links are not followed"
    assert care.clean(session, name="pi5").removed == {}


def test_a_prepared_device_is_not_cleaned(session: Session, device: SyntheticDevice) -> None:
    prepare(session, device)
    with pytest.raises(TargetError, match=r"it is prepared(.|\n)*edgekd device restore pi5"):
        care.clean(session, name="pi5")
    restore(session, device)
    assert device.settings() == BEFORE
    care.clean(session, name="pi5")


def test_both_scripts_mean_the_same_file() -> None:
    assert sweep.STATE == clocks.STATE


# --- asking -------------------------------------------------------------------------------------------------


def test_a_device_whose_python_is_too_old_is_told_what_to_do(
    session: Session, device: SyntheticDevice
) -> None:
    session.python = ("sh", str(device.tool("old", 'echo \'{"edgekd": 1, "too_old": "3.6.9"}\'')))
    with pytest.raises(TargetError, match=r"its Python is 3\.6\.9; 3\.8 or newer(.|\n)*python"):
        prepare(session, device)


def test_a_chatty_login_shell_is_read_over(session: Session, device: SyntheticDevice) -> None:
    shell = device.tool("chatty", f'echo welcome; echo "{{}}"; exec {sys.executable} "$@"')
    session.python = (str(shell),)
    assert prepare(session, device).problems == ()


def test_an_answer_that_is_none_says_what_was_last_said(session: Session, device: SyntheticDevice) -> None:
    session.python = (str(device.tool("broken", "echo out of memory >&2; exit 3")),)
    with pytest.raises(TargetError, match="gave no answer there, exit code 3; its last words: out of memory"):
        prepare(session, device)


def test_the_state_holds_nothing_but_settings(session: Session, device: SyntheticDevice) -> None:
    prepare(session, device)
    state = json.loads(device.state.read_text())
    assert set(state) == {"version", "saved_at", "files", "power_mode", "jetson_clocks"}


SCRIPTS = sorted(Path(clocks.__file__).parent.glob("[a-z]*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_runs_where_there_is_only_python_3_8(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    foreign = {name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names}
    assert foreign <= {"edgekd.targets.traces"}, "nothing else is sent"


def another_python(version: str) -> str:
    """A real Python of that version on this machine."""
    candidates = [
        shutil.which(f"python{version}"),
        *Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"),
    ]
    for path in filter(None, candidates):
        try:
            done = subprocess.run([path, "-c", "print(1)"], capture_output=True, timeout=20, check=False)
        except OSError:
            continue
        if done.stdout == b"1\n":
            return str(path)
    pytest.skip(f"there is no Python {version} on this machine")


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.13"])
def test_it_runs_under_a_real_python(session: Session, device: SyntheticDevice, version: str) -> None:
    session.python = (another_python(version),)
    device.make_jetson()
    assert prepare(session, device, "MAXN").problems == ()
    assert restore(session, device).problems == ()
    assert device.settings() == [*BEFORE, "1", "dynamic"]
    assert care.clean(session, name="pi5").problems == ()


@pytest.mark.parametrize("version", ["3.6", "3.7"])
def test_an_older_python_is_refused_by_its_version(
    session: Session, device: SyntheticDevice, version: str
) -> None:
    session.python = (another_python(version),)
    with pytest.raises(TargetError, match=rf"its Python is {version}\.\d+; 3\.8 or newer"):
        prepare(session, device)
