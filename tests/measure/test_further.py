"""What is measured beside a session, on this machine: throughput, soak, kernels, settings, whole pipelines.

The machine that runs the tests may be busy, so nothing here asserts a time or that a time is valid.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from edgekd.core.errors import MissingDependencyError, TargetError, UsageError
from edgekd.core.measurement import Measurement
from edgekd.core.preprocess import Preprocess
from edgekd.measure import agent_end_to_end, soak
from edgekd.measure.agent import DataError
from edgekd.measure.end_to_end import golden_files, measure_end_to_end, parity
from edgekd.measure.findings import Item
from edgekd.measure.further import Rig, open_rig
from edgekd.measure.layers import measure_layers
from edgekd.measure.loadgen import run_loadgen, told
from edgekd.measure.offline import measure_offline, throughput
from edgekd.measure.protocol import PROTOCOLS, Protocol, WarmUp
from edgekd.measure.sweep import Setting, measure_sweep, settings_of
from edgekd.report.further import further_text
from edgekd.targets.local import LocalTarget
from tests.measure import graphs
from tests.measure.test_latency import process

TINY = Protocol(
    name="tiny", min_duration_s=0.05, min_count=20, num_processes=2, warm_up=WarmUp(min_s=0.01, max_s=0.02)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run") / "session"


@pytest.fixture(scope="module")
def rig(folder: Path) -> Iterator[Rig]:
    with open_rig(LocalTarget(name="local"), TINY, folder, lambda event: None, seed=5) as opened:
        yield opened


@pytest.fixture(scope="module")
def net(graph: Path, evalset: Path) -> Item:
    return graphs.item("net", graph, evalset)


def kept(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "local" / name).read_text())
    return content


# --- throughput ---------------------------------------------------------------------------------------------


def test_throughput_is_images_over_the_time_of_whole_batches() -> None:
    """Batches of 8 in 2 ms and in 4 ms: 4000 and 2000 images a second."""
    processes = [process(0, a=2.0, noise=0), process(1, a=4.0, noise=0)]
    found = throughput(processes, "a", 8, PROTOCOLS["rapid"])
    assert found.detail["process_ips"] == [pytest.approx(4000), pytest.approx(2000)]
    assert found.value == pytest.approx((4000 * 2000) ** 0.5)
    assert found.n == 8 * 600
    assert "2 processes, judging needs 5" in found.problems


def test_batches_are_timed_and_a_graph_of_another_batch_says_why_not(
    rig: Rig, net: Item, folder: Path, tmp_path: Path
) -> None:
    import onnx

    model = onnx.load(net.path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "fixed.onnx")
    fixed = graphs.item("fixed", tmp_path / "fixed.onnx", net.evalset)
    measured, refused = measure_offline(rig, [net, fixed], batch=4)
    assert measured.quantity == "throughput_ips"
    assert measured.unit == "images/s"
    assert measured.value is not None
    assert measured.n % 4 == 0
    assert measured.protocol["batch"] == 4
    assert measured.samples == "session/local/offline-4.json"
    assert len(kept(folder, "offline-4.json")["processes"]) == 2
    assert refused.value is None
    assert "not in batches of 4" in str(refused.not_measured)
    assert "the batch is fixed to 1" in str(refused.not_measured)


# --- soak ---------------------------------------------------------------------------------------------------

COOL: dict[str, Any] = {
    "throttle_count": 0,
    "pi_throttled": None,
    "temperatures_mc": {"cpu": 50000},
    "clocks_khz": {},
    "ticks": [0] * 10,
}


def minutes(*p50_ms: float, **last: Any) -> dict[str, Any]:
    windows = [
        {"p50_ns": ms * 1e6, "p90_ns": ms * 1.1e6, "n": 100, "start_s": 60.0 * at, "state": dict(COOL)}
        for at, ms in enumerate(p50_ms)
    ]
    windows[-1]["state"] |= last
    return {"before": COOL, "windows": windows}


def test_the_last_minute_stands_beside_the_first() -> None:
    found = soak.sustained(minutes(1.0, 1.1, 2.5, 2.0), 60.0)
    assert found.value == 2.0
    assert found.detail["slowest"] == 2.5
    assert found.detail["p50_ms"] == [1.0, 1.1, 2.5, 2.0]
    assert found.n == 400
    assert found.interval is None
    assert found.problems == ()


def test_throttling_is_what_a_soak_looks_for_so_it_is_told_and_does_not_invalidate() -> None:
    found = soak.sustained(minutes(1.0, 1.0, 1.8, throttle_count=4), 60.0)
    assert found.detail["events"] == ["3 min: throttled: the core throttle counter rose"]
    assert found.notes == tuple(found.detail["events"])
    assert found.problems == ()


def test_a_short_or_disturbed_soak_is_invalid() -> None:
    assert soak.sustained(minutes(1.0, 1.0), 60.0).problems == (
        "too short: 120 s, heat takes 180 s at least",
    )
    before = {**COOL, "core_ticks": 0, "busy_ticks": 0, "own_ticks": 0}
    disturbed = minutes(1.0, 1.0, 1.0, core_ticks=100, busy_ticks=90, own_ticks=50)
    (problem,) = soak.sustained({**disturbed, "before": before}, 60.0).problems
    assert "other processes took 40%" in problem


def test_a_soak_runs_without_a_pause_and_is_kept(rig: Rig, net: Item, folder: Path) -> None:
    (found,) = soak.measure_soak(rig, [net], 0.6)
    assert found.quantity == "sustained_ratio"
    assert found.value is not None
    raw = kept(folder, "net.soak.json")
    assert len(raw["windows"]) == len(found.detail["p50_ms"]) == 3
    assert raw["windows"][1]["start_s"] >= 0.2
    assert found.samples == "session/local/net.soak.json"
    assert "first window" in further_text([found], [])


# --- kernels and settings -----------------------------------------------------------------------------------


def test_every_kernel_has_its_time(rig: Rig, net: Item, folder: Path) -> None:
    rows = measure_layers(rig, net)
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)
    assert {row["provider"] for row in rows} == {"CPUExecutionProvider"}
    assert any("Gemm" in row["op"] for row in rows)
    assert kept(folder, "net.layers.json")["runs"] == 50
    text = further_text([], [{"kind": "layers", "target": "local", "subject": "net", "rows": rows}])
    assert "Gemm" in text and "the longest first (p50 of 50 runs):" in text


def test_settings_take_turns_and_the_fastest_comes_first(rig: Rig, net: Item, folder: Path) -> None:
    core = min(rig.facts["cores_allowed"])
    rows = measure_sweep(rig, net, [Setting(1), Setting(1, (core,))])
    assert [row["p50_ms"] for row in rows] == sorted(row["p50_ms"] for row in rows)
    assert sorted(str(row["cores"]) for row in rows) == sorted(["None", f"[{core}]"])
    assert all(row["low"] <= row["p50_ms"] <= row["high"] for row in rows)
    raw = kept(folder, "net.sweep.json")["raw"]
    assert [len(one["processes"]) for one in raw] == [2, 2]
    text = further_text([], [{"kind": "sweep", "target": "local", "subject": "net", "rows": rows}])
    assert "rows are not paired" in text


def test_settings_are_those_of_the_clusters() -> None:
    facts = {"cores_allowed": list(range(6)), "clusters": [{"cores": [4, 5]}, {"cores": [0, 1, 2, 3]}]}
    found = settings_of(facts)
    assert [one.threads for one in found if one.cores is None] == [1, 2, 4, 6]
    assert [one.cores for one in found if one.cores] == [(4,), (4, 5), (0,), (0, 1), (0, 1, 2, 3)]
    assert settings_of({"cores_allowed": [0, 1], "clusters": [{"cores": [0, 1]}]}) == [
        Setting(1),
        Setting(2),
        Setting(1, (0,)),
    ], "pinned to every core is not pinned"
    assert settings_of({"cores_allowed": None, "cores": None}) == [Setting(1)]


# --- end to end ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for number, suffix in enumerate(("png", "jpg", "bmp")):
        pixels = generator.integers(0, 256, (31 + number, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(where / f"photo-{number}.{suffix}")
    (where / "notes.txt").write_text("no image")
    return where


def test_files_become_answers_part_by_part_as_we_would_prepare_them(
    rig: Rig, net: Item, photos: Path, folder: Path
) -> None:
    found = measure_end_to_end(rig, net, photos)
    assert set(found["parts"]) == {"decode", "resize", "normalize", "infer"}
    assert found["total"]["p50_ms"] >= max(part["p50_ms"] for part in found["parts"].values())
    assert found["images"] == 3
    assert found["resizer"].startswith("Pillow")
    assert found["parity"]["max_difference"] == 0, "this machine has the same Pillow"
    assert (found["parity"]["agreement"], found["parity"]["n"]) == (1.0, 3)
    assert np.asarray(kept(folder, "net.end_to_end.json")["processes"][0]["ns"]).shape == (4, 3, 4)
    text = further_text([], [{"kind": "end_to_end", "target": "local", **found}])
    assert "same answers on 100 % of 3 images" in text


def test_another_resizing_shows_in_pixels_and_answers() -> None:
    ours = np.zeros((3, 2, 2, 1), np.uint8)
    theirs = ours.copy()
    theirs[1, 0, 0, 0] = 6
    found = parity(theirs, ours, np.array([0, 1, 2]), np.array([0, 2, 2]), ["a", "b", "c"])
    assert found["max_difference"] == 6
    assert found["pixels_that_differ"] == pytest.approx(1 / 12)
    assert found["agreement"] == pytest.approx(2 / 3)
    assert found["differing"] == ["b"]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no image file"):
        golden_files(tmp_path)


@pytest.mark.parametrize("resize", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize(("source", "target"), [((37, 53), (8, 8)), ((9, 7), (32, 20)), ((64, 64), (64, 10))])
def test_numpy_resizes_as_pillow_does(resize: str, source: tuple[int, int], target: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*source, 3), dtype=np.uint8)
    mine = agent_end_to_end.resample(pixels, {"size": target, "resize": resize})
    filters = {"nearest": 0, "bilinear": 2, "bicubic": 3}
    theirs = np.asarray(Image.fromarray(pixels).resize(target[::-1], filters[resize]))
    apart = np.abs(mine.astype(int) - theirs)
    assert apart.max() <= 1, "Pillow computes with 22 bits"
    assert (apart > 0).mean() < 0.01


def test_a_device_without_pillow_reads_netpbm(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.ppm")
    plan = Preprocess(size=(5, 7), mean=(0, 0, 0), std=(1, 1, 1)).model_dump(mode="json")
    reader = agent_end_to_end.numpy_reader(plan)
    np.testing.assert_array_equal(reader.resize(reader.decode(str(tmp_path / "image.ppm"))), pixels)
    (tmp_path / "cut.ppm").write_bytes((tmp_path / "image.ppm").read_bytes()[:-3])
    with pytest.raises(DataError, match="does not hold"):
        reader.decode(str(tmp_path / "cut.ppm"))
    with pytest.raises(DataError, match="Pillow is not installed"):
        reader.decode("photo.jpg")


# --- LoadGen ------------------------------------------------------------------------------------------------


def test_loadgens_summary_is_read() -> None:
    single = {
        "Result is": "VALID",
        "50.00 percentile latency (ns)": "86200",
        "90.00 percentile latency (ns)": "9e4",
    }
    assert told(single) == {"valid": True, "p50_ms": pytest.approx(0.0862), "p90_ms": pytest.approx(0.09)}
    assert told({"Result is": "INVALID", "Samples per second": "2753.4"}) == {
        "valid": False,
        "samples_per_s": 2753.4,
    }


def test_loadgen_says_that_it_is_no_mlperf_result_or_names_its_extra(rig: Rig, net: Item) -> None:
    if importlib.util.find_spec("mlperf_loadgen") is None:
        with pytest.raises(MissingDependencyError, match=r"edgekd\[loadgen\]"):
            run_loadgen(rig, net, "SingleStream")
        pytest.skip("mlcommons-loadgen is not installed, so it did not run")
    found = run_loadgen(rig, net, "SingleStream")
    assert "not an MLPerf result" in found["title"]
    assert found["p90_ms"] > 0
    table = {"kind": "loadgen", "target": "local", "subject": "net", "scenarios": {"SingleStream": found}}
    assert "not an MLPerf result" in further_text([], [table])


# --- where --------------------------------------------------------------------------------------------------


def test_an_emulated_device_is_refused_before_anything_is_timed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKD_EMULATED", "qemu")
    target = LocalTarget(name="local")
    with (
        pytest.raises(UsageError, match="emulated device has no times"),
        open_rig(target, TINY, folder, lambda event: None, 0),
    ):
        pass


def test_a_wrong_device_is_refused(folder: Path) -> None:
    target = LocalTarget(name="local", expect={"cpu": "Cortex-A76"})
    with (
        pytest.raises(TargetError, match="wrong device"),
        open_rig(target, TINY, folder, lambda event: None, 0),
    ):
        pass


def test_measurements_name_device_and_runtime(rig: Rig, net: Item) -> None:
    from edgekd.measure.estimate import Estimate

    made: Measurement = rig.measurement("sustained_ratio", net, Estimate(1.0, None, 3), None, scenario="soak")
    assert made.device["versions"]["runtime_onnx"]["onnxruntime"] == onnxruntime.__version__
    assert (made.protocol["scenario"], made.protocol["name"]) == ("soak", "tiny")
