"""Sets devices up, makes their clocks steady and cleans them: opens the session, and tells what was done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath

from edgekd.backends.catalogue import BACKENDS
from edgekd.pipeline.devices import find, find_remote, set_python
from edgekd.targets import care
from edgekd.targets.devices_file import DEVICES_FILE
from edgekd.targets.remote import RemoteSession, RemoteTarget
from edgekd.targets.target import Session, Target

_PYTHON = "python3"
_OURS = "edgekd/venv/bin/"


@dataclass(frozen=True)
class Done:
    """What was done, and what could not be."""

    lines: list[str]
    problems: list[str]


def set_up_device(name: str, *, base: str, offline: bool, backends: Sequence[str] = ("onnx",)) -> list[str]:
    """Install the backends' runtimes on the device and name its Python in the devices file.

    Raises `UsageError` for an unknown backend, `TargetError`.
    """
    wanted = [BACKENDS.load(name) for name in backends]
    packages = {p: module for one in wanted for p, module in one.device_packages.items()}
    ranges = {p: one.versions[p] for one in wanted for p in one.device_packages if p in one.versions}
    target = find_remote(name).model_copy(update={"python": base})
    with target.open() as session:
        base_python = (session.python[0],)
        found = care.set_up(
            session, name=name, packages=packages, ranges=ranges, base=base_python, offline=offline
        )
        python = _without_home(found.python, session)
    versions = ", ".join(f"{package} {version}" for package, version in found.versions.items())
    installed = (
        f"installed {', '.join(found.installed)} from {found.source}" if found.installed else "all there"
    )
    lines = [f"{installed}: Python {found.python_version}, {versions}", *found.notes]
    if set_python(name, python):
        lines.append(f"{DEVICES_FILE} names its Python now: {python}")
    return lines


def _without_home(python: str, session: RemoteSession) -> str:
    """The devices file is committed, and a home folder tells the user's name."""
    path, home = PurePosixPath(python), PurePosixPath(str(session.about["home"]))
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else python


def prepare_device(name: str, *, power_mode: str | None = None) -> Done:
    """Set the fastest clocks, and remember what they were. Raises `TargetError`."""
    with _session(find(name)) as session:
        return _tended(
            care.prepare(session, name=name, power_mode=power_mode), f"edgekd device restore {name}"
        )


def restore_device(name: str) -> Done:
    """Put back what `prepare_device` changed. Raises `TargetError`."""
    with _session(find(name)) as session:
        return _tended(care.restore(session, name=name), None)


def clean_device(name: str) -> Done:
    """Remove what edgekd keeps on the device. Raises `TargetError` while it is prepared."""
    target = find_remote(name)
    with _session(target) as session:
        cleaned = care.clean(session, name=name)
    lines = [f"removed {what} ({size / 1e6:.1f} MB)" for what, size in cleaned.removed.items()]
    if _OURS in target.python and set_python(name, _PYTHON):
        lines.append(f"{DEVICES_FILE} names `{_PYTHON}` again; `edgekd device setup {name}` for the rest")
    return Done(lines or ["there was nothing to remove"], list(cleaned.problems))


def _tended(tended: care.Tended, undo: str | None) -> Done:
    lines = [f"{change.what}: {change.before} -> {change.after}" for change in tended.changes]
    lines += tended.notes
    if tended.changes and undo:
        lines.append(f"when done: {undo}")
    sudoers = tended.sudoers()
    allow = [f"to allow it: `sudo visudo -f /etc/sudoers.d/edgekd` on the device, with the line\n  {sudoers}"]
    return Done(lines or ["nothing to change"], [*tended.problems, *(allow if sudoers else [])])


@contextmanager
def _session(target: Target) -> Iterator[Session]:
    """By a Python that is no part of what may be missing or removed."""
    if isinstance(target, RemoteTarget) and _OURS in target.python:
        target = target.model_copy(update={"python": _PYTHON})
    with target.session() as session:
        yield session
