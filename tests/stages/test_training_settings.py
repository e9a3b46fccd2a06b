from __future__ import annotations

import pytest
from pydantic import ValidationError

from edgekd.stages.training_settings import TrainingConfig, seconds


@pytest.mark.parametrize(
    ("num_images", "batch"), [(50_000, 128), (3_840, 128), (899, 29), (480, 16), (100, 16)]
)
def test_without_a_word_small_data_get_at_least_thirty_updates_an_epoch(num_images: int, batch: int) -> None:
    assert TrainingConfig().batch_of(num_images) == batch


def test_a_written_batch_size_holds_but_is_never_more_than_the_images() -> None:
    assert TrainingConfig(batch_size=64).batch_of(899) == 64
    assert TrainingConfig(batch_size=64).batch_of(10) == 10


@pytest.mark.parametrize(("text", "expected"), [("90s", 90.0), ("20m", 1200.0), ("1.5h", 5400.0)])
def test_a_duration_is_a_number_with_its_unit(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["20", "m", "-3m", "1d"])
def test_a_duration_without_unit_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="20m"):
        TrainingConfig(time=text)
