"""Prepare, calibrate, train, finalize."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from edgekd.core.errors import DataError, ModelError
from edgekd.networks.tap import TapRecorder
from edgekd.quant.layers import QuantizedLinear, bias_codes
from edgekd.quant.prepare import calibrate, finalize, prepare, step_parameters
from edgekd.quant.quantized_module import QuantizedModule
from edgekd.quant.settings import QuantSettings
from tests.quant.digits import Digits, logits_of, train


def calibrated(trained: nn.Module, data: Digits, **settings: object) -> QuantizedModule:
    module = prepare(trained, QuantSettings.model_validate(settings), data.train_images[:2])
    calibrate(module, data.train_images[:256].split(128))
    return module


def accuracy(module: nn.Module, data: Digits) -> float:
    return float((logits_of(module, data.test_images).argmax(1) == data.test_labels).float().mean())


def test_prepared_network_computes_in_float_until_it_is_calibrated(trained: nn.Module, data: Digits) -> None:
    module = prepare(trained, QuantSettings(), data.train_images[:2])
    x = data.test_images[:50]
    torch.testing.assert_close(logits_of(module, x), logits_of(trained, x), rtol=1e-4, atol=1e-4)


def test_post_training_quantization_keeps_accuracy(trained: nn.Module, data: Digits) -> None:
    module = calibrated(trained, data)
    finalize(module)
    assert accuracy(module, data) > accuracy(trained, data) - 0.01


def test_fewer_bits_compute_something_else(trained: nn.Module, data: Digits) -> None:
    x = data.test_images[:200]
    errors = [
        (logits_of(calibrated(trained, data, weight_bits=bits), x) - logits_of(trained, x))
        .abs()
        .mean()
        .item()
        for bits in (8, 7, 4, 2)
    ]
    assert errors == sorted(errors)


def test_the_network_given_is_left_alone(trained: nn.Module, data: Digits) -> None:
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    train(calibrated(trained, data), data, steps=1, learning_rate=0.1)
    assert all(torch.equal(value, before[key]) for key, value in trained.state_dict().items())


def test_training_reduces_the_loss_and_moves_all_parameters(trained: nn.Module, data: Digits) -> None:
    module = calibrated(trained, data, weight_bits=3)
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    losses = train(module, data, steps=40, learning_rate=1e-3)
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    unmoved = [name for name, value in module.named_parameters() if torch.equal(value, before[name])]
    assert unmoved == []


def test_steps_stay_when_they_are_not_learned(trained: nn.Module, data: Digits) -> None:
    module = calibrated(trained, data, learn_steps=False)
    before = [float(quantizer.step) for _, quantizer in module.quantizers()]
    train(module, data, steps=2, learning_rate=0.1)
    assert [float(quantizer.step) for _, quantizer in module.quantizers()] == before
    assert step_parameters(module) == []


def test_step_parameters_are_all_the_steps(trained: nn.Module, data: Digits) -> None:
    module = calibrated(trained, data)
    assert len(step_parameters(module)) == len(list(module.quantizers())) + len(list(module.layers()))


def test_finalized_biases_are_integers_times_the_kernel_step(trained: nn.Module, data: Digits) -> None:
    module = calibrated(trained, data)
    finalize(module)
    for path, layer, input_step in module.layers():
        assert input_step is not None and layer.bias is not None
        codes, step = bias_codes(layer, input_step)
        assert torch.equal(codes * step, layer.bias), path
        assert codes.abs().max() > 0


def test_finalizing_twice_changes_nothing(trained: nn.Module, data: Digits) -> None:
    module = calibrated(trained, data)
    finalize(module)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    finalize(module)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_exported_form_computes_the_same_bit_for_bit(trained: nn.Module, data: Digits) -> None:
    module = calibrated(trained, data)
    train(module, data, steps=3, learning_rate=1e-3)
    finalize(module)
    expected = logits_of(module, data.test_images[:300])
    assert torch.equal(logits_of(module.exportable(), data.test_images[:300]), expected)
    assert torch.equal(logits_of(module, data.test_images[:300]), expected), "exporting changed the module"


def test_training_and_evaluation_mode_compute_the_same(trained: nn.Module, data: Digits) -> None:
    module = calibrated(trained, data)
    x = data.test_images[:100]
    assert torch.equal(module.train()(x), module.eval()(x))


def test_export_of_an_unfinished_module_says_what_is_missing(trained: nn.Module, data: Digits) -> None:
    module = prepare(trained, QuantSettings(), data.train_images[:2])
    with pytest.raises(ModelError, match="finalize"):
        module.exportable()
    with pytest.raises(ModelError, match="finalize"):
        calibrated(trained, data).exportable()


def test_a_dead_channel_with_a_bias_fits_int32() -> None:
    linear = nn.Linear(3, 2)
    nn.init.zeros_(linear.weight[0])
    nn.init.constant_(linear.bias, 5.0)
    network = nn.Sequential(linear, nn.ReLU(), nn.Linear(2, 2)).eval()
    module = prepare(network, QuantSettings(), torch.rand(2, 3))
    calibrate(module, [torch.rand(8, 3)])
    finalize(module)
    _, layer, step = next(module.layers())
    assert isinstance(layer, QuantizedLinear) and step is not None
    assert bias_codes(layer, step)[0].abs().max() <= 2**31 - 1
    assert layer.bias[0].item() == pytest.approx(5.0, rel=1e-6)


def test_calibration_without_images_is_an_error(trained: nn.Module, data: Digits) -> None:
    module = prepare(trained, QuantSettings(), data.train_images[:2])
    with pytest.raises(DataError, match="at least one batch"):
        calibrate(module, [])


def test_calibration_on_values_that_are_not_finite_is_an_error(trained: nn.Module, data: Digits) -> None:
    module = prepare(trained, QuantSettings(), data.train_images[:2])
    with pytest.raises(ModelError, match="not finite"):
        calibrate(module, [torch.full_like(data.train_images[:2], float("nan"))])


def test_network_that_folding_would_change_is_refused() -> None:
    class Remembering(nn.Module):
        """What it computes is not in its trace."""

        def __init__(self) -> None:
            super().__init__()
            self.factor = 1.0

        def forward(self, x: Tensor) -> Tensor:
            self.factor += 1.0
            return x * self.factor

    with pytest.raises(ModelError, match="folding"):
        prepare(Remembering(), QuantSettings(), torch.ones(1, 3))


def test_copies_keep_taps_settings_and_values(trained: nn.Module, data: Digits) -> None:
    module = calibrated(trained, data, weight_bits=5)
    copied = copy.deepcopy(module)
    assert copied.taps == module.taps and copied.settings == module.settings
    x = data.test_images[:10]
    assert torch.equal(copied(x), module(x))
    train(copied, data, steps=1, learning_rate=0.1)
    assert not torch.equal(copied(x), module(x))


def test_taps_are_where_the_network_had_them(trained: nn.Module, data: Digits) -> None:
    module = calibrated(trained, data)
    x = data.test_images[:64]
    with TapRecorder(trained, trained.taps) as before:  # type: ignore[arg-type]
        trained(x)
    with TapRecorder(module, module.taps) as after:
        module(x)
    assert set(after) == set(before)
    for name, value in before.items():
        assert torch.corrcoef(torch.stack([value.flatten(), after[name].flatten()]))[0, 1] > 0.99, name
