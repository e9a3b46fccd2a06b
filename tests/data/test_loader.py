import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgekd.core.errors import DataError, UsageError
from edgekd.data.array_images import ArrayImages
from edgekd.data.augment import Augment
from edgekd.data.batch import Batch
from edgekd.data.loader import Loader, order
from edgekd.data.sampling import SAME_CLASS
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


@pytest.mark.parametrize("view", ["x", "x2", SAME_CLASS])
@pytest.mark.parametrize("rows", [[4], [19, 0, 4], list(range(20))])
def test_any_view_of_any_images_can_be_made_again(view: str, rows: list[int]) -> None:
    """Bit for bit, whatever else stands in the batch."""
    settings: dict[str, Any] = {"views": ("x", "x2", SAME_CLASS), "num_variants": 3, "drop_last": False}
    first, other = loader(**settings), loader(**settings, batch_size=7)
    shown: dict[int, Tensor] = {}
    for batch in other.epoch(4):
        shown |= dict(zip(batch.indices.tolist(), batch.views[view], strict=True))
    again = first.images(torch.tensor(rows), view, variant=1)
    assert all(torch.equal(image, shown[row]) for row, image in zip(rows, again, strict=True))


def test_variants_return_in_turn_and_batches_name_them() -> None:
    one = loader(num_variants=3, drop_last=False, batch_size=20)
    epochs = [next(one.epoch(number)) for number in range(7)]
    assert [batch.variant for batch in epochs] == [0, 1, 2, 0, 1, 2, 0]
    in_order = [batch.views["x"][batch.indices.argsort()] for batch in epochs]
    assert torch.equal(in_order[0], in_order[3]) and torch.equal(in_order[1], in_order[4])
    assert not torch.equal(in_order[0], in_order[1])
    assert not torch.equal(epochs[0].indices, epochs[3].indices), "the order is another every epoch"


def test_without_variants_every_epoch_augments_anew_and_its_number_names_it() -> None:
    one = loader(drop_last=False, batch_size=20)
    epochs = [next(one.epoch(number)) for number in (0, 1, 5)]
    assert [batch.variant for batch in epochs] == [None] * 3
    in_order = [batch.views["x2"][batch.indices.argsort()] for batch in epochs]
    assert not torch.equal(in_order[0], in_order[1])
    assert torch.equal(one.images(torch.arange(20), "x2", variant=5), in_order[2])


def test_a_view_is_the_same_whatever_other_views_there_are() -> None:
    alone = loader(views=("x",)).images(torch.arange(20), "x", 2)
    assert torch.equal(alone, loader(views=("x2", "x", SAME_CLASS)).images(torch.arange(20), "x", 2))


def test_the_second_view_of_the_class_shows_another_image_of_it() -> None:
    """Images that tell who they are: every pixel of image i is 10 i."""
    pixels = np.repeat(np.arange(20, dtype=np.uint8) * 10, 8 * 8 * 3).reshape(20, 8, 8, 3)
    split = Split("train", ArrayImages(pixels), np.arange(20) % 4)
    batch = next(loader(split, augment=None, views=("x", SAME_CLASS)).epoch(0))
    shown, partners = ((batch.views[v][:, 0, 0, 0] * 25.5).round().int() for v in ("x", SAME_CLASS))
    assert torch.equal(shown, batch.indices.int())
    assert torch.equal(partners % 4, shown % 4)
    assert not (partners == shown).any()


def test_the_partner_is_augmented_by_itself() -> None:
    pixels = np.tile(np.arange(8, dtype=np.uint8) * 30, (40, 8, 1))[..., None].repeat(3, axis=3)
    split = Split("train", ArrayImages(pixels), np.zeros(40, np.int64))
    batch = next(loader(split, batch_size=40, views=("x", SAME_CLASS)).epoch(0))
    equal_images = (batch.views["x"] == batch.views[SAME_CLASS]).flatten(1).all(1)
    assert 0 < int(equal_images.sum()) < 30, "the same picture, moved in its own way"


@pytest.mark.parametrize("start", [0, 2, 5])
def test_class_uniform_batches_resume_anywhere(start: int) -> None:
    split = Split("train", array_split(40).images, np.array([0] * 30 + [1] * 7 + [2] * 3))
    settings: dict[str, Any] = {"sampler": "class_uniform", "views": ("x", SAME_CLASS), "drop_last": False}
    whole = list(loader(split, **settings).epoch(2))
    resumed = list(loader(split, **settings).epoch(2, start=start))
    assert len(whole) == len(loader(split, **settings)) == 7
    assert len(resumed) == 7 - start and all(map(equal, resumed, whole[start:]))
    assert [len(batch.labels) for batch in whole] == [6] * 6 + [4]
    assert all(batch.labels.bincount().tolist() == [2, 2, 2] for batch in whole[:6])


@pytest.mark.parametrize("settings", [{"sampler": "class_uniform"}, {"views": ("x", SAME_CLASS)}])
def test_what_needs_labels_is_refused_for_images_without(settings: dict[str, Any]) -> None:
    split = Split("unlabeled", array_split().images, np.full(20, -1))
    with pytest.raises(DataError, match="`unlabeled` has images without labels"):
        loader(split, **settings)
    assert next(loader(split).epoch(0)).labels.tolist() == [-1] * 6


@pytest.mark.parametrize("settings", [{"num_variants": 0}, {"sampler": "class_uniform", "shuffle": False}])
def test_settings_without_meaning_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"at least 1|exclude each other"):
        loader(**settings)


def test_a_loader_knows_its_number_of_images() -> None:
    assert loader().num_images == 20


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
        loader(
            ImageFolder(root=root, memory_mb=mb, size=8).open(0).train,
            drop_last=False,
            views=("x", "x2", SAME_CLASS),
        )
        for mb in (100, 0)
    )
    assert all(map(equal, eager.epoch(0), lazy.epoch(0)))
    assert torch.equal(*(one.images(torch.tensor([3, 1]), SAME_CLASS, 2) for one in (eager, lazy)))
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
