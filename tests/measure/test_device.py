"""What the host makes of an agent that dies, hangs or is talked over."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgekd.core.errors import TargetError
from edgekd.measure.device import open_device, read_line, wrong_device
from edgekd.targets.local import LocalSession, LocalTarget
from edgekd.targets.target import Finished, Session

LINE = json.dumps({"agent": 1, "ok": True, "facts": {}}).encode()


def test_the_line_is_found_among_noise() -> None:
    noise = b'Welcome to Debian\n[1, 2]\n{"motd": true}\n\xff\xfe\n'
    assert read_line(noise + LINE + b"\nbye\n") == {"agent": 1, "ok": True, "facts": {}}


@pytest.mark.parametrize("stdout", [b"", b"\n\n", LINE[:-3], LINE + b"\n" + LINE, b'{"agent": 1}'])
def test_no_line_or_more_than_one_is_no_answer(stdout: bytes) -> None:
    assert read_line(stdout) is None


class _Wrapped(LocalTarget):
    """This machine, with another command in the agent's place."""

    program: str

    @contextmanager
    def session(self) -> Iterator[Session]:
        with super().session() as inner:
            assert isinstance(inner, LocalSession)
            yield _WrappedSession(self.name, inner.folder, self.program)


class _WrappedSession(LocalSession):
    def __init__(self, target: str, folder: Path, program: str) -> None:
        super().__init__(target, folder)
        self._program = program

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float,
        env: Mapping[str, str] | None = None,
    ) -> Finished:
        return super().run(["/bin/sh", "-c", self._program], stdin=stdin, timeout_s=timeout_s, env=env)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("echo last words >&2; kill -9 $$", "killed by signal 9; its last words: last words"),
        ("echo broken >&2; exit 7", "exit code 7; its last words: broken"),
        ("exit 0", "gave no answer"),
        (f"echo '{LINE.decode()}'; exit 9", "exit code 9"),
        ("""echo '{"agent": 2, "ok": true}'""", "gave no answer"),
    ],
)
def test_an_agent_that_dies_is_a_lost_target_with_its_last_words(program: str, message: str) -> None:
    with open_device(_Wrapped(name="box", program=program)) as device:
        with pytest.raises(TargetError, match=message) as raised:
            device.call("facts")
        assert raised.value.exit_code == 4
        assert "box" in str(raised.value)


def test_an_agent_that_hangs_is_killed_and_its_last_words_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd.measure.device._GRACE_S", 0.0)
    target = _Wrapped(name="box", program="echo stuck >&2; sleep 60")
    with open_device(target) as device, pytest.raises(TargetError, match=r"within 0 s.*stuck"):
        device.call("facts", deadline_s=0.3)


def test_a_folder_that_vanishes_is_a_lost_target(graph: Path) -> None:
    import shutil

    with LocalTarget(name="local").session() as session:
        assert isinstance(session, LocalSession)
        shutil.rmtree(session.folder)
        with pytest.raises(TargetError):
            session.push(graph)
        with pytest.raises(TargetError):
            session.run(["true"], timeout_s=5)


def test_expected_facts_are_compared_without_regard_to_case() -> None:
    target = LocalTarget(name="pi5", expect={"cpu": "cortex-a76", "machine": "aarch64"})
    assert wrong_device(target, {"cpu": "ARM Cortex-A76 r4p1", "machine": "aarch64"}) == []
    (problem,) = wrong_device(target, {"cpu": "ARM Cortex-A76", "machine": "x86_64"})
    assert "machine" in problem
    assert len(wrong_device(target, {})) == 2
