"""The settings under which the same seed gives the same weights, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from edgekd.core.errors import UsageError
from edgekd.core.seed import derive


@contextmanager
def reproducible(num_threads: int | None = None) -> Iterator[None]:
    """Deterministic algorithms and, if given, a fixed number of threads; the old settings return on leaving.

    Results depend on the number of threads: sums are split between them. Operations that have no
    deterministic form warn (GPU only). Raises `UsageError` for a number below 1.
    """
    if num_threads is not None and num_threads < 1:
        raise UsageError(f"the number of threads must be at least 1, not {num_threads}")
    before = _settings()
    # Filling fresh memory with NaN would find bugs in kernels, at the price of a pass over every tensor.
    _apply((True, True, False, True, False, num_threads or torch.get_num_threads()))
    try:
        yield
    finally:
        _apply(before)


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Make the global stream a function of (seed, step), so dropout needs no state to resume from.

    Every further process draws from a stream of its own.
    """
    torch.manual_seed(derive(seed, "step", step, *([rank] if rank else [])))


_Settings = tuple[bool, bool, bool, bool, bool, int]


def _settings() -> _Settings:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.get_num_threads(),
    )


def _apply(settings: _Settings) -> None:
    enabled, warn_only, fill, cudnn_deterministic, cudnn_benchmark, num_threads = settings
    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
    torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = cudnn_deterministic
    torch.backends.cudnn.benchmark = cudnn_benchmark
    torch.set_num_threads(num_threads)
