"""The exported pair of files: right answers, the same bytes every time, refusals that name the operation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ncnn", reason="the extra `ncnn` is not installed")
pytest.importorskip("pnnx", reason="the extra `ncnn` is not installed")

import ncnn
import torch
from torch import Tensor, nn

from edgekd.backends.ncnn import conversion, runtime
from edgekd.backends.ncnn.backend import BACKEND
from edgekd.backends.ncnn.export import export
from edgekd.backends.ncnn.written_form import write_pair
from edgekd.backends.source import Source
from edgekd.core.digest import of_file
from edgekd.core.errors import ModelError, StoreError
from edgekd.testing.tiny_networks import IMAGE_SHAPE
from tests.backends.ncnn.networks import largest_error, settled, shortcuts_by_steps, tiny, written

pytestmark = [pytest.mark.backends, pytest.mark.timeout(900)]


def test_a_tiny_network_computes_what_torch_does(tmp_path: Path) -> None:
    facts = written(tmp_path, tiny())
    assert largest_error(tmp_path / "net.ncnn.param", tiny(), torch.randn(5, *IMAGE_SHAPE)) <= 1e-5
    assert facts["error_to_torch"] <= 1e-5


def test_slices_with_steps_are_carried_over(tmp_path: Path) -> None:
    module = shortcuts_by_steps()
    facts = written(tmp_path, module, (3, 12, 12))
    assert facts["operators"]["Pooling"] == 2 + 1
    assert largest_error(tmp_path / "net.ncnn.param", module, torch.randn(5, 3, 12, 12)) <= 1e-5


@pytest.mark.parametrize(
    ("index", "steps"),
    [
        ((slice(None), slice(None), slice(None, None, 2), slice(None, None, 3)), (2, 3)),
        ((..., slice(None, None, 2)), (1, 2)),
        ((slice(None), slice(None), slice(0, None, 2)), (2, 1)),
        ((slice(None), slice(None), slice(1, None, 2)), None),
        ((slice(None), slice(None), slice(None, 4, 2)), None),
        ((slice(None), slice(None, None, 2)), None),
        ((slice(None), slice(None)), None),
        ((0, slice(None), slice(None, None, 2)), None),
        (torch.tensor([0]), None),
    ],
)
def test_only_slices_that_are_poolings_are_taken_for_such(index: Any, steps: tuple[int, int] | None) -> None:
    x = torch.randn(1, 3, 8, 9)
    assert conversion._steps(x, index) == steps
    if steps is not None:
        assert torch.equal(torch.nn.functional.max_pool2d(x, 1, steps), x[index])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_a_torchvision_network_computes_what_torch_does(name: str, tmp_path: Path) -> None:
    from torchvision import models

    torch.manual_seed(0)
    module = settled(getattr(models, name)(weights=None, num_classes=100), torch.randn(4, 3, 96, 96))
    facts = written(tmp_path, module, (3, 96, 96))
    error = largest_error(tmp_path / "net.ncnn.param", module, torch.randn(4, 3, 96, 96))
    print(name, error, facts["operators"])
    assert error <= 1e-5
    kinds = facts["operators"]
    convolutions = kinds["Convolution"] + kinds.get("ConvolutionDepthWise", 0)
    assert convolutions == {"resnet18": 20, "mobilenet_v2": 52}[name]


def test_facts_describe_both_files(tmp_path: Path) -> None:
    facts = written(tmp_path, tiny())
    path, weights = tmp_path / "net.ncnn.param", tmp_path / "net.ncnn.bin"
    assert BACKEND.files_of(path) == (path, weights)
    assert sorted(tmp_path.iterdir()) == [weights, path], "nothing else that pnnx writes is kept"
    assert facts["sha256"] == of_file(path)
    assert facts["companions"] == {".bin": {"sha256": of_file(weights), "size_bytes": weights.stat().st_size}}
    assert facts["size_bytes"] == BACKEND.size_of(path)
    assert facts["input"] == {"name": "input", "shape": [1, *IMAGE_SHAPE], "dtype": "float32"}
    assert facts["output"] == {"name": "logits", "shape": [1, 4]}


def test_metadata_is_in_the_last_line(tmp_path: Path) -> None:
    written(tmp_path, tiny())
    assert runtime.read(tmp_path / "net.ncnn.param").about["metadata"] == {"labels": '["ä"]'}


def test_ncnn_itself_reads_the_file_as_it_is(tmp_path: Path) -> None:
    """Its loader stops before our last line, so that an application can use the pair without edgekd."""
    written(tmp_path, tiny())
    net = ncnn.Net()
    assert net.load_param(str(tmp_path / "net.ncnn.param")) == 0
    assert net.load_model(str(tmp_path / "net.ncnn.bin")) == 0
    assert (list(net.input_names()), list(net.output_names())) == (["input"], ["logits"])


EXPORT_IN_A_PROCESS = """
import sys
from pathlib import Path
from tests.backends.ncnn.networks import tiny, written
written(Path(sys.argv[1]), tiny())
"""


def test_same_network_gives_the_same_bytes_twice_and_in_another_process(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("once", "twice", "elsewhere")]
    for folder in folders[:2]:
        written(folder, tiny())
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-W", "ignore", "-c", EXPORT_IN_A_PROCESS, str(folders[2])]
    subprocess.run(command, check=True, env=environment, timeout=600, cwd=Path(__file__).parents[3])
    for name in ("net.ncnn.param", "net.ncnn.bin"):
        assert len({(folder / name).read_bytes() for folder in folders}) == 1, f"{name} differs"


class _Behind(nn.Module):
    """One module, called `odd`, and a layer behind it."""

    def __init__(self, odd: nn.Module) -> None:
        super().__init__()
        self.odd = odd
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.odd(x).mean((1, 2)))  # type: ignore[no-any-return]


class _TopK(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.topk(x, 8, -1)[0]


class _Sums(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(x, 3)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (_TopK(), r"odd: .*torch\.topk_\d.*kind torch\.topk, which ncnn does not have(.|\n)*fix"),
        (_Sums(), r"odd: .*cumsum_\d.*CumulativeSum, which ncnn has and edgekd cannot check"),
    ],
)
def test_a_layer_that_cannot_be_run_is_named_with_its_module(
    odd: nn.Module, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        written(tmp_path, _Behind(odd).eval())
    assert list(tmp_path.iterdir()) == []


class _LooksAtItsData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.flatten(1))
        return logits if float(x.sum()) > 0 else -logits


def test_a_network_that_looks_at_its_data_is_refused(tmp_path: Path) -> None:
    """A trace would keep one of its branches."""
    with pytest.raises(ModelError, match=r"_LooksAtItsData: .*depends on the values of its input"):
        written(tmp_path, _LooksAtItsData().eval())
    assert list(tmp_path.iterdir()) == []


def test_another_network_than_the_modules_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pnnx converts wrongly without a word, here by hand: another stride, with sizes that fit."""
    renamed = conversion._renamed

    def otherwise(line: str, shape: tuple[int, int, int]) -> str:
        return renamed(line, shape).replace("13=2 14=1", "13=1 14=1").replace("3=2 4=1", "3=1 4=1")

    monkeypatch.setattr(conversion, "_renamed", otherwise)
    with pytest.raises(ModelError, match="another network of it: its logits differ by"):
        written(tmp_path, tiny())
    assert list(tmp_path.iterdir()) == []


def test_other_precisions_are_refused(tmp_path: Path) -> None:
    for precision in ("fp16", "int8"):
        with pytest.raises(ModelError, match=f"has no {precision}"):
            export(Source(tiny(), IMAGE_SHAPE, precision), tmp_path / "a.ncnn.param")  # type: ignore[arg-type]


def test_the_network_given_is_not_changed(tmp_path: Path) -> None:
    module = tiny().train()
    written(tmp_path, module)
    assert all(child.training for child in module.modules())
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in module.modules())


def test_pnnx_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "pnnx"
    broken.write_text("#!/bin/sh\necho no such tensor >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(conversion, "_program", lambda: broken)
    with pytest.raises(ModelError, match=r"TinyNet: pnnx failed \(code 3\): no such tensor"):
        written(tmp_path / "out", tiny())


def test_a_crash_between_the_two_names_leaves_no_param(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.ncnn.param"
    write_pair(path, b"old", b"old weights")
    replace, seen = os.replace, []

    def fail_at_the_second(source: Path, target: Path) -> None:
        seen.append(Path(target).suffix)
        if len(seen) == 2:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_at_the_second)
    with pytest.raises(StoreError, match="No space left"):
        write_pair(path, b"new", b"new weights")
    assert seen == [".bin", ".param"]
    assert [file.name for file in tmp_path.iterdir()] == ["a.ncnn.bin"]


def test_pnnx_opens_no_socket_and_starts_no_program(tmp_path: Path) -> None:
    """By the kernel's word: `strace` of a conversion."""
    tracer = Path("/usr/bin/strace")
    if not tracer.is_file():
        pytest.skip("strace is not installed")
    conversion._trace(tiny(), IMAGE_SHAPE, tmp_path / "model.pt")
    command = [str(tracer), "-f", "-e", "trace=network,execve,execveat", "-o", "calls"]
    command += [str(conversion._program()), "model.pt", "inputshape=[1,3,8,8]f32", "fp16=0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=600, check=False)
    if b"ptrace" in done.stderr and b"not permitted" in done.stderr:
        pytest.skip("tracing is not permitted here")
    assert (tmp_path / "model.ncnn.param").is_file()
    calls = [line for line in (tmp_path / "calls").read_text().splitlines() if "(" in line]
    assert len(calls) == 1 and "execve(" in calls[0]
