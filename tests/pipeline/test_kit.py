"""TensorRT's kit of a run, around a stand-in of trtexec: out, back, into the run and its report."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.backends.tensorrt import kit_check
from edgekd.core.digest import of_file
from edgekd.core.errors import DataError, UsageError
from edgekd.pipeline.kit import StoredKit, read, write
from edgekd.pipeline.portable.folder import PortableRun, find_portable
from edgekd.pipeline.portable.gathering import gather
from edgekd.pipeline.portable.packing import pack
from edgekd.pipeline.run_folder import RunFolder, read_record, step_artifact
from edgekd.report.collect import facts_of
from edgekd.report.render import render
from edgekd.store.store import Store
from tests.cli.running import edgekd
from tests.measure import graphs
from tests.pipeline.small_run import make_run

STAND_IN = Path(__file__).parents[1] / "backends" / "tensorrt" / "stand_in_trtexec.py"
CHECKS = {"linter": "nothing rejected", "tensorrt": "not executed: no GPU"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / ".edgekd")


@pytest.fixture
def run(store: Store, tmp_path: Path) -> Path:
    return run_for_tensorrt(store, tmp_path)


@pytest.fixture(scope="module")
def ran_there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kit of that run with two images, back from its device."""
    work = tmp_path_factory.mktemp("there")
    store = Store(work / ".edgekd")
    kit = write(store, str(run_for_tensorrt(store, work)), work / "kit", row=None, images=2).folder
    assert on_a_device(kit).returncode == 0
    return kit


@pytest.fixture
def back(ran_there: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(ran_there, tmp_path / "kit"))


def run_for_tensorrt(store: Store, work: Path) -> Path:
    """The small run, whose shipped artifact is TensorRT's, beside a second one of another width."""
    folder = make_run(store, work)
    for number, name in enumerate(("teacher", "distilled"), 1):
        for_tensorrt(store, folder, number, name)
    return folder


def for_tensorrt(store: Store, folder: Path, number: int, name: str) -> None:
    record, step = read_record(folder), f"export-{name}"
    work = folder.parent / f"work-{name}"
    shutil.copytree(step_artifact(record, folder, step).folder, work)
    facts = {**step_artifact(record, folder, step).facts, "backend": "tensorrt", "export": {"checks": CHECKS}}
    made = store.commit(step, kind="graph", facts=facts, folder=work, files=["model.onnx"], ingredients={})
    RunFolder(folder).link_step(number, step, made.folder)
    changed = {"digest": made.digest, "facts": facts}
    steps = [one.model_copy(update=changed) if one.name == step else one for one in record.steps]
    RunFolder(folder).write_record(record.model_copy(update={"steps": tuple(steps)}))


def on_a_device(kit: Path, logits: Any = None) -> subprocess.CompletedProcess[str]:
    """`sh run.sh` around the stand-in, which answers as the reference unless told otherwise."""
    beside = kit.parent
    text = STAND_IN.read_text().replace("4 * 3 * 12 * 12", "4 * 3 * 8 * 8")
    (beside / "stand_in.py").write_text(text)
    (beside / "trtexec").write_text(f'#!/bin/sh\nexec {sys.executable} {beside}/stand_in.py "$@"\n')
    (beside / "trtexec").chmod(0o755)
    (beside / "version").write_text("100300")
    answers = kit_check.reference(kit) if logits is None else logits
    (beside / "logits.json").write_text(json.dumps(np.asarray(answers).tolist()))
    environment = {"PATH": "/usr/bin:/bin", "TRTEXEC": str(beside / "trtexec"), "PYTHON": sys.executable}
    return subprocess.run(["sh", "run.sh"], cwd=kit, env=environment, capture_output=True, text=True)


def out_and_back(store: Store, run: Path, out: Path, logits: Any = None) -> StoredKit:
    write(store, str(run), out, row=None, images=5)
    on_a_device(out, logits)
    return read(store, out, str(run))


# --- out ----------------------------------------------------------------------------------------------------


def test_a_kit_holds_what_ships_and_a_few_images_from_the_whole_set(
    store: Store, run: Path, tmp_path: Path
) -> None:
    made = write(store, str(run), tmp_path / "out" / "kit", row=None, images=5)
    assert (made.artifact, made.precision, made.images, made.split) == ("distilled", "fp32", 5, "test")
    record = read_record(run)
    graph = step_artifact(record, run, "export-distilled")
    assert of_file(made.folder / "model.onnx") == of_file(graph.path("model.onnx"))
    pixels = np.load(run / record.rows[0].evalset / "images.npy")
    for number, place in enumerate((0, 15, 30, 44, 59)):
        image = np.fromfile(made.folder / f"image_{number:03}.bin", "<f4").reshape(1, 3, 8, 8)
        np.testing.assert_array_equal(image, graphs.PREPROCESS.apply(pixels[place : place + 1]))


def test_a_kit_holds_no_labels_no_further_image_and_no_place(store: Store, run: Path, tmp_path: Path) -> None:
    folder = write(store, str(run), tmp_path / "kit", row=None, images=2).folder
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("README.md", "SHA256SUMS", "check.py", "image_000.bin", "image_001.bin", "kit.json"),
        *("model.onnx", "reference.npz", "run.sh", "trtexec.py"),
    }
    with np.load(folder / "reference.npz", allow_pickle=False) as arrays:
        assert {name: arrays[name].shape for name in arrays} == {"logits": (2, 4)}
    for path in folder.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name


def test_another_row_is_named(store: Store, run: Path, tmp_path: Path) -> None:
    assert write(store, str(run), tmp_path / "kit", row="teacher", images=1).artifact == "teacher"
    with pytest.raises(UsageError, match=r"`other` is no TensorRT artifact(.|\n)*teacher, distilled"):
        write(store, str(run), tmp_path / "other", row="other", images=1)


def test_several_artifacts_of_which_none_ships_need_a_choice(store: Store, run: Path, tmp_path: Path) -> None:
    RunFolder(run).write_record(read_record(run).model_copy(update={"final": "another"}))
    with pytest.raises(UsageError, match=r"several TensorRT artifacts(.|\n)*--row teacher"):
        write(store, str(run), tmp_path / "kit", row=None, images=1)
    assert not (tmp_path / "kit").exists()


def test_a_run_without_one_says_how_to_get_one(store: Store, tmp_path: Path) -> None:
    folder = make_run(store, tmp_path)
    with pytest.raises(UsageError, match=r"no TensorRT artifact(.|\n)*edgekd export small --backends"):
        write(store, str(folder), tmp_path / "kit", row=None, images=1)


@pytest.mark.parametrize("images", [0, 65, -1])
def test_the_number_of_images_is_bounded(images: int, store: Store, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="1 to 64 images"):
        write(store, str(run), tmp_path / "kit", row=None, images=images)


def test_nothing_is_written_over(store: Store, run: Path, tmp_path: Path) -> None:
    (tmp_path / "kit").mkdir()
    write(store, str(run), tmp_path / "kit", row=None, images=1)
    for taken in (tmp_path / "kit", tmp_path / "kit" / "kit.json"):
        with pytest.raises(UsageError, match="something already"):
            write(store, str(run), taken, row=None, images=1)


def test_an_evaluation_set_that_is_gone_says_which_command_brings_it(
    store: Store, run: Path, tmp_path: Path
) -> None:
    (run / read_record(run).rows[0].evalset).unlink()
    with pytest.raises(UsageError, match=r"cannot be read(.|\n)*edgekd run small"):
        write(store, str(run), tmp_path / "kit", row=None, images=1)
    assert not (tmp_path / "kit").exists()


def test_a_run_that_only_exported_gives_validation_images(store: Store, run: Path, tmp_path: Path) -> None:
    """Its record has no rows, and its recipe names the data."""
    record = read_record(run)
    one = record.steps[1]
    pre = graphs.PREPROCESS.model_dump(mode="json") | {"mean": [0.5], "std": [0.5]}
    work = tmp_path / "gray"
    work.mkdir()
    gray_net(work / "model.onnx")
    facts = {**one.facts, "preprocess": pre}
    made = store.commit("gray", kind="graph", facts=facts, folder=work, files=["model.onnx"], ingredients={})
    RunFolder(run).link_step(2, one.name, made.folder)
    RunFolder(run).write_recipe(DIGITS)
    only = record.model_copy(
        update={
            "rows": (),
            "finished_at": None,
            "steps": (one.model_copy(update={"digest": made.digest, "facts": facts}),),
        }
    )
    RunFolder(run).write_record(only)
    told = write(store, str(run), tmp_path / "kit", row=None, images=3)
    assert (told.artifact, told.split, told.images) == ("export-distilled", "validation", 3)
    found = np.fromfile(tmp_path / "kit" / "image_000.bin", "<f4")
    assert found.shape == (64,) and -1 <= found.min() < found.max() <= 1
    on_a_gray_device(tmp_path / "kit")
    assert read(store, tmp_path / "kit", str(run)).record.numerics.agrees


DIGITS = """
name: small
seed: 0
data: {source: digits}
targets: [local]
measure: {protocol: smoke}
gate: {size: 1MB}
steps:
  - teacher: {network: resnet_cifar, args: {depth: 8}, epochs: 1}
  - export: {backends: [tensorrt]}
"""


def gray_net(path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper, save

    weight = np.random.default_rng(2).standard_normal((4, 1, 8, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["y"], "conv"),
        helper.make_node("Flatten", ["y"], ["logits"]),
    ]
    ends = [
        helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, 8, 8]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4]),
    ]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
    save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def on_a_gray_device(kit: Path) -> None:
    beside = kit.parent
    on_a_device(kit)  # writes the stand-in
    text = (beside / "stand_in.py").read_text().replace("4 * 3 * 8 * 8", "4 * 8 * 8")
    (beside / "stand_in.py").write_text(text)
    environment = {"PATH": "/usr/bin:/bin", "TRTEXEC": str(beside / "trtexec"), "PYTHON": sys.executable}
    done = subprocess.run(["sh", "run.sh"], cwd=kit, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- back ---------------------------------------------------------------------------------------------------


def test_what_comes_back_is_kept_with_the_run_one_file_a_device(
    store: Store, run: Path, tmp_path: Path
) -> None:
    stored = out_and_back(store, run, tmp_path / "kit")
    assert stored.path.parent == run / "kits"
    told = stored.record
    assert (told.artifact, told.tensorrt, told.device) == (
        "distilled",
        "10.3.0",
        "Stand-in, compute capability 0.0",
    )
    assert told.numerics.agrees and told.numerics.images == 5 and told.compute_ms.runs == 20
    again = read(store, tmp_path / "kit", str(run))
    assert again.path == stored.path
    assert [path.name for path in (run / "kits").iterdir()] == [stored.path.name]


def test_answers_that_are_others_are_told_and_kept(store: Store, run: Path, tmp_path: Path) -> None:
    stored = out_and_back(store, run, tmp_path / "kit", logits=np.ones((5, 4)))
    assert not stored.record.numerics.agrees
    (fact,) = facts_of(run).kits
    assert not fact.agrees
    assert "DOES NOT AGREE" in dict(fact.entries)["numerics"]


def test_the_kit_of_another_artifact_is_refused(store: Store, run: Path, tmp_path: Path) -> None:
    other = Store(tmp_path / "elsewhere" / ".edgekd")
    (tmp_path / "elsewhere" / "work").mkdir()
    foreign = make_run(other, tmp_path / "elsewhere" / "work")
    work = tmp_path / "wider"
    work.mkdir()
    graphs.conv_net(work / "model.onnx", width=32)
    record = read_record(foreign)
    facts = {**record.steps[1].facts, "backend": "tensorrt"}
    made = other.commit("wider", kind="graph", facts=facts, folder=work, files=["model.onnx"], ingredients={})
    RunFolder(foreign).link_step(2, "export-distilled", made.folder)
    steps = (record.steps[0], record.steps[1].model_copy(update={"facts": facts, "digest": made.digest}))
    RunFolder(foreign).write_record(record.model_copy(update={"steps": steps}))
    write(other, str(foreign), tmp_path / "kit", row=None, images=2)
    on_a_device(tmp_path / "kit")
    with pytest.raises(DataError, match=r"kit of another artifact(.|\n)*distilled \(") as caught:
        read(store, tmp_path / "kit", str(run))
    assert caught.value.exit_code == 2
    assert not (run / "kits").exists()
    assert read(other, tmp_path / "kit", str(foreign)).record.numerics.agrees


@pytest.mark.parametrize(
    "spoil",
    [
        lambda kit: (kit / "result.json").unlink(),
        lambda kit: (kit / "result.json").write_bytes(b"["),
        lambda kit: (kit / "result.json").write_bytes(b"[" * 100_000),
        lambda kit: (kit / "kit.json").write_bytes(b"{}"),
        lambda kit: (kit / "kit.json").unlink(),
        lambda kit: (kit / "image_001.bin").write_bytes(b""),
        lambda kit: changed(kit / "result.json", tensorrt="10.3.0\x1b[31m"),
        lambda kit: changed(kit / "result.json", gpu={"name": "x"}),
        lambda kit: changed(kit / "result.json", compute_ms=[float("nan")]),
        lambda kit: changed(kit / "kit.json", precision="int8"),
        lambda kit: changed(kit / "kit.json", tolerance=1e9),
    ],
)
def test_what_is_hostile_or_cut_short_changes_nothing(
    spoil: Any, store: Store, run: Path, back: Path
) -> None:
    spoil(back)
    with pytest.raises(DataError):
        read(store, back, str(run))
    assert not (run / "kits").exists()


def changed(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_folder_that_is_no_kit_is_refused(store: Store, run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"kit\.json(.|\n)*cannot read"):
        read(store, tmp_path, str(run))


# --- the report ---------------------------------------------------------------------------------------------


def test_the_report_shows_it_beside_the_verdict_and_says_what_was_not_executed(
    store: Store, run: Path, back: Path, tmp_path: Path
) -> None:
    read(store, back, str(run))
    written = render(run, tmp_path / "report")
    page, text = written["html"].read_text(), written["md"].read_text()
    for words in (
        "On devices out of reach",
        "the gate judges none of it",
        "Stand-in, compute capability 0.0",
    ):
        assert words in page
    assert "not executed" in text and "energy" in text and "10\\.3\\.0" in text
    (told,) = json.loads(written["json"].read_text())["kits"]
    assert (told["tensorrt"], told["agrees"], told["num_images"]) == ("10.3.0", True, 2)
    assert told["compute_p50_ms"] == pytest.approx(1.095)
    assert told["unexpected"] == []
    assert facts_of(run).outcome is None


def test_without_kits_there_is_no_section(run: Path, tmp_path: Path) -> None:
    assert facts_of(run).kits == ()
    assert "On devices out of reach" not in render(run, tmp_path / "report")["html"].read_text()


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, b'{"schema_version": 2}', b"\xff"])
def test_a_kept_result_that_cannot_be_read_is_a_caveat(
    content: bytes, store: Store, run: Path, tmp_path: Path
) -> None:
    (run / "kits").mkdir()
    (run / "kits" / "a.json").write_bytes(content)
    facts = facts_of(run)
    assert facts.kits == ()
    assert "kits/a.json is not what `edgekd kit read` writes" in facts.caveats


def test_what_a_device_calls_itself_cannot_steer_the_page_or_the_terminal(
    store: Store, run: Path, back: Path, tmp_path: Path
) -> None:
    gpu = {"name": "<script>alert(1)</script>\x1b[31m", "compute_capability": "8.7"}
    changed(back / "result.json", gpu=gpu)
    read(store, back, str(run))
    page = render(run, tmp_path / "report")["html"].read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page
    done = edgekd("kit", "read", "kit", str(run), "--store", str(store.root), folder=tmp_path)
    assert done.returncode == 0 and "\x1b" not in done.stdout


# --- the commands -------------------------------------------------------------------------------------------


def test_the_commands_go_the_whole_way(store: Store, run: Path, tmp_path: Path) -> None:
    where = ("--store", str(store.root))
    done = edgekd("kit", "write", str(run), "--out", "kit", "--images", "3", *where, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "distilled (fp32), 3 test images in it" in done.stdout
    missing = edgekd("kit", "read", "kit", str(run), *where, folder=tmp_path)
    assert missing.returncode == 2 and "copy its result.json into this folder" in missing.stderr
    on_a_device(tmp_path / "kit")
    done = edgekd("kit", "read", "kit", str(run), *where, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "agrees with ONNX Runtime without optimizations" in done.stdout
    assert "3 of 3 images answered the same" in done.stdout
    told = json.loads(edgekd("kit", "read", "kit", str(run), "--json", *where, folder=tmp_path).stdout)
    assert Path(told["kept"]).is_file() and told["numerics"]["agrees"]


def test_the_record_is_not_touched(store: Store, run: Path, back: Path) -> None:
    before = (run / "record.json").read_bytes()
    read(store, back, str(run))
    assert (run / "record.json").read_bytes() == before


def test_a_run_that_travels_is_as_whole_with_a_kit_as_without(
    store: Store, run: Path, back: Path, tmp_path: Path
) -> None:
    """A portable run refuses files that are not its own; a kit's result is no such file."""
    pack(run, tmp_path / "portable", store, lambda event: None)
    stored = read(store, back, str(tmp_path / "portable"))
    assert stored.path.is_relative_to(tmp_path / "portable")
    portable = find_portable(tmp_path / "portable")
    assert portable is not None
    portable.verify()
    assert len(facts_of(gathered(portable)).kits) == 1


def gathered(portable: PortableRun) -> Path:
    gather(portable)
    return portable.folder
