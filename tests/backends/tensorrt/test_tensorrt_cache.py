"""What is kept is opened only for exactly what it was made for, and whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekd.backends.tensorrt import tensorrt_keep
from edgekd.backends.tensorrt.tensorrt_build import Built
from edgekd.backends.tensorrt.tensorrt_keep import Stale, cache_folder, engine_of, keep, kept
from edgekd.backends.tensorrt.tensorrt_settings import FallbackError, Settings, batches_of, settings_of

DEVICE = {"name": "Orin", "uuid": "00ff", "compute_capability": "8.7", "driver": "12.6", "machine": "AGX"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "a.onnx").write_bytes(b"graph")
    return tmp_path / "a.onnx"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each build was asked for; an engine is its number."""
    asked: list[dict[str, Any]] = []

    def build(trt: Any, path: Path, settings: Settings, **named: Any) -> Built:
        asked.append({"settings": settings, **named})
        times = None if named["timing_cache"] is None else named["timing_cache"] + b"t"
        return Built(b"engine %d" % len(asked), {"Conv_0": "int8"}, times)

    monkeypatch.setattr(tensorrt_keep, "build_engine", build)
    return asked


def asked_for(model: Path, device: dict[str, str] = DEVICE, version: str = "10.3.0", **settings: Any) -> Any:
    trt = type("Trt", (), {"__version__": version})
    whole = {"cache": str(model.parent / "kept"), **settings}
    return engine_of(trt, device, model, whole.pop("batch", 1), Settings(**whole), None)


def test_a_second_look_opens_what_the_first_built(model: Path, builds: list[Any]) -> None:
    first, about = asked_for(model)
    again, kept_about = asked_for(model)
    assert (first, again, len(builds)) == (b"engine 1", b"engine 1", 1)
    assert about["engine"] == "built: none was kept" and kept_about["engine"] == "kept"
    assert kept_about["layers"] == {"Conv_0": "int8"}


@pytest.mark.parametrize(
    "change",
    [
        {"version": "10.3.1"},
        {"device": {**DEVICE, "uuid": "00fe"}},
        {"device": {**DEVICE, "compute_capability": "8.6"}},
        {"device": {**DEVICE, "driver": "12.7"}},
        {"device": {**DEVICE, "machine": "Nano"}},
        {"dla_core": 0},
        {"tf32": True},
        {"workspace_mib": 512},
        {"optimization_level": 5},
        {"version_compatible": True},
        {"hardware_compatibility": "AMPERE_PLUS"},
        {"batch": 2},
        {"batches": (1, 1, 4)},
    ],
)
def test_another_machine_version_or_setting_builds_anew(
    change: dict[str, Any], model: Path, builds: list[Any]
) -> None:
    asked_for(model)
    assert asked_for(model, **change)[0] == b"engine 2"
    assert asked_for(model)[0] == b"engine 1"


def test_another_graph_builds_anew(model: Path, builds: list[Any]) -> None:
    asked_for(model)
    model.write_bytes(b"other graph")
    assert asked_for(model)[0] == b"engine 2"


def test_how_it_is_run_does_not_build_anew(model: Path, builds: list[Any]) -> None:
    asked_for(model)
    asked_for(model, cuda_graph=True)
    assert len(builds) == 1


def test_times_of_kernels_are_kept_for_the_next_graph_of_the_same_machine(
    model: Path, builds: list[Any]
) -> None:
    asked_for(model)
    asked_for(model, batch=2)
    asked_for(model, device={**DEVICE, "uuid": "1"})
    asked_for(model, batch=3, timing_cache=False)
    assert [one["timing_cache"] for one in builds] == [b"", b"t", b"", None]


def test_every_flipped_byte_and_every_cut_is_found(tmp_path: Path) -> None:
    path, about = tmp_path / "a.engine", {"model": "m"}
    keep(path, about, {"layers": {}}, b"content of the engine")
    whole = path.read_bytes()
    assert kept(path, about)[0] == b"content of the engine"
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            with pytest.raises(Stale):
                kept(path, about)
    path.write_bytes(whole + b"more")
    with pytest.raises(Stale, match="damaged"):
        kept(path, about)


@pytest.mark.parametrize("line", [b"", b"[]", b"{}", b"null", b"[" * 100_000, b"\xff", b'{"about": 1}'])
def test_a_manifest_of_another_form_is_not_believed(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.engine").write_bytes(b"edgekd-tensorrt 1\n" + line + b"\ncontent")
    with pytest.raises(Stale):
        kept(tmp_path / "a.engine", {"model": "m"})


def test_a_file_under_the_right_name_for_something_else_is_named(tmp_path: Path) -> None:
    keep(tmp_path / "a.engine", {"model": "m", "tensorrt": "10.3.0"}, {}, b"engine")
    with pytest.raises(Stale, match="of another tensorrt"):
        kept(tmp_path / "a.engine", {"model": "m", "tensorrt": "10.16.1"})


def test_nobody_else_may_write_where_engines_are_kept(model: Path, builds: list[Any]) -> None:
    asked_for(model)
    assert (model.parent / "kept").stat().st_mode & 0o777 == 0o700
    (model.parent / "kept").chmod(0o777)
    with pytest.raises(FallbackError, match="others may write"):
        asked_for(model)


def test_a_folder_that_cannot_be_written_keeps_nothing_and_stops_nothing(
    model: Path, builds: list[Any]
) -> None:
    (model.parent / "file").write_text("no folder")
    for _ in range(2):
        asked_for(model, cache=str(model.parent / "file" / "below"))
    assert len(builds) == 2


def test_the_folder_is_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(Settings()) == tmp_path / "edgekd" / "tensorrt"


def test_what_is_kept_appears_whole_under_its_name_alone(tmp_path: Path) -> None:
    keep(tmp_path / "a.engine", {"model": "m"}, {"layers": {}}, b"engine")
    assert [path.name for path in tmp_path.iterdir()] == ["a.engine"]
    manifest = json.loads((tmp_path / "a.engine").read_bytes().splitlines()[1])
    assert manifest["size"] == 6 and len(manifest["sha256"]) == 64
    assert (tmp_path / "a.engine").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"wrong": 1}, "options under `tensorrt` are workspace_mib"),
        ([], None),
        ("dla", "options under `tensorrt`"),
        ({"workspace_mib": "1024"}, "workspace_mib` must be a whole number"),
        ({"dla_core": True}, "dla_core` must be a whole number"),
        ({"dla_core": -1}, "dla_core` must be a whole number"),
        ({"cuda_graph": 1}, "cuda_graph` must be true or false"),
        ({"batches": "1,2,3"}, "batches` must be"),
        ({"batches": [1, "2", 3]}, "batches` must be"),
        ({"cache": 3}, "cache` must be"),
    ],
)
def test_options_that_would_be_ignored_are_refused(asked: Any, message: str | None) -> None:
    if message is None:
        assert settings_of({"tensorrt": asked}) == Settings()
        return
    with pytest.raises(FallbackError, match=message):
        settings_of({"tensorrt": asked})


def test_options_of_other_backends_are_not_looked_at() -> None:
    asked = {"hint": "default", "tensorrt": {"dla_core": 1}}
    assert settings_of(asked) == Settings(dla_core=1)


def test_the_batch_that_is_run_lies_within_those_of_the_engine() -> None:
    assert batches_of(Settings(), 3) == (3, 3, 3)
    assert batches_of(Settings(batches=[1, 2, 8]), 8) == (1, 2, 8)
    for batches in ([1, 2, 8], [4, 2, 16], [1, 9]):
        with pytest.raises(FallbackError, match="smallest, usual, largest"):
            batches_of(Settings(batches=batches), 9)
