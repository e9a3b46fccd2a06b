"""The whole route of a real run: made here, measured and judged by processes that cannot import torch."""

from __future__ import annotations

import getpass
import json
import shutil
import socket
from pathlib import Path

import pytest

from edgekd.core.measurement import Measurement, read_measurements, write_measurements
from edgekd.core.run_record import MEASUREMENTS
from edgekd.core.verdict import Verdict
from edgekd.pipeline.rejudge import rejudge
from tests.pipeline.conftest import TINY, Finished, TinyRun, edgekd
from tests.pipeline.test_without_torch import BLOCK

pytestmark = pytest.mark.timeout(400)

OF_IMAGES = ("accuracy", "accuracy_drop", "new_errors", "agreement", "macro_recall", "size_bytes")


@pytest.fixture(scope="module")
def trained(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """The training machine's folder, with the bundle `out`; every step is in its store already."""
    root = tmp_path_factory.mktemp("trained")
    shutil.copytree(tiny_run.root, root, symlinks=True, dirs_exist_ok=True)
    done = edgekd("run", "tiny.yaml", "--threads", "1", "--until", "export", "--bundle", "out", cwd=root)
    assert done.code == 0, done.err
    return root, done


@pytest.fixture(scope="module")
def elsewhere(trained: tuple[Path, Finished], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The measuring machine's folder: it has the bundle, and nothing else of the training machine."""
    place = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(trained[0] / "out", place / "out")
    done = edgekd("measure", "out", "--target", "local", cwd=place, wrapper=BLOCK)
    assert done.code == 0, done.err
    return place


@pytest.fixture
def judge(elsewhere: Path, tmp_path: Path) -> Path:
    """The judging machine's folder."""
    shutil.copytree(elsewhere / "out", tmp_path / "out")
    return tmp_path


def test_the_closing_lines_say_how_large_it_is_and_what_is_next(trained: tuple[Path, Finished]) -> None:
    lines = trained[1].out.splitlines()
    assert lines[1].startswith("bundle: out (")
    assert "MB: 5 artifacts, 719 test images)" in lines[1]
    assert lines[2] == "next: edgekd measure out --target local"


def test_nothing_in_it_tells_of_the_training_machine(trained: tuple[Path, Finished]) -> None:
    root, _ = trained
    texts = [path for path in (root / "out").rglob("*") if path.suffix in (".json", ".jsonl", ".yaml")]
    telling = [str(root), str(Path.home()), str(Path(__file__).parents[3])]
    telling += [word for word in (socket.gethostname(), getpass.getuser()) if len(word) > 5]
    assert len(texts) > 8
    for path in texts:
        assert [word for word in telling if word in path.read_text()] == [], path.name


def test_it_is_judged_without_torch_as_in_one_place(judge: Path, tiny_run: TinyRun) -> None:
    done = edgekd("gate", "out", "--json", cwd=judge, wrapper=BLOCK)
    assert done.code == tiny_run.first.code, done.err
    found = Verdict.model_validate_json(done.out)
    assert (
        found.outcome == Verdict.model_validate_json((tiny_run.folder / "verdict.json").read_bytes()).outcome
    )


def test_the_answers_are_those_of_the_run_in_one_place(judge: Path, tiny_run: TinyRun) -> None:
    def answers(folder: Path) -> dict[tuple[str, str, str | None], float | None]:
        found: list[Measurement] = read_measurements(folder / MEASUREMENTS)
        return {
            (m.quantity, m.subject.name, m.against.name if m.against else None): m.value
            for m in found
            if m.quantity in OF_IMAGES
        }

    (session,) = (judge / "out" / "measurements").iterdir()
    assert answers(session) == answers(tiny_run.folder)


@pytest.mark.parametrize(
    "change", ["accuracy_drop=1pt", "speedup=1.5x", "latency_p90=1ms", "host_agreement=99%"]
)
def test_any_gate_judges_it_as_a_run_in_one_place_with_the_same_measurements(
    judge: Path, tiny_run: TinyRun, tmp_path: Path, change: str
) -> None:
    edgekd("gate", "out", cwd=judge, wrapper=BLOCK)
    one_place = tmp_path / "root"
    shutil.copytree(tiny_run.root, one_place, symlinks=True)
    (run,) = (one_place / ".edgekd" / "runs" / "tiny").iterdir()
    write_measurements(run / MEASUREMENTS, read_measurements(judge / "out" / MEASUREMENTS))
    here, there = (rejudge(folder, [f"gate.{change}"]) for folder in (run, judge / "out"))
    assert [one.model_copy(update={"decide": None}) for one in here.results] == [
        one.model_copy(update={"decide": None}) for one in there.results
    ]


def test_the_report_is_written_without_torch(judge: Path) -> None:
    done = edgekd("report", "out", "--out", "report", cwd=judge, wrapper=BLOCK)
    assert done.code == 0, done.err
    report = json.loads((judge / "report" / "report.json").read_text())
    assert report["outcome"] in ("pass", "fail", "inconclusive")
    assert len(report["targets"][0]["rows"]) == 5


def test_before_anything_is_measured_the_gate_is_open_and_says_what_to_do(
    trained: tuple[Path, Finished], tmp_path: Path
) -> None:
    shutil.copytree(trained[0] / "out", tmp_path / "out")
    done = edgekd("gate", "out", cwd=tmp_path, wrapper=BLOCK)
    assert done.code == 3, done.err
    assert "`edgekd measure out --target local`" in done.out


def test_a_spoiled_bundle_ends_every_command_with_2(judge: Path) -> None:
    lock = judge / "out" / "recipe.lock.yaml"
    lock.write_text(lock.read_text().replace("90pt", "99pt"))
    for command in ("measure", "gate", "report", "verify", "bundle", "show"):
        done = edgekd(command, "out", cwd=judge, wrapper=BLOCK)
        assert done.code == 2, (command, done.err)
        assert "changed since it was bundled: recipe.lock.yaml" in done.err
        assert "Traceback" not in done.err


def test_verify_says_where_it_was_measured(judge: Path) -> None:
    done = edgekd("verify", "out", cwd=judge, wrapper=BLOCK)
    assert done.code == 0, done.err
    assert done.out.endswith("files match; measured on local\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bundle", "out2"], "--until export --bundle out2"),
        (["--until", "distill", "--bundle", "out2"], "--until export --bundle out2"),
        (["--until", "export", "--bundle", "taken"], "the folder exists already"),
    ],
)
def test_what_cannot_be_bundled_is_refused_before_anything_is_made(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "taken").mkdir()
    done = edgekd("run", "tiny.yaml", *arguments, cwd=tmp_path)
    assert done.code == 2
    assert words in done.err
    assert list((tmp_path / ".edgekd" / "runs").rglob("*")) == [] if (tmp_path / ".edgekd").exists() else True
