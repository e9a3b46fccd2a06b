"""A bench with real graphs on this machine: what is compared, kept, resumed and refused.

The machine that runs the tests may be busy, so nothing here asserts which graph is faster.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image

from edgekd.core.errors import DataError, ModelError, TargetError, UsageError
from edgekd.measure.device import Device
from edgekd.measure.probes import Graph
from edgekd.measure.protocol import PROTOCOLS, Protocol, WarmUp
from edgekd.pipeline.bench import Bench, Result, protocol_of, run_bench
from edgekd.pipeline.bench_files import find_baseline, name_models
from edgekd.pipeline.bench_models import prepare
from edgekd.store.store import Store
from edgekd.targets.local import LocalTarget
from tests.measure import graphs
from tests.pipeline.made_up_agent import MadeUpAgent

PROTOCOL = Protocol(
    name="tiny",
    min_duration_s=0.2,
    min_count=64,
    num_processes=2,
    warm_up=WarmUp(min_s=0.01, max_s=0.02),
)
LOCAL = LocalTarget(name="local")


def silent(event: Mapping[str, Any]) -> None:
    pass


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "small": graphs.conv_net(folder / "small.onnx", width=4),
        "int8": graphs.quantized_net(folder / "int8.onnx"),
        "large": graphs.conv_net(folder / "large.onnx", width=32, depth=2),
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def result(models: dict[str, Path], store: Store) -> Result:
    bench = Bench(
        models={name: Graph(path) for name, path in models.items()},
        baseline="large",
        target=LOCAL,
        protocol=PROTOCOL,
    )
    return run_bench(bench, store, silent)


@pytest.fixture
def pair(models: dict[str, Path]) -> Bench:
    two = {name: Graph(models[name]) for name in ("small", "large")}
    return Bench(models=two, baseline="small", target=LOCAL, protocol=PROTOCOL)


def test_every_model_is_compared_with_the_baseline(result: Result) -> None:
    assert [(one.name, one.against) for one in result.comparisons] == [("small", "large"), ("int8", "large")]
    assert all(one.ratio > 0 and one.processes == 2 for one in result.comparisons)


def test_two_processes_tell_nothing_and_say_so(result: Result) -> None:
    for one in result.comparisons:
        assert one.answer == "cannot tell"
        assert "judging needs 5" in one.why[0]


def test_the_measurements_are_times_of_every_model_and_speedups_of_every_pair(result: Result) -> None:
    found = [(m.quantity, m.subject.name, m.against.name if m.against else None) for m in result.measurements]
    times = [(q, name, None) for name in result.bench.models for q in ("latency_p50_ms", "latency_p90_ms")]
    assert found == [*times, ("speedup", "small", "large"), ("speedup", "int8", "large")]
    for one in result.measurements:
        assert one.protocol["processes"] == 2
        assert one.device["cpu"]
        assert not one.validity.valid


def test_the_precision_of_a_foreign_file_is_read_from_it(result: Result) -> None:
    precisions = {m.subject.name: m.subject.precision for m in result.measurements}
    assert precisions == {"small": "fp32", "int8": "int8", "large": "fp32"}


def test_what_was_found_is_plain_data(result: Result) -> None:
    data = json.loads(json.dumps(result.as_data(), allow_nan=False))
    assert [one["answer"] for one in data["answers"]] == ["cannot tell"] * 2
    assert len(data["measurements"]) == 8


def test_a_bench_is_kept_in_the_history_of_its_store(result: Result, store: Store) -> None:
    (path,) = (store.root / "history" / "artifacts").glob("*.jsonl")
    (entry,) = [json.loads(line) for line in path.read_text().splitlines() if line]
    assert entry["kind"] == "bench"
    assert set(entry["subjects"]) == {"small", "int8", "large"}


def test_nothing_under_way_is_left(result: Result, store: Store) -> None:
    assert list((store.root / "work").iterdir()) == []


@pytest.fixture
def answering(result: Result, monkeypatch: pytest.MonkeyPatch) -> MadeUpAgent:
    agent = MadeUpAgent(result.device)
    monkeypatch.setattr(Device, "call", lambda *arguments, **named: agent(*arguments, **named))
    return agent


@pytest.mark.parametrize("with_store", [True, False])
def test_an_interrupted_bench_goes_on_with_the_processes_that_are_finished(
    pair: Bench, answering: MadeUpAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_store: bool
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = Store(tmp_path / "store") if with_store else None
    answering.allowed = 1
    with pytest.raises(KeyboardInterrupt):
        run_bench(pair, store, silent)
    answering.allowed = 100
    assert run_bench(pair, store, silent).comparisons[0].processes == 2
    assert answering.calls == 2, "the first process was kept"
    left = tmp_path / ("store/work" if with_store else "cache/edgekd/bench")
    assert [path for path in left.iterdir() if path.is_dir()] == []


def test_a_finished_bench_starts_anew_so_that_nothing_is_added_until_it_pleases(
    pair: Bench, answering: MadeUpAgent, tmp_path: Path
) -> None:
    seeds = [run_bench(pair, Store(tmp_path), silent).measurements[0].protocol["seed"] for _ in range(2)]
    assert answering.calls == 4
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize(("spread", "processes"), [({}, 5), ({"small": 0.3, "large": 0.3}, 10)])
def test_growing_stops_once_settled_and_at_the_cap(
    pair: Bench, answering: MadeUpAgent, tmp_path: Path, spread: dict[str, float], processes: int
) -> None:
    answering.spread = spread
    five = PROTOCOL.model_copy(update={"num_processes": 5, "most_processes": 12})
    found = run_bench(replace(pair, protocol=five, until_decided=True), Store(tmp_path), silent)
    assert found.comparisons[0].processes == processes, "twelve hold two looks of five"
    assert found.comparisons[0].settled == (not spread)
    assert found.measurements[0].protocol["looks"] == [5, 10]


def test_growing_goes_on_until_what_is_expected_is_known(
    pair: Bench, answering: MadeUpAgent, tmp_path: Path
) -> None:
    """A gain of about 1 %: neither settled as a claim nor as none, but surely no loss."""
    answering.spread = {"small": 0.02}
    five = PROTOCOL.model_copy(update={"num_processes": 5})
    bench = replace(pair, protocol=five, until_decided=True, expected="not-slower")
    found = run_bench(bench, Store(tmp_path), silent)
    assert (found.outcome, found.exit_code) == ("pass", 0)
    assert found.comparisons[0].processes == 5


def test_a_session_on_a_changed_device_is_another_session(
    pair: Bench, answering: MadeUpAgent, tmp_path: Path
) -> None:
    answering.allowed = 1
    with pytest.raises(KeyboardInterrupt):
        run_bench(pair, Store(tmp_path), silent)
    answering.allowed, answering.facts = 100, {**answering.facts, "kernel": "7.0", "cores": 64}
    assert run_bench(pair, Store(tmp_path), silent).comparisons[0].processes == 2
    assert answering.calls == 3


def test_an_emulated_device_is_refused(pair: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_EMULATED", "qemu cortex-a72")
    with pytest.raises(UsageError, match=r"emulated device has no times of its own \(qemu cortex-a72\)"):
        run_bench(pair, None, silent)


def test_another_device_than_expected_is_refused(pair: Bench) -> None:
    target = LocalTarget(name="pi5", expect={"cpu": "Cortex-A76"})
    with pytest.raises(TargetError, match="wrong device"):
        run_bench(replace(pair, target=target), None, silent)


def test_more_processes_are_as_long_as_before() -> None:
    quick, more = PROTOCOLS["quick"], protocol_of("quick", 12)
    assert more.num_processes == 12
    assert more.request()["min_s"] == pytest.approx(quick.request()["min_s"])
    assert more.request()["min_count"] >= quick.request()["min_count"]
    assert protocol_of("quick", None) == quick


def test_what_can_never_be_decided_does_not_start(pair: Bench) -> None:
    with pytest.raises(UsageError, match="nothing is ever decided"):
        replace(pair, until_decided=True)
    with pytest.raises(UsageError, match="up to 20"):
        replace(pair, protocol=protocol_of("quick", 21), until_decided=True)


# --- names, inputs, foreign files ---------------------------------------------------------------------------


def test_models_have_short_names_that_are_unique(tmp_path: Path) -> None:
    paths = [tmp_path / "a.onnx", tmp_path / "old" / "b.onnx", tmp_path / "new" / "b.onnx"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert list(name_models(paths)) == ["a", str(paths[1]), str(paths[2])]
    assert list(name_models([paths[0], paths[0]])) == ["a", "a#2"], "a file beside itself: an A/A check"


def _touched(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.touch()
    return paths


def test_a_suffix_tells_whose_file_it_is(tmp_path: Path) -> None:
    paths = _touched(
        tmp_path, "m.onnx", "m.xml", "m.pte", "m.tflite", "other.ncnn.param", "apple.mlpackage.zip"
    )
    found = name_models(paths)
    assert {name: graph.backend for name, graph in found.items()} == {
        "m.onnx": "onnx",
        "m.xml": "openvino",
        "m.pte": "executorch",
        "m.tflite": "litert",
        "other": "ncnn",
        "apple": "coreml",
    }


def test_a_backend_is_named_where_several_have_such_files(tmp_path: Path) -> None:
    a, b = _touched(tmp_path, "a.onnx", "b.xml")
    assert [graph.backend for graph in name_models([a, b], ["tensorrt"]).values()] == ["tensorrt", "openvino"]
    both = name_models([a], ["onnx", "tensorrt"])
    assert {name: graph.backend for name, graph in both.items()} == {
        "a in onnx": "onnx",
        "a in tensorrt": "tensorrt",
    }


def test_what_is_no_backends_file_and_what_has_no_file_is_refused(tmp_path: Path) -> None:
    a, b = _touched(tmp_path, "a.onnx", "b.engine")
    with pytest.raises(UsageError, match=r"b\.engine: no backend(.|\n)*\.onnx \(onnx, tensorrt\), \.xml"):
        name_models([a, b])
    with pytest.raises(UsageError, match=r"--backend openvino: none of the files is \.xml"):
        name_models([a, a], ["openvino"])
    with pytest.raises(UsageError, match="`opnvino` is not a backend; close names: openvino"):
        name_models([a, a], ["opnvino"])


def test_one_model_is_no_comparison_and_a_missing_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least two"):
        name_models([tmp_path / "a.onnx"])
    with pytest.raises(ModelError, match=r"b\.onnx: there is no such file"):
        name_models([tmp_path / "b.onnx"] * 2)


def test_the_baseline_is_the_first_or_the_one_that_is_named() -> None:
    named = {"a": Graph(Path("x/a.onnx")), "b": Graph(Path("x/b.onnx"))}
    assert find_baseline(None, named) == "a"
    assert [find_baseline(word, named) for word in ("b", "b.onnx", "x/b.onnx")] == ["b"] * 3
    with pytest.raises(UsageError, match="choices: a, b"):
        find_baseline("c", named)


def test_real_images_are_resized_to_every_models_input(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (20, 12), (number * 80, 10, 200)).save(tmp_path / f"pictures/{number}.png")
    model = prepare("small", models["small"], tmp_path / "pictures", tmp_path)
    assert model.images is not None
    assert np.load(model.images, allow_pickle=False).shape == (3, 8, 8, 3)
    assert model.preprocess is not None
    assert model.path == models["small"], "it is timed as it is"


def test_images_of_another_size_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((2, 9, 9, 3), np.uint8))
    with pytest.raises(DataError, match=r"takes .*8, 8, 3.* images are .*9, 9, 3"):
        prepare("small", models["small"], tmp_path, tmp_path)


def test_a_folder_without_images_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither images\.npy nor image files"):
        prepare("small", models["small"], tmp_path, tmp_path)


def _foreign(path: Path, shape: list[int | str]) -> Path:
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["y"])],
        "foreign",
        [value("x", TensorProto.FLOAT, shape)],
        [value("y", TensorProto.FLOAT, [shape[0], None])],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def test_another_name_for_the_batch_is_no_obstacle(models: dict[str, Path], tmp_path: Path) -> None:
    foreign = _foreign(tmp_path / "foreign.onnx", ["N", 3, 8, 8])
    one = PROTOCOL.model_copy(update={"num_processes": 1})
    bench = Bench({"foreign": Graph(foreign), "small": Graph(models["small"])}, "foreign", LOCAL, one)
    found = run_bench(bench, None, silent)
    assert found.comparisons[0].ratio > 0
    assert found.changes["foreign"], "what was changed in the copy is told"


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x0a not a graph")
    with pytest.raises(ModelError, match=r"bad\.onnx"):
        prepare("bad", tmp_path / "bad.onnx", None, tmp_path)


def test_a_silent_fall_back_leaves_nothing_to_claim(models: dict[str, Path], tmp_path: Path) -> None:
    """ONNX Runtime's wheel brings the Azure provider, which can run none of these kernels."""
    if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this build of ONNX Runtime has no second provider to fall back from")
    options = {"providers": ["AzureExecutionProvider", "CPUExecutionProvider"]}
    one = PROTOCOL.model_copy(update={"num_processes": 1})
    two = {name: Graph(models[name]) for name in ("small", "large")}
    bench = Bench(two, "small", LocalTarget(name="local", options=options), one)
    found = run_bench(bench, Store(tmp_path), silent)
    assert found.comparisons[0].answer == "cannot tell"
    assert found.comparisons[0].why[0].startswith("fall-back: ")
    assert not any(m.validity.valid for m in found.measurements)
