"""Brings the sessions of a portable run together, in the form of any other run, and judges them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekd.core.durable import disk_error
from edgekd.core.errors import UsageError
from edgekd.core.measurement import Measurement, is_sealed, read_measurements, write_measurements
from edgekd.core.run_record import MEASUREMENTS, SESSION, RunRecord
from edgekd.pipeline.portable.folder import PortableRun, find_portable
from edgekd.pipeline.portable.sessions import SealedSession, one_a_target, read_sessions
from edgekd.pipeline.rejudge import rejudge
from edgekd.pipeline.run_folder import RunFolder, find_run, read_record
from edgekd.pipeline.session import not_measured
from edgekd.store.store import Store

_GATHERED = "sessions"
"""Key of a record's provenance: target -> digest of the session that its measurements are from."""


def open_run(store: Store, name: str | None) -> Path:
    """A run's folder as `find_run` finds it; a portable run's with all its sessions gathered and judged."""
    portable = find_portable(name)
    if portable is None:
        return find_run(store, name)
    gather(portable)
    return portable.folder


def gather(portable: PortableRun) -> None:
    """Check everything, and write the run that its sessions make, with the verdict as of now.

    A session that is gathered already stays as it is: further processes may have been pooled with it.
    Raises `UsageError`, and changes nothing, for whatever was changed, cut short, or contradicts.
    """
    portable.verify()
    sessions = read_sessions(portable)
    one_a_target(sessions)
    try:
        _write_measurements(portable.folder, sessions, _gathered(portable.folder))
        RunFolder(portable.folder).write_record(_record(portable, sessions))
    except OSError as error:
        raise disk_error(portable.folder, error) from error
    rejudge(portable.folder)


def _gathered(folder: Path) -> Mapping[str, str]:
    """What `_GATHERED` says, as long as the measurements are as they were written."""
    try:
        found = read_record(folder).provenance.get(_GATHERED, {})
    except UsageError:
        return {}
    return found if isinstance(found, dict) and is_sealed(folder / MEASUREMENTS) else {}


def _write_measurements(folder: Path, sessions: Sequence[SealedSession], before: Mapping[str, str]) -> None:
    """Raw samples first: killed between, all of it is gathered again."""
    here = {one.target for one in sessions if before.get(one.target) == one.digest}
    known = read_measurements(folder / MEASUREMENTS) if here else []
    found: list[Measurement] = []
    for one in sessions:
        if one.target in here:
            found += [m for m in known if m.target == one.target]
            continue
        raw, sealed = folder / SESSION / one.target, one.folder / SESSION / one.target
        shutil.rmtree(raw, ignore_errors=True)
        if sealed.is_dir():
            shutil.copytree(sealed, raw)
        found += one.measurements
    write_measurements(folder / MEASUREMENTS, found)


def _record(portable: PortableRun, sessions: Sequence[SealedSession]) -> RunRecord:
    """The run's record with what was measured where and when."""
    own = portable.record
    measurements = [m for one in sessions for m in one.measurements]
    last = max((m.taken_at for m in measurements), default=own.started_at)
    return own.model_copy(
        update={
            "targets": tuple(dict.fromkeys([*own.targets, *(one.target for one in sessions)])),
            "finished_at": last,
            "not_measured": not_measured(measurements),
            "provenance": {**own.provenance, _GATHERED: {one.target: one.digest for one in sessions}},
        }
    )
