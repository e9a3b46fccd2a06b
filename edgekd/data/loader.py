"""Batches for training whose content depends on (seed, epoch, batch number) alone.

So training can resume at any batch without the state of a random generator. How an image is augmented
depends on even less: on (seed, variant, view, index), where the variant numbers the augmentations, so that
any view of any image can be made again (`Loader.images`), for instance to cache what a teacher says of it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Generator, Tensor

from edgekd.core import seed as seeds
from edgekd.core.errors import DataError, UsageError
from edgekd.data.array_images import ArrayImages
from edgekd.data.augment import Augment, Draws, augment, draw, rows_of, to_float
from edgekd.data.batch import Batch
from edgekd.data.decode import resize
from edgekd.data.sampling import SAME_CLASS, Sampler, class_uniform, same_class
from edgekd.data.split import Split

MEMORY_BYTES = 2 << 30
_AHEAD = 4
"""Batches that are decoded before they are asked for."""

_Pixels = Mapping[bool, Tensor]
"""uint8 `[B, C, H, W]` of the batch's own images (False), of their partners in `SAME_CLASS` (True)."""


def order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of `count` images in an epoch, int64 `[count]`."""
    random = Generator().manual_seed(seeds.derive(seed, "order", epoch))
    return torch.randperm(count, generator=random)


class Loader:
    """Batches of one split, resized to `image_size` (height, width) and `channels`.

    Every name in `views` is an independently augmented version of the same images (`SAME_CLASS`: of others of
    their classes); without `augment` all are the plain images. With `num_variants` k, epoch e shows variant
    e % k of every image and its batches say so; otherwise every epoch augments anew. `sampler` says how
    batches are made up; `shuffle=False` keeps the split's order (for evaluation). Images in memory are
    converted once; files are decoded by threads some batches ahead, which changes nothing but the speed.
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
        num_variants: int | None = None,
        sampler: Sampler = "shuffled",
    ) -> None:
        """Raises `DataError` when not even one batch can be made, or labels are needed and there are none."""
        self.num_images = len(split)
        self._split = split
        self._shape = (*image_size, channels)
        self._batch_size = batch_size
        self._seed = seed
        self._augment = augment
        self._views = views
        self._drop_last = drop_last
        self._shuffle = shuffle
        self._num_variants = num_variants
        self._sampler = sampler
        self._labels = torch.from_numpy(np.array(split.labels, np.int64))
        self._check()
        self._in_memory = self._converted()
        self._tables = _Tables(split, seed, augment)

    def __len__(self) -> int:
        """Batches per epoch."""
        full, rest = divmod(self.num_images, self._batch_size)
        return full if self._drop_last or rest == 0 else full + 1

    def order(self, epoch: int) -> Tensor:
        """Positions in the split, in the order in which the epoch visits them, int64.

        `[num_images]`, or for the sampler `class_uniform` as many as the epoch's batches hold.
        """
        count = self.num_images
        if not self._shuffle:
            return torch.arange(count)
        if self._sampler == "shuffled":
            return order(count, self._seed, epoch)
        starts = range(0, count, self._batch_size)[: len(self)]
        sizes = [min(self._batch_size, count - start) for start in starts]
        seed = seeds.derive(self._seed, "order", epoch)
        return torch.from_numpy(class_uniform(self._split.labels, sizes, seed))

    def epoch(self, number: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch `number` from batch `start` on."""
        variant = number if self._num_variants is None else number % self._num_variants
        named = None if self._num_variants is None else variant
        chunks = torch.split(self.order(number), self._batch_size)[start : len(self)]
        for indices, pixels in self._load(chunks, variant):
            views = {
                view: self._view(pixels[view == SAME_CLASS], indices, view, variant) for view in self._views
            }
            yield Batch(views, self._labels[indices], indices, named)

    def images(self, indices: Tensor, view: str = "x", variant: int = 0) -> Tensor:
        """What a batch shows of the images at `indices` (int64 `[B]`): float32 `[B, C, H, W]`.

        variant: the batch's; where `num_variants` is None, the number of the epoch.
        """
        positions = self._positions(indices, view == SAME_CLASS, variant)
        return self._view(self._read(positions), indices, view, variant)

    def _view(self, pixels: Tensor, indices: Tensor, view: str, variant: int) -> Tensor:
        if self._augment is None:
            return to_float(pixels)
        return augment(pixels, self._augment, rows_of(self._tables.draws(view, variant), indices))

    def _positions(self, indices: Tensor, partners: bool, variant: int) -> Tensor:
        return self._tables.partners(variant)[indices] if partners else indices

    def _load(self, chunks: Sequence[Tensor], variant: int) -> Iterator[tuple[Tensor, _Pixels]]:
        """The indices and the pixels of each chunk, in order."""
        kinds = {view == SAME_CLASS for view in self._views}
        asked = ((c, {kind: self._positions(c, kind, variant) for kind in kinds}) for c in chunks)
        if self._in_memory is None:
            yield from self._load_ahead(asked)
        else:
            yield from ((chunk, self._read_each(positions)) for chunk, positions in asked)

    def _load_ahead(
        self, asked: Iterator[tuple[Tensor, dict[bool, Tensor]]]
    ) -> Iterator[tuple[Tensor, _Pixels]]:
        waiting: deque[tuple[Tensor, Future[_Pixels]]] = deque()
        pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="edgekd-decode")
        try:
            for chunk, positions in asked:
                waiting.append((chunk, pool.submit(self._read_each, positions)))
                if len(waiting) > _AHEAD:
                    indices, pixels = waiting.popleft()
                    yield indices, pixels.result()
            while waiting:
                indices, pixels = waiting.popleft()
                yield indices, pixels.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _read_each(self, positions: Mapping[bool, Tensor]) -> _Pixels:
        return {kind: self._read(where) for kind, where in positions.items()}

    def _read(self, positions: Tensor) -> Tensor:
        """uint8 `[B, C, H, W]`."""
        return self._decode(positions.tolist()) if self._in_memory is None else self._in_memory[positions]

    def _decode(self, positions: list[int]) -> Tensor:
        *size, channels = self._shape
        images = [resize(image, (size[0], size[1]), channels) for image in self._split.images.get(positions)]
        return _to_tensor(np.stack(images))

    def _converted(self) -> Tensor | None:
        """All images as uint8 `[N, C, H, W]` if they are in memory already and fit as tensors too."""
        images = self._split.images
        num_bytes = len(images) * int(np.prod(self._shape))
        if not isinstance(images, ArrayImages) or num_bytes > MEMORY_BYTES:
            return None
        if images.shape == self._shape:
            return _to_tensor(images.array())
        return self._decode(list(range(len(images))))

    def _check(self) -> None:
        name = self._split.name
        if len(self) == 0:
            raise DataError(
                f"split `{name}` has {self.num_images} images, fewer than one batch of {self._batch_size}",
                fix="lower the batch size",
            )
        by_class = {self._sampler, *self._views} & {"class_uniform", SAME_CLASS}
        if by_class and bool((self._labels < 0).any()):
            asked = ", ".join(sorted(by_class))
            raise DataError(f"split `{name}` has images without labels, which `{asked}` needs")
        if self._num_variants is not None and self._num_variants < 1:
            raise UsageError(f"`num_variants` is {self._num_variants}, and must be at least 1")
        if not self._shuffle and self._sampler != "shuffled":
            raise UsageError(f"`shuffle=False` and the sampler `{self._sampler}` exclude each other")


class _Tables:
    """What chance decided for all images of a split: of one variant at a time, made when asked for."""

    def __init__(self, split: Split, seed: int, settings: Augment | None) -> None:
        self._split = split
        self._seed = seed
        self._settings = settings or Augment()
        self._variant: int | None = None
        self._draws: dict[str, Draws] = {}
        self._partners: Tensor | None = None

    def draws(self, view: str, variant: int) -> Draws:
        """How each image is augmented in the view, columns `[N]`."""
        self._turn_to(variant)
        if view not in self._draws:
            seed = seeds.derive(self._seed, "augment", variant, view)
            self._draws[view] = draw(self._settings, len(self._split), seed)
        return self._draws[view]

    def partners(self, variant: int) -> Tensor:
        """The image that `SAME_CLASS` shows in place of each, int64 `[N]`."""
        self._turn_to(variant)
        if self._partners is None:
            seed = seeds.derive(self._seed, SAME_CLASS, variant)
            self._partners = torch.from_numpy(same_class(self._split.labels, seed))
        return self._partners

    def _turn_to(self, variant: int) -> None:
        if variant != self._variant:
            self._variant, self._draws, self._partners = variant, {}, None


def _to_tensor(images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
    """uint8 `[N, H, W, C]` to a tensor `[N, C, H, W]` of its own memory."""
    return torch.from_numpy(np.array(images.transpose(0, 3, 1, 2), order="C"))
