"""From a torch module to ncnn's text and weights, by pnnx in a process and a folder of its own.

pnnx is a program that comes with its own copy of torch's reader. It is started here, and not by
`pnnx.export`, which ignores how it ended and then imports the Python code that it wrote. It opens no socket
and runs no other program; of the nine files that it writes, two are read.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from edgekd.backends.ncnn.runtime import INPUT, OUTPUT
from edgekd.core.errors import ModelError

_SECONDS = 1800
_ENDS = {"in0": INPUT, "out0": OUTPUT}
"""pnnx's names of the ends, and ours."""
_AS_PNNX_SAYS = {"getitem": "slice"}


@dataclass(frozen=True)
class Converted:
    """What pnnx made of a module."""

    text: str
    """The .param, with our names of its ends and the input's shape."""
    weights: bytes
    makers: dict[str, str]
    """Name of a layer -> the module that called the function it is named after, where only one did."""


def converted(module: nn.Module, input_shape: tuple[int, int, int]) -> Converted:
    """Raises `ModelError` when torch cannot trace the module or pnnx cannot read it."""
    with tempfile.TemporaryDirectory(prefix="edgekd-ncnn-") as folder:
        watch = _trace(module, input_shape, Path(folder, "model.pt"))
        _run_pnnx(Path(folder), input_shape, type(module).__name__)
        text = Path(folder, "model.ncnn.param").read_text(encoding="ascii")
        weights = Path(folder, "model.ncnn.bin").read_bytes()
    lines = [_renamed(line, input_shape) for line in text.splitlines()]
    return Converted("\n".join(lines) + "\n", weights, _makers(lines, watch.callers))


# --- torch --------------------------------------------------------------------------------------------------


class _Watch(TorchFunctionMode):
    """Notes which module calls which function, and writes `x[..., ::n, ::n]` in a form that ncnn has.

    ncnn's Crop takes no steps (the shortcuts of CIFAR ResNets do); a pooling over one value with steps gives
    the same values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.path: list[str] = []
        self.callers: dict[str, set[str]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "").strip("_")
        where = self.path[-1] if self.path else ""
        self.callers.setdefault(_AS_PNNX_SAYS.get(name, name), set()).add(where)
        steps = _steps(*args) if func is Tensor.__getitem__ else None
        if steps is not None:
            return F.max_pool2d(args[0], 1, steps)
        return func(*args, **(kwargs or {}))

    @contextmanager
    def following(self, module: nn.Module) -> Iterator[None]:
        """With `path` holding the name of the module that runs."""
        hooks = []
        for name, child in module.named_modules():
            hooks.append(child.register_forward_pre_hook(lambda *_, name=name: self.path.append(name)))
            hooks.append(child.register_forward_hook(lambda *_: _drop_last(self.path)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _drop_last(path: list[str]) -> None:
    path.pop()  # and returns nothing, which would replace the module's result


def _steps(x: Tensor, index: Any) -> tuple[int, int] | None:
    """(of rows, of columns), where `x[index]` takes every n-th of them from the first on and nothing else."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in [part for part in parts if not isinstance(part, Tensor)]:
        at = next(number for number, part in enumerate(parts) if part is Ellipsis)
        parts[at : at + 1] = [slice(None)] * (x.ndim - len(parts) + 1)
    parts += [slice(None)] * (x.ndim - len(parts))
    whole = all(isinstance(p, slice) and p.start in (None, 0) and p.stop is None for p in parts)
    if x.ndim != 4 or len(parts) != 4 or not whole:
        return None
    steps = [part.step or 1 for part in parts]
    return (steps[2], steps[3]) if steps[:2] == [1, 1] and max(steps) > 1 else None


def _trace(module: nn.Module, input_shape: tuple[int, int, int], path: Path) -> _Watch:
    """Write what pnnx reads, TorchScript; returns who called what."""
    from torch._dynamo.exc import UserError

    watch, x = _Watch(), torch.zeros(1, *input_shape)
    with _quiet(), torch.no_grad():
        try:
            # A trace keeps one of two branches without a word; this refuses a network that looks at its data.
            torch.export.export(module, (x,), strict=False)
            with watch.following(module), watch:
                traced = torch.jit.trace(module, x, check_trace=False)  # type: ignore[no-untyped-call]
            traced.save(str(path))
        except (UserError, RuntimeError, TypeError, ValueError) as error:
            first_line = " ".join(str(error).strip().splitlines()[:1])
            raise ModelError(f"cannot be captured: {first_line}", where=type(module).__name__) from error
    return watch


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch.jit says of its own future, and torch.export of a graph that it gives up."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch.fx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


# --- pnnx ---------------------------------------------------------------------------------------------------


def _run_pnnx(folder: Path, input_shape: tuple[int, int, int], where: str) -> None:
    shape = ",".join(str(size) for size in (1, *input_shape))
    command = [str(_program()), "model.pt", f"inputshape=[{shape}]f32", "fp16=0", "device=cpu"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"pnnx has not ended after {_SECONDS} s", where=where) from error
    if done.returncode != 0 or not Path(folder, "model.ncnn.bin").is_file():
        said = done.stderr.decode(errors="replace").strip().splitlines()[-3:]
        raise ModelError(f"pnnx failed (code {done.returncode}): {' '.join(said)}", where=where)


def _program() -> Path:
    """The executable in the package, which `import pnnx` would import torch and more for."""
    specification = importlib.util.find_spec("pnnx")
    if specification is None or specification.origin is None:
        raise ModuleNotFoundError("No module named 'pnnx'", name="pnnx")
    folder = Path(specification.origin).parent
    return next(path for path in (folder / "pnnx", folder / "pnnx.exe") if path.is_file())


def _renamed(line: str, input_shape: tuple[int, int, int]) -> str:
    """A line of the .param with our names of the ends, and with the shape of the input."""
    words = line.split()
    if len(words) < 4:
        return " ".join(words)
    end = 4 + int(words[2]) + int(words[3])
    words[4:end] = [_ENDS.get(word, word) for word in words[4:end]]
    if words[0] == "Input" and words[4:end] == [INPUT]:
        channels, height, width = input_shape
        words[1:2], words[end:] = [INPUT], [f"0={width}", f"1={height}", f"2={channels}"]
    return " ".join(words)


def _makers(lines: list[str], callers: dict[str, set[str]]) -> dict[str, str]:
    """pnnx calls layers after the function that they are from: `torch.topk_1`, `cumsum_3`."""
    found = {}
    for name in (line.split()[1] for line in lines[2:]):
        modules = callers.get(re.sub(r"_\d+$", "", name).rpartition(".")[2], set())
        if len(modules) == 1:
            found[name] = next(iter(modules))
    return found
