"""Weights files from anywhere: read, mapped, or refused; never unpickled."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from edgekd.core.errors import ModelError
from edgekd.core.preprocess import Preprocess
from edgekd.core.spec import NetworkSpec
from edgekd.networks.catalogue import build
from edgekd.networks.resize import Normalize
from edgekd.networks.weights import load_strict, map_prefixes, read_state
from edgekd.train.evaluate import accuracy, predict_logits

STATE = {"conv.weight": torch.arange(4.0), "fc.bias": torch.ones(2)}


def keys(path: Path, prefixes: dict[str, str] | None = None) -> list[str]:
    return sorted(read_state(path, prefixes=prefixes))


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "best_prec1": 91.7}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_torch_files_are_read(tmp_path: Path, wrap: Any, prefix: str) -> None:
    torch.save(wrap({prefix + key: value for key, value in STATE.items()}), tmp_path / "w.th")
    assert torch.equal(read_state(tmp_path / "w.th")["conv.weight"], STATE["conv.weight"])


def test_safetensors_are_read(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "w.safetensors")
    assert keys(tmp_path / "w.safetensors") == sorted(STATE)


def test_prefixes_are_mapped_the_longest_first(tmp_path: Path) -> None:
    torch.save({"a.b.w": torch.ones(1), "a.c.w": torch.ones(1)}, tmp_path / "w.pt")
    assert keys(tmp_path / "w.pt", {"a.": "x.", "a.b.": "y."}) == ["x.c.w", "y.w"]


def test_a_mapping_that_merges_two_weights_is_an_error() -> None:
    with pytest.raises(ModelError, match="two weights the name `w`"):
        map_prefixes({"a.w": torch.ones(1), "b.w": torch.ones(1)}, {"a.": "", "b.": ""})


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_hostile_file_is_refused_and_does_nothing(tmp_path: Path, save: Any) -> None:
    save({"w": Hostile(tmp_path / "made")}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"not unpickled|not a readable"):
        read_state(tmp_path / "w.pt")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"text", b"\x00" * 100, b"PK\x03\x04" + b"\xff" * 60])
def test_rubbish_is_a_model_error(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError):
        read_state(tmp_path / name)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_cut_short_is_a_model_error(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    (torch.save if name == "w.pt" else safetensors.torch.save_file)(STATE, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ModelError):
        read_state(path)


def test_a_header_that_claims_more_than_the_file_is_a_model_error(tmp_path: Path) -> None:
    header = b'{"w":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4000000]}}'
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
    with pytest.raises(ModelError, match="not a readable safetensors"):
        read_state(tmp_path / "w.safetensors")


@pytest.mark.parametrize("value", [[1, 2], {"a": 1}, {}, torch.ones(1), {1: torch.ones(1)}])
def test_other_content_is_not_a_state_dict(tmp_path: Path, value: Any) -> None:
    torch.save(value, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="not a state dict"):
        read_state(tmp_path / "w.pt")


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.pt: there is no such file"):
        read_state(tmp_path / "absent.pt")


def test_batch_norm_counters_may_be_missing() -> None:
    norm = torch.nn.BatchNorm2d(2)
    norm.num_batches_tracked.fill_(5)
    state = {key: value for key, value in norm.state_dict().items() if key != "num_batches_tracked"}
    load_strict(norm, state, where="old.th")
    assert norm.num_batches_tracked == 0


def cifar_test(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The 1,000 lossless test images: one mosaic of 25 rows and 40 columns."""
    with zipfile.ZipFile(folder / "cifar10_a.zip") as archive:
        mosaic = np.asarray(Image.open(io.BytesIO(archive.read("test/b50.webp"))).convert("RGB"))
    images = mosaic.reshape(25, 32, 40, 32, 3).transpose(0, 2, 1, 3, 4).reshape(1000, 32, 32, 3)
    labels = json.loads((folder / "labels.json").read_text())["test"]
    return np.ascontiguousarray(images), np.asarray(labels, np.int64)


@pytest.mark.slow
def test_published_resnet_20_scores_what_was_measured(tmp_path: Path, real_data: Path) -> None:
    with zipfile.ZipFile(real_data / "teachers" / "teachers.zip") as archive:
        archive.extract("akamaster-cifar10/resnet20-12fca82f.th", tmp_path)
    path = tmp_path / "akamaster-cifar10" / "resnet20-12fca82f.th"
    network = build(NetworkSpec(name="resnet_cifar", args={"depth": 20}, num_classes=10, in_channels=3))
    load_strict(network, read_state(path), where=str(path))
    preprocess = Preprocess(size=(32, 32), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    images, labels = cifar_test(real_data / "cifar10-lossless")
    logits = predict_logits(network, Normalize(preprocess), images)
    assert accuracy(logits, labels) == pytest.approx(0.915, abs=0.0011)
