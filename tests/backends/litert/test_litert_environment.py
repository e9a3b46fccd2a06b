"""The converter's own Python: found, made whole or not at all, and asked within limits."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from edgekd.backends.litert import conversion, environment
from edgekd.core.errors import ModelError

pytestmark = [pytest.mark.backends, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]


def script(folder: Path, text: str) -> Path:
    """A Python that does `text` instead of running the script it is given."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\n{text}\n")
    path.chmod(0o755)
    return path


def test_without_an_environment_the_command_that_makes_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(environment.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(environment.MissingEnvironmentError, match="edgekd setup litert") as caught:
        environment.python()
    assert caught.value.exit_code == 6
    assert str(tmp_path / "edgekd" / "environments" / "litert") in str(caught.value)


def test_the_variable_comes_first_and_must_name_a_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(environment.MissingEnvironmentError, match=environment.VARIABLE):
        environment.python()
    monkeypatch.setenv(environment.VARIABLE, sys.executable)
    assert environment.python() == Path(sys.executable)


def test_a_python_without_the_converter_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = script(tmp_path, """print('{"litert-torch": "absent"}')""")
    monkeypatch.setenv(environment.VARIABLE, str(lacking))
    with pytest.raises(environment.MissingEnvironmentError, match="lacks litert-torch"):
        environment.versions()


@pytest.mark.slow
def test_an_environment_is_made_under_its_name_when_it_is_whole(tmp_path: Path) -> None:
    told: list[str] = []
    python = environment.make(tmp_path / "here", told.append, pins=("flatbuffers",))
    assert python == tmp_path / "here" / "bin" / "python" and python.is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert any(line.startswith("torch ") and "borrowed" in line for line in told), told
    assert any(line.startswith("Successfully installed flatbuffers") for line in told)


@pytest.mark.slow
def test_what_pip_cannot_install_leaves_the_old_environment(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "old").touch()
    with pytest.raises(environment.MissingEnvironmentError, match="pip install"):
        environment.make(tmp_path / "here", lambda line: None, pins=("flatbuffers==0.0.0.1",))
    assert [path.name for path in tmp_path.rglob("*")] == ["here", "old"]


@pytest.mark.slow
def test_an_interrupted_making_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        if line.startswith("Installing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        environment.make(tmp_path / "here", interrupt, pins=("flatbuffers",))
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_making_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".here.999999999.tmp").mkdir()
    (tmp_path / f".here.{os.getpid()}.tmp").mkdir()
    environment._sweep(tmp_path / "here")
    assert [path.name for path in tmp_path.iterdir()] == [f".here.{os.getpid()}.tmp"]


# --- conversions that do not end well -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import sys; sys.exit('no memory for that')", "ended with 1 and without an answer: no memory"),
        ("import os; os.kill(os.getpid(), 9)", "was ended by signal 9"),
        ("print('{}'); print('{}')", "without an answer"),
        ("print('[1]')", "without an answer"),
        ("""print('{"ok": false, "message": "shapes"}')""", "refuses the network: shapes"),
    ],
)
def test_an_ending_without_a_sound_answer_is_a_model_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setenv(environment.VARIABLE, str(script(tmp_path, text)))
    with pytest.raises(ModelError, match=message):
        conversion.convert({}, tmp_path)


def test_a_python_that_cannot_import_the_converter_is_a_missing_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = """print('{"ok": false, "missing": "jax", "message": ""}')"""
    monkeypatch.setenv(environment.VARIABLE, str(script(tmp_path, answer)))
    with pytest.raises(environment.MissingEnvironmentError, match="cannot import `jax`"):
        conversion.convert({}, tmp_path)


def test_time_is_limited_and_nothing_is_left_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import os, subprocess, time; open('pids', 'w').write(str(os.getpid())); time.sleep(100)"
    monkeypatch.setenv(environment.VARIABLE, str(script(tmp_path, text)))
    with pytest.raises(ModelError, match="longer than 3 seconds"):
        conversion.convert({}, tmp_path, time_limit_s=3)
    assert not Path("/proc", (tmp_path / "pids").read_text()).exists()


@pytest.mark.slow
def test_a_kill_of_the_converter_mid_way_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real converter, killed while it converts a real network."""
    pytest.importorskip("ai_edge_litert", reason="needs `pip install 'edgekd[litert]'`")
    from edgekd.backends.source import Source
    from tests.backends.executorch.networks import SHAPE, network
    from tests.backends.litert.writing import need_environment, write

    need_environment()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "out").mkdir()
    killer = threading.Thread(target=_kill_converter, args=(tmp_path / "temporary",))
    killer.start()
    with pytest.raises(ModelError, match="signal 9"):
        write(tmp_path / "out", Source(network(), SHAPE))
    killer.join()
    assert list((tmp_path / "out").iterdir()) == list((tmp_path / "temporary").iterdir()) == []


def _kill_converter(folder: Path) -> None:
    """As soon as the process works in a folder below `folder`, and two seconds more."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if (process / "cwd").resolve().is_relative_to(folder):
                    time.sleep(2)
                    os.kill(int(process.name), signal.SIGKILL)
                    return
            except OSError:
                continue
        time.sleep(0.1)
