"""Sessions of a portable run: each in a folder of its own, so that copying folders together is the merge.

    measurements/TARGET-DIGEST/
      measured.json          of which run, on which target, the sha256 of every file; measured.sha256: its own
      measurements.jsonl     as in any run, with its seal
      session/TARGET/        logits and raw samples

DIGEST is that of measured.json: the same session brought twice is one, and two that differ never meet.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd.core.digest import files_below, of_data, of_files
from edgekd.core.errors import UsageError
from edgekd.core.measurement import SEAL, Measurement, read_sealed
from edgekd.core.run_record import MEASUREMENTS, SESSION
from edgekd.pipeline.portable.folder import SESSIONS, PortableRun
from edgekd.pipeline.sealed_folder import FileList, differences, making_folder, read_list, write_list
from edgekd.pipeline.session import RELEASE, STATE

MEASURED = "measured.json"
SCHEMA_VERSION = 1
_SEAL = "measured.sha256"
_FIX = "bring this folder over again, whole, or remove it and measure there again"


class SessionList(FileList):
    """`measured.json`."""

    run: str
    """`PortableRun.identity` of what was measured."""
    target: str
    key: str
    """What the numbers depend on (`edgekd.pipeline.session.Order`)."""


@dataclass(frozen=True)
class SealedSession:
    """A session read from its folder, whole and of the right run."""

    folder: Path
    content: SessionList
    measurements: Sequence[Measurement]

    @property
    def target(self) -> str:
        return self.content.target

    @property
    def digest(self) -> str:
        return _digest(self.content)


def add_session(portable: PortableRun, work: Path, target: str, key: str) -> Path:
    """Seal what a session left in `work` and put it into the run, in place of earlier ones on this target.

    Killed on the way, an earlier one may stay beside the new one; the same call removes it.
    """
    files = of_files(work, files_below(work))
    content = SessionList(run=portable.identity, target=target, key=key, files=files)
    earlier = [one.folder for one in read_sessions(portable) if one.target == target]
    folder = portable.folder / SESSIONS / f"{target}-{_digest(content)[:12]}"
    with making_folder(folder) as temporary:
        shutil.copytree(work, temporary, dirs_exist_ok=True)
        write_list(temporary, MEASURED, content)
    for path in earlier:
        if path != folder:
            shutil.rmtree(path)
    return folder


def read_sessions(portable: PortableRun) -> list[SealedSession]:
    """Every distinct session, by target. Raises `UsageError` naming what was changed or cut short, what is no
    session, and what was measured of another run."""
    found = {one.digest: one for one in _sessions(portable)}
    return sorted(found.values(), key=lambda one: (one.target, one.folder.name))


def one_a_target(sessions: Sequence[SealedSession]) -> None:
    """Raises `UsageError` for a target whose sessions differ: no number chooses which of them counts."""
    for target in {one.target for one in sessions}:
        names = [str(one.folder) for one in sessions if one.target == target]
        if len(names) > 1:
            raise UsageError(
                f"`{target}` was measured {len(names)} times, and the sessions differ: {', '.join(names)}",
                fix="keep one of these folders and remove the others, or measure there again",
            )


def _sessions(portable: PortableRun) -> Iterator[SealedSession]:
    folder = portable.folder / SESSIONS
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.name.startswith("."):  # one that was killed while it was written
            yield _read(portable, path)


def _read(portable: PortableRun, folder: Path) -> SealedSession:
    content = read_list(folder / MEASURED, SessionList, SCHEMA_VERSION, _FIX)
    if content.run != portable.identity:
        raise UsageError(
            "was measured of another run: another recipe, other artifacts or other images",
            where=str(folder),
            fix=f"remove it; `{portable.measure_command} --target {content.target}` measures this one",
        )
    problems = differences(folder, content.files, of="session", allowed={MEASURED, _SEAL}.__contains__)
    if problems:
        raise UsageError("; ".join(problems), where=str(folder), fix=_FIX)
    measurements = read_sealed(folder / MEASUREMENTS)
    _check(portable, content, measurements, folder)
    return SealedSession(folder, content, measurements)


def _check(
    portable: PortableRun, content: SessionList, measurements: Sequence[Measurement], folder: Path
) -> None:
    """That it says of itself what it holds: a target that names a folder, and measurements on it alone."""
    name, rows = content.target, {*(row.name for row in portable.record.rows), RELEASE}
    if Path(name).name != name or name.startswith("."):
        raise UsageError(f"`{name}` is no target's name", where=str(folder / MEASURED), fix=_FIX)
    plain = {MEASUREMENTS, SEAL, f"{SESSION}/{STATE}"}
    strays = any(f not in plain and not f.startswith(f"{SESSION}/{name}/") for f in content.files)
    if strays or any(m.target != name or m.subject.name not in rows for m in measurements):
        raise UsageError(f"holds more than a session on `{name}`", where=str(folder), fix=_FIX)


def _digest(content: SessionList) -> str:
    return of_data(content.model_dump(mode="json"))
