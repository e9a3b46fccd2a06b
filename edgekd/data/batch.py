"""What training consumes: one batch of images, labels and dataset indices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """`views["x"]` is float32 `[B, C, H, W]` in [0, 1] at the data's resolution, not normalized.

    labels: int64 `[B]`; indices: int64 `[B]`, positions in the split. `variant` numbers the augmentation
    where a loader repeats a fixed number of them, so (index, view, variant) names an image for good.
    """

    views: dict[str, Tensor]
    labels: Tensor
    indices: Tensor
    variant: int | None = None

    def placed(self, place: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with every tensor where `place` puts it."""
        views = {name: place(view) for name, view in self.views.items()}
        return replace(self, views=views, labels=place(self.labels), indices=place(self.indices))
