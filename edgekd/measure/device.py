"""One open target with the agent on it: the only place where a backend's runtime meets a target."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.digest import of_file
from edgekd.core.errors import AbsentRuntimeError, DataError, EdgekdError, ModelError, TargetError
from edgekd.core.preprocess import Preprocess
from edgekd.measure import agent
from edgekd.targets.target import Finished, Session, Target

_GRACE_S = 20.0
"""How much longer the host waits than the agent's own deadline, which kills it even inside native code."""
_TAIL_CHARACTERS = 2000
_TIMEOUT = b"Timeout ("
"""What Python's faulthandler says first when the agent's own deadline ends it."""
_HOME = Path(agent.__file__).parent
_RUNTIME = "runtime_"
"""What the module of a backend's runtime is called on the device, before the backend's name."""
_ALWAYS = ("agent_facts.py", "agent_sensors.py")
"""Files that the agent is never without."""
_UNTIMED = ("facts", "accuracy")
"""Modes that others on the machine do not spoil; all others have it to themselves."""
_ERRORS: dict[str, type[EdgekdError]] = {
    "artifact": ModelError,
    "data": DataError,
    "absent": AbsentRuntimeError,
}


class Device:
    """Sends requests to the agent on one target. Whatever was pushed stays until the session closes."""

    def __init__(self, target: Target, session: Session) -> None:
        self.target = target
        self._session = session
        self._agent = session.push(_HOME / "agent.py", "agent.py")
        self._modules: set[str] = set()
        self._pushed: dict[tuple[str, str], str] = {}
        for name in _ALWAYS:
            self._push_module(_HOME / name, name)

    def artifact(
        self,
        name: str,
        path: Path,
        *,
        backend: str = "onnx",
        images: Path | None = None,
        preprocess: Preprocess | None = None,
    ) -> dict[str, Any]:
        """The request's entry for the graph at `path`, after pushing it, its runtime and its images.

        Raises `ModelError` when there is no such file.
        """
        digest, described = _digest(path), BACKENDS.load(backend)
        _, *others = described.files_of(path)
        # Under the name of the file that they belong to, whose digest stands for theirs.
        digests = [_digest(other) for other in others]
        beside = [self._push_once(other, digest, other.name[len(path.stem) :]) for other in others]
        return {
            "name": name,
            "path": self._push_once(path, digest, path.suffix),
            "sha256": digest,
            "beside": dict(zip(beside, digests, strict=True)),
            "runtime": self.runtime(backend),
            "opening_s": described.opening_s,
            "images": None if images is None else self._push_once(images, _digest(images), ".npy"),
            "preprocess": None if preprocess is None else preprocess.model_dump(mode="json"),
        }

    def baseline(self, backend: str) -> dict[str, Any]:
        """The entry of the backend's graph of one node."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"baseline{BACKENDS.load(backend).suffix}")
            path.write_bytes(BACKENDS.load(backend).baseline_graph())
            return self.artifact("baseline", path, backend=backend)

    def call(
        self,
        mode: str,
        artifacts: Sequence[Mapping[str, Any]] = (),
        *,
        deadline_s: float = 600.0,
        **fields: Any,
    ) -> dict[str, Any]:
        """One fresh process of the agent; its answer: `facts`, `versions`, `result`.

        Raises `ModelError` for a graph and `DataError` for images that the agent refuses,
        `AbsentRuntimeError` where the backend cannot run, `TargetError` when the agent dies, answers nothing
        readable or takes longer than `deadline_s` and what the backends of `artifacts` need to open them.
        """
        deadline_s += sum(artifact.get("opening_s", 0.0) for artifact in artifacts)
        further = _HOME / f"agent_{mode}.py"
        if further.is_file():
            self._push_module(further, further.name)
        request = {
            "version": agent.VERSION,
            "mode": mode,
            "threads": self.target.threads,
            "cores": self.target.cores,
            "options": self.target.options,
            "batch": 1,
            "deadline_s": deadline_s,
            "artifacts": list(artifacts),
            "lifeline": getattr(self._session, "lifeline", False),
            **fields,
        }
        with nullcontext() if mode in _UNTIMED else self._session.undisturbed():
            finished = self._session.run(
                [*self._session.python, self._agent],
                stdin=json.dumps(request, allow_nan=False).encode() + b"\n",
                timeout_s=deadline_s + _GRACE_S,
                env={"ORT_DISABLE_TELEMETRY": "1"},
            )
        return self._of_proven_runtimes(self._answer(finished, deadline_s), artifacts)

    def _of_proven_runtimes(
        self, answer: dict[str, Any], artifacts: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The answer, a runtime that is out of its backend's range being as one that is absent.

        Raises `AbsentRuntimeError` where one of `artifacts` ran in it.
        """
        told = answer["versions"]
        unproven = {runtime: _out_of_range(runtime, told[runtime]) for runtime in told}
        unproven = {runtime: reason for runtime, reason in unproven.items() if reason}
        for artifact in artifacts:
            if artifact["runtime"] in unproven:
                raise AbsentRuntimeError(unproven[artifact["runtime"]], where=self.target.name)
        kept = {runtime: versions for runtime, versions in told.items() if runtime not in unproven}
        return {**answer, "versions": kept, "absent": {**answer.get("absent", {}), **unproven}}

    def pull(self, remote: str, local: Path) -> None:
        """Fetch a file that the agent wrote; raises `TargetError`."""
        self._session.pull(remote, local)

    def push(self, local: Path, name: str) -> str:
        """Copy any other file; returns its path there."""
        return self._session.push(local, name)

    def forget(self, remote: str) -> None:
        """The agent was told to `remove` a file: it is pushed anew when it is needed again."""
        self._pushed = {key: path for key, path in self._pushed.items() if path != remote}

    def _push_module(self, path: Path, name: str) -> None:
        if name not in self._modules:
            self._session.push(path, name)
            self._modules.add(name)

    def _push_once(self, path: Path, digest: str, suffix: str) -> str:
        """A path that may not be trusted names nothing on the device: files are called by their digest."""
        key = (digest, suffix)
        if key not in self._pushed:
            self._pushed[key] = self._session.push(path, f"{digest[:24]}{suffix}")
        return self._pushed[key]

    def runtime(self, backend: str) -> str:
        """The module name of the backend's runtime on the device, after pushing it."""
        name, described = f"{_RUNTIME}{backend}", BACKENDS.load(backend)
        for part in described.runtime_parts:
            self._push_module(part, part.name)
        self._push_module(described.runtime, f"{name}.py")
        return name

    def _answer(self, finished: Finished, deadline_s: float) -> dict[str, Any]:
        line = read_line(finished.stdout)
        if line is None and finished.code == 1 and _TIMEOUT in finished.stderr:
            raise TargetError(
                f"the agent ended itself, its deadline of {deadline_s:g} s is over; {_ending(finished)}",
                where=self.target.name,
            )
        if line is None or line.get("agent") != agent.VERSION:
            raise TargetError(f"the agent gave no answer, {_ending(finished)}", where=self.target.name)
        if line["ok"] and finished.code == 0:
            return line
        error = line.get("error") or {"kind": "internal", "message": _ending(finished)}
        raise _ERRORS.get(error["kind"], TargetError)(error["message"], where=self.target.name)


def _out_of_range(runtime: str, versions: Mapping[str, str]) -> str:
    """What of a runtime's versions its backend was not proven with, in one line; empty for nothing."""
    return "; ".join(BACKENDS.load(runtime[len(_RUNTIME) :]).out_of_range(versions))


def read_line(stdout: bytes) -> dict[str, Any] | None:
    """The agent's one line among whatever a login shell printed beside it; None if not exactly one."""
    found = []
    for text in stdout.splitlines():
        try:
            value = json.loads(text)
        except ValueError:
            continue
        if isinstance(value, dict) and "agent" in value and isinstance(value.get("ok"), bool):
            found.append(value)
    return found[0] if len(found) == 1 else None


def _ending(finished: Finished) -> str:
    how = f"killed by signal {-finished.code}" if finished.code < 0 else f"exit code {finished.code}"
    tail = finished.stderr.decode(errors="replace").strip()[-_TAIL_CHARACTERS:]
    return f"{how}; its last words: {tail or '(none)'}"


def _digest(path: Path) -> str:
    try:
        return of_file(path)
    except OSError as error:
        raise ModelError(f"cannot read: {error.strerror or error}", where=str(path)) from error


@contextmanager
def open_device(target: Target) -> Iterator[Device]:
    """A device ready for requests; on leaving, nothing stays on the target. Raises `TargetError`."""
    with target.session() as session:
        yield Device(target, session)


def wrong_device(target: Target, facts: Mapping[str, Any]) -> list[str]:
    """What the target's `expect` demands and the device does not report."""
    return [
        f"wrong device: `{name}` should contain `{wanted}`, is `{facts.get(name)}`"
        for name, wanted in target.expect.items()
        if wanted.lower() not in str(facts.get(name)).lower()
    ]
