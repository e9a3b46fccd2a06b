"""A quantized model rebuilt from its record."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from edgekd.core.errors import ModelError
from edgekd.core.preprocess import Preprocess
from edgekd.core.spec import ModelSpec, NetworkSpec
from edgekd.networks.model import Model, save_model
from edgekd.quant.prepare import calibrate, finalize, prepare
from edgekd.quant.settings import QuantSettings
from edgekd.quant.transform import apply, transform_record
from tests.quant.digits import MEAN, SIZE, STD, Digits, logits_of, network

READ_AGAIN = """
import sys, numpy, torch
from pathlib import Path
from edgekd.networks.model import load_model
torch.set_num_threads(1)
folder = Path(sys.argv[1])
module = load_model(folder).module
with torch.no_grad():
    logits = module(torch.from_numpy(numpy.load(folder / "images.npy")))
numpy.save(folder / "again.npy", logits.numpy())
"""


def spec(transforms: tuple[dict[str, object], ...]) -> ModelSpec:
    args = {"depth": 8, "width": 0.5, "shortcut": "B"}
    return ModelSpec(
        network=NetworkSpec(name="resnet_cifar", args=args, num_classes=10, in_channels=1),
        preprocess=Preprocess(size=(SIZE, SIZE), mean=(MEAN,), std=(STD,)),
        labels=tuple("0123456789"),
        transforms=transforms,
    )


def test_model_rebuilt_in_a_fresh_process_gives_the_same_logits(
    trained: nn.Module, data: Digits, tmp_path: Path
) -> None:
    import numpy as np

    module = prepare(trained, QuantSettings(weight_bits=7), data.train_images[:2])
    calibrate(module, [data.train_images[:128]])
    finalize(module)
    images = data.test_images[:64]
    np.save(tmp_path / "images.npy", images.numpy())
    save_model(tmp_path, Model(spec((transform_record(module),)), module))
    subprocess.run([sys.executable, "-c", READ_AGAIN, str(tmp_path)], check=True, timeout=100)
    again = np.load(tmp_path / "again.npy", allow_pickle=False)
    assert np.array_equal(again, logits_of(module, images).numpy())


def test_record_is_plain_data_that_names_the_transform(trained: nn.Module, data: Digits) -> None:
    settings = QuantSettings(weight_bits=7, float_modules=("linear",))
    record = transform_record(prepare(trained, settings, data.train_images[:2]))
    assert record["transform"] == "quantize"
    assert apply(network(), record).settings == settings


def test_rebuilt_structure_has_the_same_state(trained: nn.Module, data: Digits) -> None:
    module = prepare(trained, QuantSettings(), data.train_images[:2])
    rebuilt = apply(network(), transform_record(module))
    shapes = {key: value.shape for key, value in module.state_dict().items()}
    assert {key: value.shape for key, value in rebuilt.state_dict().items()} == shapes
    assert all(quantizer.observer is None for _, quantizer in rebuilt.quantizers())


def test_record_with_an_unknown_key_is_refused() -> None:
    with pytest.raises(ModelError, match="not a record"):
        apply(network(), {"transform": "quantize", "bits": 8})


def test_taps_survive_the_rebuilding(trained: nn.Module, data: Digits) -> None:
    module = prepare(trained, QuantSettings(), data.train_images[:2])
    assert apply(network(), transform_record(module)).taps == module.taps
    assert torch.equal(module.linear.weight, trained.linear.weight)  # type: ignore[union-attr]
