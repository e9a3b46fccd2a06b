"""A portable run: made on one machine, measured on others, judged on a third. This is its folder.

    portable.json        the run's record and the sha256 of every file below; portable.sha256: its own
    recipe.lock.yaml     the recipe with every default, its gate among it
    events.jsonl         what the steps told
    steps/NN-name/       the graph of every row, as the store has it
    evalsets/DIGEST/     images.npy (uint8), labels.npy
    host/                what the machine that made the graphs answers with them: ROW.logits.npy
    release/             the bundle that the gate compares with, if it does
    measurements/        one folder for each session: `edgekd.pipeline.portable.sessions`

Whoever judges it finds beside these what any run has (record.json, measurements.jsonl, session/,
verdict.json, report/): `edgekd.pipeline.portable.gathering` writes it anew from what is above.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgekd.backends.tensorrt.kit_record import KITS
from edgekd.core.artifact import Artifact
from edgekd.core.digest import of_data
from edgekd.core.errors import UsageError
from edgekd.core.measurement import SEAL
from edgekd.core.run_record import EVENTS, MEASUREMENTS, RECORD, SESSION, VERDICT, RunRecord
from edgekd.measure.reference import HOST
from edgekd.pipeline.sealed_folder import FileList, check_inside, differences, read_list

PORTABLE = "portable.json"
_SEAL = "portable.sha256"
SCHEMA_VERSION = 1
SESSIONS = "measurements"
RELEASE_FOLDER = "release"
_WRITTEN_BY_JUDGES = (RECORD, MEASUREMENTS, SEAL, VERDICT)
_FOLDERS_OF_OTHERS = (SESSIONS, SESSION, "report", "against", KITS)
_FIX = "bring the folder over again, whole, or make it again: `edgekd run RECIPE --until export --bundle OUT`"


class PortableList(FileList):
    """`portable.json`."""

    record: RunRecord


@dataclass(frozen=True)
class PortableRun:
    """A portable run read from its folder."""

    folder: Path
    content: PortableList

    @property
    def record(self) -> RunRecord:
        return self.content.record

    @cached_property
    def identity(self) -> str:
        """What a session of it depends on: made again from the same artifacts, it is the same."""
        about = {name: digest for name, digest in self.content.files.items() if _counts(name)}
        record = self.record.model_dump(mode="json", include={"rows", "final", "labels", "seed", "targets"})
        return of_data({"files": about, "record": record})

    @property
    def reference(self) -> Path:
        return self.folder / HOST

    @property
    def release(self) -> str | None:
        """Folder of the bundle that the gate compares with."""
        inside = any(name.startswith(f"{RELEASE_FOLDER}/") for name in self.content.files)
        return str(self.folder / RELEASE_FOLDER) if inside else None

    @property
    def num_images(self) -> int:
        """Test images that the artifact which ships is measured on."""
        row = next(row for row in self.record.rows if row.name == self.record.final)
        return int(Artifact.read(self.folder / row.evalset).facts["num_images"])

    @property
    def size_bytes(self) -> int:
        return sum((self.folder / name).stat().st_size for name in self.content.files)

    @property
    def measure_command(self) -> str:
        return f"edgekd measure {self.folder.name}"

    def verify(self) -> None:
        """Recompute every digest but those of sessions; raises `UsageError` naming each file that differs."""
        problems = differences(self.folder, self.content.files, of="portable run", allowed=_is_no_part)
        if problems:
            raise UsageError("; ".join(problems), where=str(self.folder), fix=_FIX)


def find_portable(name: str | Path | None) -> PortableRun | None:
    """The portable run in a folder, or None where there is none. Raises `UsageError` for a broken one."""
    if name is None or not (Path(name) / PORTABLE).is_file():
        return None
    path = Path(name) / PORTABLE
    content = read_list(path, PortableList, SCHEMA_VERSION, _FIX)
    steps = {step.name: step.folder or "" for step in content.record.steps}
    for row in content.record.rows:
        check_inside(row.evalset, path)
        check_inside(steps.get(row.graph_step, ""), path)
    return PortableRun(Path(name), content)


def _counts(name: str) -> bool:
    return name != EVENTS and not name.startswith(f"{HOST}/")


def _is_no_part(name: str) -> bool:
    """The list itself, which was compared on reading, and what is written after it."""
    return name in (PORTABLE, _SEAL, *_WRITTEN_BY_JUDGES) or name.split("/")[0] in _FOLDERS_OF_OTHERS
