"""One trained student in the placement of another runtime."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekd.quant.placing_anew import placed_anew, unquantized
from edgekd.quant.prepare import calibrate, finalize, prepare
from edgekd.quant.quantized_module import QuantizedModule
from edgekd.quant.settings import QuantSettings
from tests.quant.digits import Digits, logits_of, train


@pytest.fixture(scope="module")
def student(trained: nn.Module, data: Digits) -> QuantizedModule:
    """Trained in INT8 for ONNX Runtime, so that its weights and their steps are no longer the float ones."""
    module = prepare(trained, QuantSettings(weight_bits=7), data.train_images[:2])
    calibrate(module, data.train_images[:256].split(128))
    train(module, data, steps=30, learning_rate=5e-4)
    finalize(module)
    return module.eval()


def batches(data: Digits) -> list[torch.Tensor]:
    return list(data.train_images[:256].split(128))


def test_the_weights_keep_their_integers(student: QuantizedModule, data: Digits) -> None:
    placed = placed_anew(student, "tensorrt", batches(data))
    before, after = ({path: layer for path, layer, _ in one.layers()} for one in (student, placed))
    assert before.keys() == after.keys()
    for path, layer in before.items():
        assert torch.equal(
            layer.weight_quantizer.codes(layer.weight), after[path].weight_quantizer.codes(after[path].weight)
        )
        assert torch.equal(layer.weight_quantizer.step, after[path].weight_quantizer.step)


def test_every_activation_is_symmetric_where_the_profile_wants_it(
    student: QuantizedModule, data: Digits
) -> None:
    placed = placed_anew(student, "tensorrt", batches(data))
    assert placed.settings.profile == "tensorrt"
    assert {int(quantizer.zero_point) for _, quantizer in placed.quantizers()} == {0}
    assert any(int(quantizer.zero_point) != 0 for _, quantizer in student.quantizers())


def test_it_answers_like_the_student(student: QuantizedModule, data: Digits) -> None:
    placed = placed_anew(student, "tensorrt", batches(data))
    answers = [logits_of(one, data.test_images).argmax(1) for one in (student, placed)]
    assert (answers[0] == answers[1]).float().mean() > 0.98


def test_the_same_profile_gives_the_same_network_again(student: QuantizedModule, data: Digits) -> None:
    """But for the learned steps of activations, which are measured anew."""
    placed = placed_anew(student, "ort_x86", batches(data))
    assert [path for path, _ in placed.quantizers()] == [path for path, _ in student.quantizers()]


def test_without_quantizers_it_is_the_float_network_of_the_trained_weights(
    student: QuantizedModule, data: Digits
) -> None:
    floating = unquantized(student)
    assert not any("quantiz" in name.lower() for name, _ in floating.named_modules())
    x = data.test_images[:100]
    gap = (logits_of(floating, x) - logits_of(student, x)).abs().mean()
    assert 0 < gap < 0.1 * logits_of(student, x).abs().mean()
    before = dict(student.named_parameters())
    for name, parameter in floating.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter is not before[name]
