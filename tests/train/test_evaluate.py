"""Scoring arrays of images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.core.errors import DataError
from edgekd.core.preprocess import Preprocess
from edgekd.networks.resize import Normalize
from edgekd.train.evaluate import accuracy, predict_logits

PREPROCESS = Preprocess(size=(4, 4), mean=(0.5,), std=(0.25,))
IMAGES = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 1), dtype=np.uint8)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 3))


def test_logits_are_the_networks_on_the_preprocessed_images() -> None:
    module = network().eval()
    with torch.no_grad():
        expected = module(torch.from_numpy(PREPROCESS.apply(IMAGES))).numpy()
    logits = predict_logits(module, Normalize(PREPROCESS), IMAGES)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_the_batch_size_does_not_matter() -> None:
    results = [predict_logits(network(), Normalize(PREPROCESS), IMAGES, batch_size=b) for b in (1, 3, 10)]
    np.testing.assert_allclose(results[0], results[1], atol=1e-6)
    np.testing.assert_allclose(results[0], results[2], atol=1e-6)


def test_every_part_returns_to_the_mode_it_was_in() -> None:
    module = network().train()
    module[0].eval()
    predict_logits(module, Normalize(PREPROCESS), IMAGES)
    assert [part.training for part in module] == [False, True, True, True]
    assert module[0].num_batches_tracked == 0


def test_accuracy_is_the_share_of_hits() -> None:
    logits = np.array([[1, 2], [3, 0], [0, 1], [5, 4]], np.float32)
    assert accuracy(logits, np.array([1, 0, 0, 0])) == 0.75


@pytest.mark.parametrize("images", [IMAGES[0], IMAGES.astype(np.float32), IMAGES[:0]])
def test_other_arrays_are_refused(images: np.ndarray) -> None:
    with pytest.raises(DataError, match="uint8 images"):
        predict_logits(network(), Normalize(PREPROCESS), images)


def test_labels_of_another_length_are_refused() -> None:
    with pytest.raises(DataError, match="2 predictions and 3 labels"):
        accuracy(np.zeros((2, 2), np.float32), np.zeros(3, np.int64))
