"""A model on disk is two files, read back strictly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from edgekd.core.errors import ModelError
from edgekd.networks.model import Model, build_model, load_model, save_model
from edgekd.networks.tap import TapRecorder
from tests.networks.specs import small_model, small_spec

ROOT = Path(__file__).parents[2]
X = torch.linspace(0, 1, 128).view(2, 1, 8, 8)


def test_a_loaded_model_gives_the_same_logits_bit_for_bit(tmp_path: Path) -> None:
    model = small_model()
    model.module(torch.rand(4, 1, 8, 8))
    save_model(tmp_path, model)
    loaded = load_model(tmp_path)
    assert loaded.spec == model.spec
    assert not loaded.module.training
    assert torch.equal(loaded.module(X), model.module.eval()(X))


def test_a_fresh_process_gives_the_same_logits(tmp_path: Path) -> None:
    model = small_model()
    save_model(tmp_path, model)
    program = (
        "from pathlib import Path; import torch; torch.set_num_threads(1)\n"
        "from edgekd.networks.model import load_model\n"
        "x = torch.linspace(0, 1, 128).view(2, 1, 8, 8)\n"
        f"print(load_model(Path({str(tmp_path)!r})).module(x).detach().numpy().tobytes().hex())\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100, check=True
    )
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = model.module.eval()(X).detach().numpy().tobytes().hex()
    torch.set_num_threads(before)
    assert result.stdout.strip() == expected


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_model(tmp_path / name, small_model())
    for file in ("spec.json", "weights.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_memory_layout_is_not_part_of_what_is_saved(tmp_path: Path) -> None:
    model = small_model()
    save_model(tmp_path / "a", model)
    model.module.to(memory_format=torch.channels_last)
    save_model(tmp_path / "b", model)
    paths = [tmp_path / name / "weights.safetensors" for name in ("a", "b")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("file", ["spec.json", "weights.safetensors"])
@pytest.mark.parametrize("keep", [0, 5, -20])
def test_a_file_cut_short_is_a_model_error(tmp_path: Path, file: str, keep: int) -> None:
    save_model(tmp_path, small_model())
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match="not a readable"):
        load_model(tmp_path)


@pytest.mark.parametrize("file", ["spec.json", "weights.safetensors"])
def test_an_absent_file_is_a_model_error(tmp_path: Path, file: str) -> None:
    save_model(tmp_path, small_model())
    (tmp_path / file).unlink()
    with pytest.raises(ModelError, match=file):
        load_model(tmp_path)


def test_missing_unexpected_and_misshapen_weights_are_listed(tmp_path: Path) -> None:
    model = small_model()
    save_model(tmp_path, model)
    state = dict(model.module.state_dict())
    state["extra"] = state.pop("conv1.weight")
    state["linear.bias"] = torch.zeros(7)
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path)
    message = str(caught.value)
    assert "1 missing: conv1.weight" in message
    assert "1 unexpected: extra" in message
    assert "linear.bias (file [7] torch.float32, network [3] torch.float32)" in message


def test_only_the_first_few_missing_weights_are_listed(tmp_path: Path) -> None:
    save_model(tmp_path, small_model())
    safetensors.torch.save_file({}, tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match=r"missing: .* and \d+ more"):
        load_model(tmp_path)


def test_an_unknown_key_in_the_spec_is_an_error(tmp_path: Path) -> None:
    save_model(tmp_path, small_model())
    spec = json.loads((tmp_path / "spec.json").read_text())
    (tmp_path / "spec.json").write_text(json.dumps(spec | {"surprise": 1}))
    with pytest.raises(ModelError, match="surprise"):
        load_model(tmp_path)


def test_labels_and_channels_must_fit_the_network() -> None:
    spec = small_spec()
    with pytest.raises(ModelError, match="3 classes and the spec 2 labels"):
        build_model(spec.model_copy(update={"labels": ("a", "b")}))
    network = spec.network.model_copy(update={"in_channels": 3})
    with pytest.raises(ModelError, match="3 channels, and the preprocessing gives 1"):
        build_model(spec.model_copy(update={"network": network}))


CODE = """
from torch import nn

def make(*, num_classes, in_channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * in_channels, num_classes))
"""


def test_a_network_from_a_file_is_stored_with_its_code(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "model"
    source.mkdir()
    (source / "mine.py").write_text(CODE)
    model = build_model(small_spec("mine.py:make", {}), trust_code=True, files_root=source)
    save_model(folder, model)
    (source / "mine.py").unlink()
    assert torch.equal(load_model(folder, trust_code=True).module(X), model.module(X))
    with pytest.raises(ModelError, match="trust_code"):
        load_model(folder)


def test_a_model_knows_its_taps() -> None:
    model: Model = small_model()
    with TapRecorder(model.module, ["stage3"], taps=model.taps) as values:
        model.module(X)
    assert values["stage3"].shape == (2, 16, 2, 2)


def test_taps_are_found_for_a_file_that_declares_none(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CODE)
    model = build_model(small_spec("mine.py:make", {}), trust_code=True, files_root=tmp_path)
    assert set(model.taps) == {"embedding", "logits"}


def test_a_file_that_cannot_be_traced_stays_as_it_is(tmp_path: Path) -> None:
    head = "if x.sum() > 0:\n            x = -x\n        return x.flatten(1)[:, :3]"
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\nclass Net(nn.Module):\n    def forward(self, x):\n        "
        f"{head}\n\ndef make(*, num_classes, in_channels):\n    return Net()\n"
    )
    model = build_model(small_spec("mine.py:make", {}), trust_code=True, files_root=tmp_path)
    assert model.taps == {}
    assert model.module(X).shape == (2, 3)
