"""A memory of one student and one teacher embedding per training image, kept in a term's `memory`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgekd.core.errors import UsageError
from edgekd.distill.context import Memory
from edgekd.distill.kernels.relate import unit_rows

_UNSEEN = -1


class EmbeddingBank:
    """Rows of unit embeddings by dataset index; it grows to the largest index that it is asked for.

    All state is in `memory` (saved with the training); this object lives for one update. Rows change in
    place: what an update differentiates through is a copy of them (`rows[indices]`). Legend: R rows, d
    dimensions, B samples of the batch. Rows of images not seen yet are random, of length about 1.
    """

    def __init__(self, memory: Memory, like: Tensor, generator: torch.Generator) -> None:
        """like: an embedding [B, d] whose device and dtype the rows have."""
        self._memory = memory
        self._like = like
        self._generator = generator
        for name, value in memory.items():
            # A checkpoint comes back on the CPU.
            memory[name] = value.to(like.device, like.dtype if value.is_floating_point() else value.dtype)

    @property
    def student(self) -> Tensor:
        """[R, d]."""
        return self._memory["student"]

    @property
    def teacher(self) -> Tensor:
        """[R, d]."""
        return self._memory["teacher"]

    @property
    def groups(self) -> Tensor:
        """int64 [R]: what the image's negatives must not be of; -1 for an image not seen yet."""
        return self._memory["groups"]

    @property
    def constants(self) -> Tensor | None:
        """Numbers that the term measures once."""
        return self._memory.get("constants")

    @constants.setter
    def constants(self, value: Tensor) -> None:
        self._memory["constants"] = value

    def grow(self, indices: Tensor) -> None:
        """Make a row for every index up to the largest; raises `UsageError` for samples without an index."""
        lowest, highest = int(indices.min()), int(indices.max())
        if lowest < 0:
            raise UsageError(
                "needs to know which training image a sample is, and these are generated or not indexed",
                fix="use `negatives: batch`",
            )
        missing = highest + 1 - (len(self.groups) if "groups" in self._memory else 0)
        if missing <= 0:
            return
        groups = torch.full((missing,), _UNSEEN, dtype=torch.int64, device=self._like.device)
        new = {"student": self._random_rows(missing), "teacher": self._random_rows(missing), "groups": groups}
        for name, rows in new.items():
            old = [self._memory[name]] if name in self._memory else []
            self._memory[name] = torch.cat([*old, rows])

    def _random_rows(self, count: int) -> Tensor:
        """Uniform entries of variance 1/d."""
        dimension = self._like.shape[1]
        draws = torch.rand(count, dimension, generator=self._generator)
        return ((2 * draws - 1) * math.sqrt(3 / dimension)).to(self._like)

    def meet(self, indices: Tensor, groups: Tensor, student: Tensor, teacher: Tensor) -> None:
        """Rows of images that are seen for the first time become their present embeddings [B, d]."""
        first = self.groups[indices] == _UNSEEN
        self.groups[indices] = groups
        self.student[indices[first]] = student[first]
        self.teacher[indices[first]] = teacher[first]

    def draw(self, count: int) -> Tensor:
        """int64 [n]: `count` rows without repetition, every row alike; all where there are no more."""
        if len(self.groups) <= count:
            return torch.arange(len(self.groups), device=self._like.device)
        return torch.randperm(len(self.groups), generator=self._generator)[:count].to(self._like.device)

    def move(self, indices: Tensor, student: Tensor, teacher: Tensor, momentum: float) -> None:
        """Rows of the batch become n(momentum row + (1 - momentum) embedding); embeddings [B, d]."""
        for rows, new in ((self.student, student), (self.teacher, teacher)):
            rows[indices] = unit_rows(momentum * rows[indices] + (1 - momentum) * new)
