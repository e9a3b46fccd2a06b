"""Weights beside a graph: written and run together, and refused where they are not as they should be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.onnx import runtime
from edgekd.backends.onnx.adapt import adapt, gathered
from edgekd.backends.onnx.adopt import adopt
from edgekd.backends.onnx.anatomy import dissect
from edgekd.backends.onnx.export import export
from edgekd.backends.source import Source
from edgekd.core.digest import of_file
from edgekd.core.errors import ModelError
from edgekd.core.preprocess import Preprocess
from edgekd.measure.probes import predict
from edgekd.pipeline.audit_model import resolve
from edgekd.pipeline.audit_spec import AuditSpec
from edgekd.pipeline.bench_models import prepare
from edgekd.pipeline.exporting import ExportedFile, copy_out
from edgekd.targets.local import LocalTarget
from edgekd.testing.backend_contract import PREPROCESS, SIZE, expected, images, network
from tests.measure import graphs

ONNX = BACKENDS.load("onnx")
SOURCE = Source(network(), (3, SIZE, SIZE), metadata={"labels": '["a"]'})
SMALL = 2000
"""Bytes, in place of 2 GiB."""


@pytest.fixture
def both(tmp_path: Path) -> Path:
    (tmp_path / "export").mkdir()
    path = tmp_path / "export" / "model.onnx"
    export(SOURCE, path, one_file_bytes=SMALL)
    return path


def answers(path: Path) -> np.ndarray:
    """By the agent, in a process of its own, where files have other names."""
    return np.asarray(predict(path, images(), PREPROCESS, LocalTarget(name="local")))


# --- our own ------------------------------------------------------------------------------------------------


def test_a_large_network_is_two_files_whose_facts_are_those_of_both(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    facts = export(SOURCE, path, one_file_bytes=SMALL)
    weights = tmp_path / "model.onnx.data"
    assert ONNX.files_of(path) == (path, weights)
    assert sorted(tmp_path.iterdir()) == [path, weights]
    assert facts["sha256"] == of_file(path)
    assert facts["size_bytes"] == ONNX.size_of(path) == path.stat().st_size + weights.stat().st_size
    assert facts["companions"] == {
        ".onnx.data": {"sha256": of_file(weights), "size_bytes": weights.stat().st_size}
    }
    assert weights.stat().st_size > 3 * path.stat().st_size
    onnx.checker.check_model(str(path), full_check=True)


def test_it_answers_as_torch_does_here_and_through_the_agent(both: Path) -> None:
    wanted = expected(network())
    bound = 1e-5 * np.abs(wanted).max()
    session = onnxruntime.InferenceSession(str(both))
    plain = np.asarray(session.run(None, {"input": PREPROCESS.apply(images())})[0])
    assert np.abs(plain - wanted).max() <= bound
    assert np.abs(answers(both) - wanted).max() <= bound


def test_the_same_network_gives_the_same_two_files(both: Path, tmp_path: Path) -> None:
    export(SOURCE, tmp_path / "model.onnx", one_file_bytes=SMALL)
    for one, other in zip(ONNX.files_of(both), ONNX.files_of(tmp_path / "model.onnx"), strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_a_small_network_that_takes_its_place_leaves_no_weights_of_the_large_one(both: Path) -> None:
    export(SOURCE, both)
    assert ONNX.files_of(both) == (both,)
    assert [*both.parent.iterdir()] == [both]


def test_copies_under_another_name_are_whole_for_everyone(both: Path, tmp_path: Path) -> None:
    files = ExportedFile("export-2", "onnx", "fp32", ONNX.files_of(both), 0, None, None)
    made = copy_out([files], tmp_path)
    onnxruntime.InferenceSession(str(tmp_path / "export-2.onnx"))
    assert tmp_path / "export-2.onnx" in made and all(path.is_file() for path in made)


def test_tensorrt_keeps_one_file_and_openvino_its_two(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    for name, backend in (("t.onnx", "tensorrt"), ("o.xml", "openvino")):
        BACKENDS.load(backend).export(SOURCE, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.bin", "o.xml", "t.onnx"]


def flip(weights: Path) -> None:
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, "damaged or of another export"),
        (Path.unlink, "its weights are missing: model.onnx.data"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "cut short"),
        (lambda path: path.write_bytes(b""), "cut short"),
    ],
)
def test_damaged_weights_are_refused(both: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(both.with_suffix(".onnx.data"))
    with pytest.raises(runtime.ArtifactError, match=message):
        runtime.load(str(both))
    with pytest.raises(ModelError):
        dissect(both)


def test_profiling_and_layers_find_the_weights_under_other_names(both: Path, tmp_path: Path) -> None:
    moved = tmp_path / "other.onnx"
    for file in ONNX.files_of(both):
        file.rename(moved.with_suffix("".join(file.suffixes)))
    loaded = runtime.load(str(moved))
    assert loaded.profile()["unexpected"] == []
    assert len(loaded.layers([np.zeros(loaded.input_shape, loaded.dtype)] * 2, 1)) > 3
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "other.onnx",
        "other.onnx.data",
    ]


# --- somebody's ---------------------------------------------------------------------------------------------


def foreign(folder: Path) -> Path:
    """`input` `[batch, 3, 8, 8]`; the weights of its convolution are in w.bin."""
    path = graphs.conv_net(folder / "g.onnx", width=32)
    model = onnx.load(str(path))
    onnx.save(model, str(path), save_as_external_data=True, location="w.bin", size_threshold=1024)
    return path


@pytest.mark.parametrize("one_file_bytes", [1 << 30, 10])
def test_a_foreign_graph_is_adopted_with_its_weights(tmp_path: Path, one_file_bytes: int) -> None:
    source = foreign(tmp_path)
    path = tmp_path / "out" / "m.onnx"
    path.parent.mkdir()
    facts = adopt(source, (3, 8, 8), path, one_file_bytes=one_file_bytes)
    assert len(ONNX.files_of(path)) == (2 if one_file_bytes == 10 else 1)
    assert facts["size_bytes"] == ONNX.size_of(path)
    assert_same_answers(source, path)


def assert_same_answers(source: Path, path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    preprocess = Preprocess(size=(8, 8), mean=(0.5,) * 3, std=(0.2,) * 3)
    session = onnxruntime.InferenceSession(str(source))
    wanted = np.asarray(session.run(None, {"input": preprocess.apply(x)})[0])
    found = predict(path, x, preprocess, LocalTarget(name="local"))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("one_file_bytes", [1 << 30, 10])
def test_a_foreign_graph_is_audited_with_its_weights(tmp_path: Path, one_file_bytes: int) -> None:
    source = foreign(tmp_path)
    subject = resolve("g", source, AuditSpec())
    assert subject.external == {"w.bin": of_file(tmp_path / "w.bin")}
    path = tmp_path / "out" / "m.onnx"
    path.parent.mkdir()
    (told,) = adapt(source, subject.anatomy, subject.door, path, one_file_bytes=one_file_bytes)
    assert "external data" in told
    assert_same_answers(source, path)


def test_a_foreign_graph_that_takes_no_images_is_benched_with_its_weights(tmp_path: Path) -> None:
    source = tmp_path / "g.onnx"
    graphs.conv_net(tmp_path / "inside.onnx")
    model = onnx.load(str(tmp_path / "inside.onnx"))
    del model.graph.input[0].type.tensor_type.shape.dim[3:]  # three dimensions: no image
    del model.graph.node[:-1]
    model.graph.node[0].input[0] = "input"
    model.graph.input[0].type.tensor_type.shape.CopyFrom(
        onnx.helper.make_tensor_value_info("i", 1, ["batch", 8]).type.tensor_type.shape
    )
    onnx.save(model, str(source), save_as_external_data=True, location="w.bin", size_threshold=0)
    found = prepare("g", source, None, tmp_path)
    assert found.path != source and len(found.changes) == 1
    assert runtime.load(str(found.path)).input_shape == (1, 8)


def test_gathering_again_what_was_beside_keeps_the_answers(both: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    gathered(both, tmp_path / "again" / "m.onnx")
    np.testing.assert_array_equal(answers(tmp_path / "again" / "m.onnx"), answers(both))


def spoiled(folder: Path, **entries: str | None) -> Path:
    """A foreign graph whose weight says something else about where it is."""
    path = foreign(folder)
    model = onnx.load(str(path), load_external_data=False)
    (tensor,) = (one for one in model.graph.initializer if one.name == "w0")
    there = {one.key: one.value for one in tensor.external_data} | entries
    del tensor.external_data[:]
    for key, value in there.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


WRONG = [
    ({"location": "../secret.bin"}, "outside the model's folder"),
    ({"location": "/etc/hostname"}, "outside the model's folder"),
    ({"location": "link.bin"}, "outside the model's folder"),
    ({"location": ""}, "outside the model's folder"),
    ({"location": "absent.bin"}, "is missing"),
    ({"offset": "-8"}, "offset '-8'"),
    ({"offset": "99999999999999999999999"}, "have the offset"),
    ({"offset": "1000000"}, "cut short"),
    ({"offset": "4"}, "cut short"),
    ({"length": "-1"}, "length '-1'"),
    ({"length": "1e3"}, "length '1e3'"),
    ({"length": "4"}, "says that 4 are its own"),
    ({"length": "999999999999"}, "says that 999999999999 are its own"),
    ({"length": None, "offset": "1"}, "cut short"),
]


@pytest.mark.parametrize(("entries", "message"), WRONG, ids=str)
def test_external_data_that_are_not_as_they_should_be_are_refused_everywhere(
    entries: dict[str, str | None], message: str, tmp_path: Path
) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(4096))
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link.bin").symlink_to(tmp_path / "secret.bin")
    path = spoiled(tmp_path / "inside", **entries)
    with pytest.raises(runtime.ArtifactError, match=message):
        runtime.load(str(path))
    for look in (
        lambda: resolve("g", path, AuditSpec()),
        lambda: adopt(path, (3, 8, 8), tmp_path / "m.onnx"),
        lambda: prepare("g", path, None, tmp_path),
    ):
        with pytest.raises(ModelError, match=message):
            look()
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("keep", [0, 10])
def test_external_data_that_are_cut_are_refused(tmp_path: Path, keep: int) -> None:
    path = foreign(tmp_path)
    (tmp_path / "w.bin").write_bytes((tmp_path / "w.bin").read_bytes()[:keep])
    with pytest.raises(ModelError, match="cut short"):
        resolve("g", path, AuditSpec())


def test_an_entry_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """Two readers may take different ones."""
    path = foreign(tmp_path)
    model = onnx.load(str(path), load_external_data=False)
    model.graph.initializer[0].external_data.add(key="location", value="../secret.bin")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="described twice"):
        dissect(path)
