"""One network in the files of several backends, timed side by side, each in its own runtime."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.errors import AbsentRuntimeError, DataError, MissingDependencyError, ModelError
from edgekd.measure.protocol import Protocol, WarmUp
from edgekd.pipeline.bench import Bench, Result, run_bench
from edgekd.pipeline.bench_files import name_models
from edgekd.targets.local import LocalTarget
from edgekd.testing.backend_contract import SIZE, exported, images
from tests.cli.running import edgekd

pytestmark = pytest.mark.backends

LOCAL = LocalTarget(name="local")
ONE = Protocol(
    name="tiny", min_duration_s=0.1, min_count=32, num_processes=1, warm_up=WarmUp(min_s=0.01, max_s=0.02)
)
RUN_HERE = ("onnx", "openvino", "executorch", "litert", "ncnn")


def silent(event: Mapping[str, Any]) -> None:
    pass


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Backend -> its FP32 file, of those that can be exported here."""
    found = {}
    for name in RUN_HERE:
        try:
            found[name] = exported(name, tmp_path_factory.mktemp(name))[1]
        except MissingDependencyError:
            continue
    if len(found) < 2:
        pytest.skip("needs the extra of a further backend")
    return found


@pytest.fixture(scope="module")
def evalset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evalset")
    np.save(folder / "images.npy", images()[:16], allow_pickle=False)
    return folder


@pytest.fixture(scope="module")
def result(files: dict[str, Path], evalset: Path) -> Result:
    models = name_models([*files.values()])
    return run_bench(Bench(models, next(iter(models)), LOCAL, ONE, given=evalset), None, silent)


def test_every_file_is_timed_in_its_own_runtime(result: Result, files: dict[str, Path]) -> None:
    times = [m for m in result.measurements if m.quantity == "latency_p50_ms"]
    assert [m.subject.backend for m in times] == [*files]
    assert all(m.value and m.value > 0 for m in times)
    assert len(result.comparisons) == len(files) - 1
    runtimes = {f"runtime_{name}" for name in files}
    assert all({*m.device["versions"]} == runtimes for m in result.measurements)


def test_the_precision_is_that_of_the_kernels(result: Result, files: dict[str, Path], tmp_path: Path) -> None:
    assert {m.subject.precision for m in result.measurements} == {"fp32"}
    if "openvino" not in files:
        pytest.skip("needs edgekd[openvino]")
    pair = name_models([files["openvino"], exported("openvino", tmp_path, "int8")[1]])
    found = run_bench(Bench(pair, next(iter(pair)), LOCAL, ONE), None, silent)
    assert [m.subject.precision for m in found.measurements[::2]][:2] == ["fp32", "int8"]


def test_a_folder_of_image_files_is_resized_to_what_the_graph_takes(
    files: dict[str, Path], tmp_path: Path
) -> None:
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for number in range(2):
        Image.new("RGB", (20, 30), (number * 80, 10, 200)).save(tmp_path / f"pictures/{number}.png")
    models = name_models([*files.values()][-2:])
    bench = Bench(models, next(iter(models)), LOCAL, ONE, given=tmp_path / "pictures")
    assert run_bench(bench, None, silent).comparisons[0].ratio > 0


def test_images_of_another_size_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((2, 9, 9, 3), np.uint8))
    models = name_models([*files.values()][-2:])
    bench = Bench(models, next(iter(models)), LOCAL, ONE, given=tmp_path)
    with pytest.raises(DataError, match=rf"takes \[H, W, C\] = \[{SIZE}, {SIZE}, 3\]"):
        run_bench(bench, None, silent)


@pytest.fixture(params=[name for name in RUN_HERE if name != "onnx"])
def cut(request: pytest.FixtureRequest, files: dict[str, Path]) -> Iterator[Path]:
    if request.param not in files:
        pytest.skip(f"needs edgekd[{BACKENDS.load(request.param).extra}]")
    whole = files[request.param].read_bytes()
    files[request.param].write_bytes(whole[: len(whole) // 2])
    yield files[request.param]
    files[request.param].write_bytes(whole)


def test_a_file_that_is_cut_short_is_refused(cut: Path, files: dict[str, Path]) -> None:
    models = name_models([files["onnx"], cut])
    with pytest.raises(ModelError):
        run_bench(Bench(models, next(iter(models)), LOCAL, ONE), None, silent)


def test_a_runtime_that_is_not_there_ends_with_4(files: dict[str, Path]) -> None:
    models = name_models([files["onnx"]], ["onnx", "tensorrt"])
    bench = Bench(models, next(iter(models)), LOCAL, ONE)
    with pytest.raises(AbsentRuntimeError, match="TensorRT cannot run on this device") as caught:
        run_bench(bench, None, silent)
    assert caught.value.exit_code == 4


def test_the_command_line(files: dict[str, Path], tmp_path: Path) -> None:
    done = edgekd(
        *("bench", *map(str, files.values()), "--profile", "smoke", "--json"),
        folder=tmp_path,
        XDG_CACHE_HOME=str(tmp_path / "cache"),
        EDGEKD_LEASE_DIR=str(tmp_path / "lease"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {one["answer"] for one in found["answers"]} == {"cannot tell"}
    assert found["baseline"] == "fp32.onnx"
