"""Batches for training whose content depends on (seed, epoch, batch number) alone.

So training can resume at any batch without the state of a random generator, and every view of every batch
can be made again later (`view_seed`), for instance for a cache of a teacher's outputs.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Generator, Tensor

from edgekd.core import seed as seeds
from edgekd.core.errors import DataError
from edgekd.data.array_images import ArrayImages
from edgekd.data.augment import Augment, augment, to_float
from edgekd.data.batch import Batch
from edgekd.data.decode import resize
from edgekd.data.split import Split

MEMORY_BYTES = 2 << 30
_AHEAD = 4
"""Batches that are decoded before they are asked for."""


def order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of `count` images in an epoch, int64 `[count]`."""
    random = Generator().manual_seed(seeds.derive(seed, "order", epoch))
    return torch.randperm(count, generator=random)


def view_seed(seed: int, epoch: int, number: int, view: str) -> int:
    """The augmentation seed of a view of batch `number` of an epoch."""
    return seeds.derive(seed, "augment", epoch, number, view)


class Loader:
    """Batches of one split, resized to `image_size` (height, width) and `channels`.

    Every name in `views` is an independently augmented version of the same images; without `augment` all are
    the plain images. `shuffle=False` keeps the split's order (for evaluation). Images in memory are converted
    once; files are decoded by threads some batches ahead, which changes nothing but the speed.
    """

    def __init__(
        self,
        split: Split,
        *,
        image_size: tuple[int, int],
        channels: int,
        batch_size: int,
        seed: int,
        augment: Augment | None,
        views: tuple[str, ...] = ("x",),
        drop_last: bool = True,
        shuffle: bool = True,
    ) -> None:
        """Raises `DataError` when not even one batch can be made."""
        self._split = split
        self._shape = (*image_size, channels)
        self._batch_size = batch_size
        self._seed = seed
        self._augment = augment
        self._views = views
        self._drop_last = drop_last
        self._shuffle = shuffle
        self._labels = torch.from_numpy(np.array(split.labels, np.int64))
        if len(self) == 0:
            raise DataError(
                f"split `{split.name}` has {len(split)} images, fewer than one batch of {batch_size}",
                fix="lower the batch size",
            )
        self._pixels = self._in_memory()

    def __len__(self) -> int:
        """Batches per epoch."""
        full, rest = divmod(len(self._split), self._batch_size)
        return full if self._drop_last or rest == 0 else full + 1

    def order(self, epoch: int) -> Tensor:
        """Positions in the split, in the order in which the epoch visits them, int64 `[N]`."""
        count = len(self._split)
        return order(count, self._seed, epoch) if self._shuffle else torch.arange(count)

    def epoch(self, number: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch `number` from batch `start` on."""
        chunks = torch.split(self.order(number), self._batch_size)[start : len(self)]
        for offset, (indices, images) in enumerate(self._load(chunks)):
            yield self._batch(number, start + offset, indices, images)

    def _batch(self, epoch: int, number: int, indices: Tensor, images: Tensor) -> Batch:
        views = {view: self._view(images, epoch, number, view) for view in self._views}
        return Batch(views, self._labels[indices], indices)

    def _view(self, images: Tensor, epoch: int, number: int, view: str) -> Tensor:
        if self._augment is None:
            return to_float(images)
        return augment(images, self._augment, view_seed(self._seed, epoch, number, view))

    def _load(self, chunks: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, Tensor]]:
        """(indices, uint8 images `[B, C, H, W]`) of each chunk, in order."""
        if self._pixels is not None:
            yield from ((chunk, self._pixels[chunk]) for chunk in chunks)
        else:
            yield from self._load_ahead(chunks)

    def _load_ahead(self, chunks: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, Tensor]]:
        waiting: deque[tuple[Tensor, Future[Tensor]]] = deque()
        pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="edgekd-decode")
        try:
            for chunk in chunks:
                waiting.append((chunk, pool.submit(self._decode, chunk.tolist())))
                if len(waiting) > _AHEAD:
                    indices, images = waiting.popleft()
                    yield indices, images.result()
            while waiting:
                indices, images = waiting.popleft()
                yield indices, images.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _decode(self, indices: list[int]) -> Tensor:
        *size, channels = self._shape
        images = [resize(image, (size[0], size[1]), channels) for image in self._split.images.get(indices)]
        return _to_tensor(np.stack(images))

    def _in_memory(self) -> Tensor | None:
        """All images as uint8 `[N, C, H, W]` if they are in memory already and fit as tensors too."""
        images = self._split.images
        num_bytes = len(images) * int(np.prod(self._shape))
        if not isinstance(images, ArrayImages) or num_bytes > MEMORY_BYTES:
            return None
        if images.shape == self._shape:
            return _to_tensor(images.array())
        return self._decode(list(range(len(images))))


def _to_tensor(images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
    """uint8 `[N, H, W, C]` to a tensor `[N, C, H, W]` of its own memory."""
    return torch.from_numpy(np.array(images.transpose(0, 3, 1, 2), order="C"))
