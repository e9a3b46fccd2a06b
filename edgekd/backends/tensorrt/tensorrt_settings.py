"""What may be asked of TensorRT in a target's options; pushed beside runtime.py, standard library alone."""

from __future__ import annotations

from typing import Any, NamedTuple, Sequence, Tuple  # noqa: UP035 - typing's own, for Python 3.8

Batches = Tuple[int, int, int]  # noqa: UP006
"""Smallest, usual and largest."""

OPTIONS = "tensorrt"
"""The entry of a target's options that holds the `Settings`."""
_KINDS = {
    "a whole number": ("workspace_mib", "optimization_level", "dla_core"),
    "true or false": ("version_compatible", "tf32", "timing_cache", "cuda_graph"),
    "a text": ("hardware_compatibility", "cache"),
    "three whole numbers": ("batches",),
}


class FallbackError(Exception):
    """TensorRT would do something else than asked."""


class Settings(NamedTuple):
    """What may be asked for under `tensorrt` in a target's options."""

    workspace_mib: int = 1024
    optimization_level: int | None = None
    """0 to 5; TensorRT's own default is 3."""
    hardware_compatibility: str | None = None
    """`AMPERE_PLUS`, or `SAME_COMPUTE_CAPABILITY` where the version has it."""
    version_compatible: bool = False
    dla_core: int | None = None
    """Run on this DLA core; what it cannot run goes to the GPU, and is named."""
    tf32: bool = False
    """Let float32 products be computed with 10 bits of mantissa, which is TensorRT's own default."""
    batches: Sequence[int] | None = None
    """Smallest, usual and largest batch of the engine; default: the one that is run, three times."""
    timing_cache: bool = True
    """Keep the times of kernels beside the engines, for the next build."""
    cuda_graph: bool = False
    cache: str | None = None
    """Folder for engines; default: `tensorrt` in edgekd's cache folder."""

    def of_engine(self) -> dict[str, Any]:
        """Those that the engine depends on."""
        others = ("batches", "timing_cache", "cuda_graph", "cache")
        return {name: value for name, value in self._asdict().items() if name not in others}


def settings_of(options: dict[str, Any]) -> Settings:
    """Raises `FallbackError` for what would be ignored."""
    asked = options.get(OPTIONS) or {}
    if not isinstance(asked, dict) or set(asked) - set(Settings._fields):
        raise FallbackError(f"options under `{OPTIONS}` are {', '.join(Settings._fields)}, not {asked!r}")
    settings = Settings(**asked)
    for kind, names in _KINDS.items():
        for name in names:
            value = getattr(settings, name)
            if not (_is(kind, value) or value is None):
                raise FallbackError(f"`{OPTIONS}.{name}` must be {kind}, is {value!r}")
    return settings


def _is(kind: str, value: Any) -> bool:
    if kind == "three whole numbers":
        return isinstance(value, (list, tuple)) and all(_is("a whole number", one) for one in value)
    if kind == "a whole number":
        return type(value) is int and value >= 0
    return isinstance(value, bool if kind == "true or false" else str)


def batches_of(settings: Settings, batch: int) -> Batches:
    """Raises `FallbackError` where `batch` is not among them."""
    if settings.batches is None:
        return batch, batch, batch
    sizes = list(settings.batches)
    if len(sizes) != 3 or sizes != sorted(sizes) or not sizes[0] <= batch <= sizes[2]:
        raise FallbackError(
            f"`{OPTIONS}.batches` is smallest, usual, largest, with {batch} among them, not {sizes}"
        )
    return sizes[0], sizes[1], sizes[2]
