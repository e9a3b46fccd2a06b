"""From a torch module to ncnn's text and weights, by pnnx in a process and a folder of its own.

pnnx is a program that comes with its own copy of torch's reader. It is started here, and not by
`pnnx.export`, which ignores how it ended and then imports the Python code that it wrote. It opens no socket
and runs no other program; of the nine files that it writes, two are read.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from edgekd.backends.capture import captured, quiet
from edgekd.backends.ncnn.ncnn_program import INPUT, OUTPUT
from edgekd.core.errors import ModelError

_SECONDS = 1800
_ENDS = {"in0": INPUT, "out0": OUTPUT}
"""pnnx's names of the ends, and ours."""
_POINTED_AT = re.compile(r"torch\.(\w+)\(.*\n\s*~+ <--- HERE")
_REPLACE = "replace that operation, or use the onnx backend for this network"
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
        _run_pnnx(Path(folder), input_shape, type(module).__name__, watch.callers)
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
    watch, x = _Watch(), torch.zeros(1, *input_shape)
    with quiet(), torch.no_grad():
        # A trace keeps one of two branches without a word; this refuses a network that looks at its data.
        captured(module, x, to="ncnn")
        try:
            with watch.following(module), watch:
                traced = torch.jit.trace(module, x, check_trace=False)  # type: ignore[no-untyped-call]
            traced.save(str(path))
        except (RuntimeError, TypeError, ValueError) as error:
            first_line = " ".join(str(error).strip().splitlines()[:1])
            raise ModelError(f"cannot be captured: {first_line}", where=type(module).__name__) from error
    return watch


# --- pnnx ---------------------------------------------------------------------------------------------------


def _run_pnnx(
    folder: Path, input_shape: tuple[int, int, int], where: str, callers: dict[str, set[str]]
) -> None:
    shape = ",".join(str(size) for size in (1, *input_shape))
    command = [str(_program()), "model.pt", f"inputshape=[{shape}]f32", "fp16=0", "device=cpu"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"pnnx has not ended after {_SECONDS} s", where=where) from error
    if done.returncode != 0 or not Path(folder, "model.ncnn.bin").is_file():
        raise _refusal(done.stderr.decode(errors="replace"), done.returncode, where, callers)


def _refusal(said: str, code: int, where: str, callers: dict[str, set[str]]) -> ModelError:
    """By the operation that pnnx's copy of torch points at, where it does."""
    last = next(reversed(said.strip().splitlines()), "it said nothing")
    found = _POINTED_AT.search(said)
    if found is None:
        return ModelError(f"pnnx failed (code {code}): {last}", where=where, fix=_REPLACE)
    modules = ", ".join(
        f"`{name}`" if name else "the network itself" for name in sorted(callers.get(found[1], ()))
    )
    place = f" in {modules}" if modules else ""
    return ModelError(f"pnnx cannot run `torch.{found[1]}`{place}: {last}", where=where, fix=_REPLACE)


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
        called = re.sub(r"_\d+$", "", name)
        modules = callers.get(called.rpartition(".")[2]) or callers.get(_flat(called), set())
        if len(modules) == 1:
            found[name] = next(iter(modules))
    return found


def _flat(name: str) -> str:
    """A function of a part of torch, as its own `__name__` says it: `torch.fft.rfft2` is `fft_rfft2`."""
    return name.removeprefix("torch.").replace(".", "_")
