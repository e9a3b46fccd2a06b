import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekd.core.errors import DataError
from edgekd.data.augment import Augment, augment
from edgekd.data.batch import Batch
from edgekd.data.loader import Loader, order, view_seed
from edgekd.data.sources.image_folder import ImageFolder
from edgekd.data.split import Split
from tests.data.making import array_split, image_folder

AUGMENT = Augment(flip=True, shift=1)


def loader(split: Split | None = None, **changes: Any) -> Loader:
    settings: dict[str, Any] = {
        "image_size": (8, 8),
        "channels": 3,
        "batch_size": 6,
        "seed": 0,
        "augment": AUGMENT,
        "views": ("x", "x2"),
    }
    return Loader(split or array_split(), **{**settings, **changes})


def equal(first: Batch, second: Batch) -> bool:
    return (
        first.views.keys() == second.views.keys()
        and all(torch.equal(view, second.views[name]) for name, view in first.views.items())
        and torch.equal(first.labels, second.labels)
        and torch.equal(first.indices, second.indices)
    )


def test_batches_have_the_promised_form() -> None:
    split = array_split()
    batch = next(loader(split).epoch(0))
    assert batch.views["x"].shape == (6, 3, 8, 8)
    assert batch.views["x"].dtype == torch.float32
    assert batch.labels.dtype == batch.indices.dtype == torch.int64
    np.testing.assert_array_equal(batch.labels.numpy(), split.labels[batch.indices.numpy()])


def test_plain_batches_are_the_images_over_255() -> None:
    split = array_split()
    batch = next(loader(split, augment=None).epoch(0))
    images = np.stack(split.images.get(batch.indices.tolist())).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(batch.views["x"].numpy(), images.astype(np.float32) / np.float32(255))


def test_an_epoch_visits_every_image_once() -> None:
    batches = list(loader(drop_last=False).epoch(3))
    assert [len(batch.labels) for batch in batches] == [6, 6, 6, 2]
    assert sorted(torch.cat([batch.indices for batch in batches]).tolist()) == list(range(20))


def test_dropping_the_last_leaves_whole_batches() -> None:
    assert [len(batch.labels) for batch in loader().epoch(0)] == [6, 6, 6]
    assert (len(loader()), len(loader(drop_last=False)), len(loader(batch_size=5))) == (3, 4, 4)


def test_order_depends_on_seed_and_epoch_alone() -> None:
    torch.manual_seed(5)
    first = order(50, 0, 0)
    torch.manual_seed(6)
    assert torch.equal(first, order(50, 0, 0))
    assert not torch.equal(first, order(50, 0, 1))
    assert not torch.equal(first, order(50, 1, 0))


def test_other_epochs_and_seeds_give_other_batches() -> None:
    first = next(loader().epoch(0))
    assert not equal(first, next(loader().epoch(1)))
    assert not equal(first, next(loader(seed=1).epoch(0)))
    assert equal(first, next(loader().epoch(0)))


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_resuming_at_any_batch_gives_the_same_batches(start: int) -> None:
    whole = list(loader(drop_last=False).epoch(2))
    resumed = list(loader(drop_last=False).epoch(2, start=start))
    assert len(resumed) == len(whole) - start
    assert all(map(equal, resumed, whole[start:]))


def test_views_are_augmented_independently_of_each_other() -> None:
    batch = next(loader().epoch(0))
    assert not torch.equal(batch.views["x"], batch.views["x2"])
    alone = next(loader(views=("x2",)).epoch(0))
    assert torch.equal(alone.views["x2"], batch.views["x2"])


def test_a_view_can_be_made_again_from_its_seed() -> None:
    split = array_split()
    batch = list(loader(split).epoch(4))[2]
    images = torch.from_numpy(np.stack(split.images.get(batch.indices.tolist())).transpose(0, 3, 1, 2).copy())
    assert torch.equal(augment(images, AUGMENT, view_seed(0, 4, 2, "x2")), batch.views["x2"])


def test_without_shuffling_the_order_is_that_of_the_split() -> None:
    batches = list(loader(shuffle=False, drop_last=False).epoch(0))
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(20))


def test_a_split_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(DataError, match="20 images, fewer than one batch of 32"):
        loader(batch_size=32)


def test_images_are_resized_and_converted() -> None:
    batch = next(loader(image_size=(4, 12), channels=1, augment=None).epoch(0))
    assert batch.views["x"].shape == (6, 1, 4, 12)


def test_files_give_the_same_batches_as_memory(tmp_path: Path) -> None:
    root = image_folder(tmp_path, {"a": 15, "b": 15})
    eager, lazy = (
        loader(ImageFolder(root=root, memory_mb=mb, size=8).open(0).train, drop_last=False) for mb in (100, 0)
    )
    assert all(map(equal, eager.epoch(0), lazy.epoch(0)))
    assert all(map(equal, list(eager.epoch(1))[1:], lazy.epoch(1, start=1)))


def test_leaving_an_epoch_early_ends_its_threads(tmp_path: Path) -> None:
    split = ImageFolder(root=image_folder(tmp_path, {"a": 15, "b": 15}), memory_mb=0, size=8).open(0).train
    batches = loader(split, batch_size=2).epoch(0)
    next(batches)
    assert any(thread.name.startswith("edgekd-decode") for thread in threading.enumerate())
    batches.close()  # type: ignore[attr-defined]
    assert not any(thread.name.startswith("edgekd-decode") for thread in threading.enumerate())


def test_a_file_that_vanishes_is_an_error_of_the_epoch(tmp_path: Path) -> None:
    split = ImageFolder(root=image_folder(tmp_path, {"a": 15, "b": 15}), memory_mb=0, size=8).open(0).train
    assert split.ids is not None
    (tmp_path / split.ids[5]).unlink()
    with pytest.raises(DataError, match="cannot decode"):
        list(loader(split, drop_last=False).epoch(0))
