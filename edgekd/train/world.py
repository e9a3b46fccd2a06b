"""Several processes that train one model: who this one is, and what they exchange.

torchrun starts them and torch.distributed connects them; every process works on its rows of each batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from edgekd.core.errors import UsageError
from edgekd.data.batch import Batch


@dataclass(frozen=True)
class World:
    """Process `rank` of `size`. With one process everything here leaves its argument as it is."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes checkpoints and tells of progress."""
        return self.rank == 0

    def rows(self, tensor: Tensor) -> Tensor:
        """This process's part of a tensor whose first dimension is the whole batch.

        Raises `UsageError` when the processes cannot get equally many rows: means would not be comparable.
        """
        if self.size == 1:
            return tensor
        if len(tensor) % self.size:
            raise UsageError(
                f"a batch of {len(tensor)} cannot be shared evenly by {self.size} processes",
                fix=f"use a batch size divisible by {self.size}",
            )
        part = len(tensor) // self.size
        return tensor[self.rank * part : (self.rank + 1) * part]

    def share(self, batch: Batch) -> Batch:
        """This process's rows of a batch."""
        if self.size == 1:
            return batch
        views = {name: self.rows(view) for name, view in batch.views.items()}
        return replace(batch, views=views, labels=self.rows(batch.labels), indices=self.rows(batch.indices))

    def gather(self, tensor: Tensor) -> Tensor:
        """The rows of all processes, in the order of the whole batch; each gets the gradient of its own."""
        if self.size == 1:
            return tensor
        gathered: Tensor = _Gather.apply(tensor, self)
        return gathered

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Every gradient becomes its mean over the processes, in one exchange per number type."""
        if self.size > 1:
            _average([p.grad for p in parameters if p.grad is not None], self.size)

    def average_buffers(self, module: nn.Module) -> None:
        """Floating buffers (running statistics) become their mean over the processes."""
        if self.size > 1:
            _average([b for b in module.buffers() if b.is_floating_point()], self.size)

    def average(self, values: Mapping[str, float]) -> dict[str, float]:
        """The mean over the processes of every value; all must have the same names."""
        if self.size == 1:
            return dict(values)
        tensor = torch.tensor([values[name] for name in sorted(values)], dtype=torch.float64)
        dist.all_reduce(tensor)
        averaged = dict(zip(sorted(values), (tensor / self.size).tolist(), strict=True))
        return {name: averaged[name] for name in values}

    def told(self, value: float) -> float:
        """What the leading process says; the others' values are ignored."""
        if self.size == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(tensor, src=0)
        return float(tensor)


ALONE = World()


@contextmanager
def joined() -> Iterator[World]:
    """The world that torchrun started this process in; `ALONE` without torchrun."""
    if "RANK" not in os.environ:
        yield ALONE
        return
    # Imported later, by an optimizer for example, its default arguments hold the group that is there by then,
    # which so outlives `destroy_process_group`: its threads may abort the process while Python shuts down.
    import torch.distributed.nn.functional

    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    """All rows forward; backward, the sum over the processes of the gradient of this process's rows."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, world: World) -> Tensor:
        ctx.world = world
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole = gradients[0].contiguous().clone()
        dist.all_reduce(whole)
        return ctx.world.rows(whole), None


def _average(tensors: list[Tensor], size: int) -> None:
    for dtype in sorted({tensor.dtype for tensor in tensors}, key=str):
        same = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in same])
        dist.all_reduce(flat)
        flat /= size
        parts = torch.split(flat, [tensor.numel() for tensor in same])
        for tensor, part in zip(same, parts, strict=True):
            tensor.detach().copy_(part.view(tensor.shape))
