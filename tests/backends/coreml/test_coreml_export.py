"""The zip of an .mlpackage: what it says computes torch's logits, from the module's own weights.

Nothing here runs Core ML. The program is read back from the bytes and computed by an interpreter of our own.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# coremltools itself logs, and warns, when it is imported; ours does not.
pytest.importorskip("edgekd.backends.coreml.silent", reason="the extra `coreml` is not installed")

import torch
from torch import Tensor, nn

from edgekd.backends.coreml.backend import BACKEND
from edgekd.backends.coreml.baseline import one_node_graph
from edgekd.backends.coreml.export import export
from edgekd.backends.coreml.package import MANIFEST, SPEC, WEIGHTS, Package, unpacked
from edgekd.backends.coreml.silent import coremltools
from edgekd.backends.source import Source
from edgekd.core.digest import of_file
from edgekd.core.errors import ModelError
from edgekd.networks.resnet_cifar import resnet_cifar
from edgekd.testing.tiny_networks import IMAGE_SHAPE, TinyNet
from tests.backends.coreml.interpreter import computed, constant

pytestmark = [pytest.mark.backends, pytest.mark.timeout(1800)]

# torch's compiler, which torch.export imports, sets this; set before, no test seems to do it.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_tests")

METADATA = {"edgekd.labels": '["a", "ä"]', "edgekd.preprocess": '{"scale": 0.5}'}


class Plain(nn.Module):
    """Without batch norms, so that nothing is folded into the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.second = nn.Conv2d(8, 16, 3, 1, 1, groups=2)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))  # type: ignore[no-any-return]


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return settled(TinyNet(), torch.randn(16, *IMAGE_SHAPE))


def plain() -> nn.Module:
    torch.manual_seed(0)
    return Plain().eval()


@torch.no_grad()
def settled(module: nn.Module, images: Tensor) -> nn.Module:
    """`module` with batch-norm statistics of `images`, in evaluation mode."""
    module.train()
    for _ in range(3):
        module(images)
    return module.eval()


def write_all(folder: Path) -> dict[str, dict[str, Any]]:
    """Facts by file name: a network twice in float32 and one without batch norms in both precisions."""
    sources = {
        "tiny": Source(tiny(), IMAGE_SHAPE, "fp32", METADATA),
        "again": Source(tiny(), IMAGE_SHAPE, "fp32", METADATA),
        "fp32": Source(plain(), IMAGE_SHAPE, "fp32"),
        "fp16": Source(plain(), IMAGE_SHAPE, "fp16"),
    }
    return {name: export(source, folder / f"{name}.mlpackage.zip") for name, source in sources.items()}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("coreml")
    return folder, write_all(folder)


def package_of(exported: tuple[Path, Any], name: str) -> Package:
    return unpacked((exported[0] / f"{name}.mlpackage.zip").read_bytes())


def error_of(package: Package, module: nn.Module, x: Tensor) -> float:
    """Largest difference to torch, as a share of the largest logit, over images `[N, C, H, W]`."""
    with torch.no_grad():
        expected = module(x)
        actual = torch.cat([computed(package, x[i : i + 1]) for i in range(len(x))])
    assert actual.dtype == torch.float32
    return float((actual - expected).abs().max() / expected.abs().max())


def weights_of(package: Package) -> dict[str, np.ndarray]:
    """`operation.role` -> the stored values of every weight and bias."""
    stored = {op.outputs[0].name: op for op in package.operations() if op.type == "const"}
    return {
        f"{op.outputs[0].name}.{role}": constant(package, stored[op.inputs[role].arguments[0].name]).numpy()
        for op in package.operations()
        for role in ("weight", "bias")
        if role in op.inputs
    }


def test_float32_weights_are_the_modules_byte_for_byte(exported: tuple[Path, Any]) -> None:
    parameters = [parameter.detach().numpy() for parameter in plain().parameters()]
    stored = list(weights_of(package_of(exported, "fp32")).values())
    assert [(s.dtype, s.shape, s.tobytes()) for s in stored] == [
        (p.dtype, p.shape, p.tobytes()) for p in parameters
    ]


def test_float16_weights_are_the_modules_rounded(exported: tuple[Path, Any]) -> None:
    parameters = [parameter.detach().numpy() for parameter in plain().parameters()]
    stored = list(weights_of(package_of(exported, "fp16")).values())
    assert [s.tobytes() for s in stored] == [p.astype(np.float16).tobytes() for p in parameters]


def test_batch_norms_are_folded_into_the_weights(exported: tuple[Path, Any]) -> None:
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    stored = list(weights_of(package_of(exported, "tiny")).values())
    stages: Any = tiny().stages
    for number, (convolution, norm, _) in enumerate(stages):
        fused = fuse_conv_bn_eval(convolution, norm)
        assert fused.bias is not None
        np.testing.assert_allclose(stored[2 * number], fused.weight.detach(), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(stored[2 * number + 1], fused.bias.detach(), rtol=1e-5, atol=1e-6)


def test_the_program_computes_what_torch_does(exported: tuple[Path, Any]) -> None:
    x = torch.randn(5, *IMAGE_SHAPE)
    assert error_of(package_of(exported, "tiny"), tiny(), x) <= 1e-5
    assert error_of(package_of(exported, "fp32"), plain(), x) <= 1e-5
    assert 0 < error_of(package_of(exported, "fp16"), plain(), x) <= 5e-3


@pytest.mark.slow
def test_slices_with_steps_are_carried_over(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = settled(
        resnet_cifar(num_classes=4, in_channels=3, depth=8, width=0.25), torch.rand(16, 3, 12, 12)
    )
    export(Source(module, (3, 12, 12)), tmp_path / "a.mlpackage.zip")
    package = unpacked((tmp_path / "a.mlpackage.zip").read_bytes())
    assert error_of(package, module, torch.randn(3, 3, 12, 12)) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("name", "precision"), [("resnet18", "fp32"), ("mobilenet_v2", "fp16")])
def test_a_torchvision_network_is_carried_over(name: str, precision: Any, tmp_path: Path) -> None:
    from torchvision import models

    torch.manual_seed(0)
    module = settled(getattr(models, name)(weights=None, num_classes=100), torch.randn(4, 3, 96, 96))
    facts = export(Source(module, (3, 96, 96), precision), tmp_path / "a.mlpackage.zip")
    package = unpacked((tmp_path / "a.mlpackage.zip").read_bytes())
    error = error_of(package, module, torch.randn(2, 3, 96, 96))
    print(name, precision, error, facts["size_bytes"], facts["operators"])
    assert facts["operators"]["conv"] == {"resnet18": 20, "mobilenet_v2": 52}[name]
    assert error <= {"fp32": 1e-5, "fp16": 2e-2}[precision]


def test_facts_are_read_from_the_file(exported: tuple[Path, Any]) -> None:
    folder, facts = exported
    for name in ("fp32", "fp16"):
        path, found = folder / f"{name}.mlpackage.zip", facts[name]
        assert (found["sha256"], found["size_bytes"]) == (of_file(path), BACKEND.size_of(path))
        assert found["input"] == {"name": "input", "shape": [1, *IMAGE_SHAPE], "dtype": "float32"}
        assert found["output"] == {"name": "logits", "shape": [1, 5]}
        assert (found["specification_version"], found["executed"]) == (8, False)
        assert found["operators"]["conv"] == 2
    assert facts["fp32"]["operators"].get("cast") is None
    assert facts["fp16"]["operators"]["cast"] == 2


def test_labels_and_preprocessing_are_in_the_metadata(exported: tuple[Path, Any]) -> None:
    found = package_of(exported, "tiny").spec.description.metadata.userDefined
    assert {key: found[key] for key in METADATA} == METADATA


def test_it_is_a_folder_that_coremltools_opens(exported: tuple[Path, Any], tmp_path: Path) -> None:
    with zipfile.ZipFile(exported[0] / "tiny.mlpackage.zip") as archive:
        assert archive.namelist() == [MANIFEST, SPEC, WEIGHTS]
        archive.extractall(tmp_path)
    model = coremltools.models.MLModel(str(tmp_path / "model.mlpackage"), skip_model_load=True)
    assert [one.name for one in model.get_spec().description.input] == ["input"]
    assert [one.name for one in model.get_spec().description.output] == ["logits"]


EXPORT_IN_A_PROCESS = """
import sys
from pathlib import Path
from tests.backends.coreml.test_coreml_export import write_all
write_all(Path(sys.argv[1]))
"""


def test_same_network_gives_the_same_bytes_twice_and_in_another_process(
    exported: tuple[Path, Any], tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", EXPORT_IN_A_PROCESS, str(tmp_path)]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, env=environment, timeout=1500, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for path in exported[0].iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
    assert of_file(exported[0] / "tiny.mlpackage.zip") == of_file(exported[0] / "again.mlpackage.zip")
    assert done.stdout == ""
    assert "coremltools" not in done.stderr and "Running MIL" not in done.stderr, done.stderr[-2000:]


def test_nothing_of_the_conversion_stays_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    export(Source(plain(), IMAGE_SHAPE), tmp_path / "out/a.mlpackage.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.mlpackage.zip"]


def test_int8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no int8"):
        export(Source(plain(), IMAGE_SHAPE, "int8"), tmp_path / "a.mlpackage.zip")


class _Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svdvals(x).mean((1,))


# coremltools' own folder for weights goes away with its exception, whenever that is.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_operation_that_cannot_be_converted_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"_Odd: coremltools cannot convert.*svd(.|\n)*fix"):
        export(Source(_Odd().eval(), IMAGE_SHAPE), tmp_path / "a.mlpackage.zip")
    assert list(tmp_path.iterdir()) == []


def test_the_baseline_has_one_operation() -> None:
    package = unpacked(one_node_graph())
    assert package.operators() == {"relu": 1}
    assert package.weights == b""
    assert MANIFEST in zipfile.ZipFile(io.BytesIO(one_node_graph())).namelist()
    assert float(computed(package, torch.full((1, 1, 1, 1), -2.0))) == 0
