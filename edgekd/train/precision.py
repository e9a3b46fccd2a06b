"""Device, number type and memory layout of a training, chosen by what the machine can do.

Measured: bfloat16 on a CPU without AVX512_BF16 or AMX is 14 times slower than float32; channels-last
convolutions on a CPU are 2.4 times faster than channels-first.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgekd.core.errors import UsageError

NumberType = Literal["fp32", "bf16", "fp16"]
Setting = Literal["auto", "fp32", "bf16", "fp16"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CPU_FLAGS = ("avx512_bf16", "amx_bf16")


def resolve_device(name: str) -> torch.device:
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:N`. Raises `UsageError` listing the devices."""
    devices = available_devices()
    if name == "auto":
        return torch.device(devices[1] if len(devices) > 1 else "cpu")
    if name == "cuda" and "cuda:0" in devices:
        return torch.device("cuda:0")
    if name not in devices:
        raise UsageError(f"`{name}` is not a device of this machine", choices=["auto", *devices])
    return torch.device(name)


def available_devices() -> list[str]:
    """`cpu` and the GPUs that torch can use."""
    return ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The instruction sets of the CPU; empty where they cannot be read (not Linux)."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    named = (line.partition(":") for line in lines)
    return frozenset(next((v.split() for key, _, v in named if key.strip() in ("flags", "Features")), []))


def best_number_type(device: torch.device, flags: frozenset[str]) -> NumberType:
    """The fastest type that trains well: bf16 where it is native, fp16 on older GPUs, else fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    return "bf16" if any(flag in flags for flag in _CPU_FLAGS) else "fp32"


def crashes_in_channels_last(layer: nn.Conv2d) -> bool:
    """Whether this layer's backward pass corrupts memory on a CPU in channels-last order.

    Measured with torch 2.14.1 on one thread: 1x1 kernels with a stride and fewer than 8 input channels.
    """
    return max(layer.kernel_size) == 1 and max(layer.stride) > 1 and layer.in_channels < 8


class Precision:
    """How forwards, backwards and updates run. Autocast is for forwards alone: losses compute in float32.

    prepare(module); with autocast(): forward; update(loss, optimizer).
    Raises `UsageError` for fp16 on a CPU and for a device that is not there.
    """

    def __init__(self, setting: Setting = "auto", device: str = "auto") -> None:
        self.device = resolve_device(device)
        self.number_type: NumberType = (
            best_number_type(self.device, cpu_flags()) if setting == "auto" else setting
        )
        if self.number_type == "fp16" and self.device.type == "cpu":
            raise UsageError("fp16 does not train on a CPU", choices=["auto", "fp32", "bf16"])
        self._channels_last = True
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self.number_type == "fp16")

    def prepare(self, module: nn.Module) -> nn.Module:
        """Move a network to the device, its convolutions' weights in channels-last order.

        A network that channels-last would crash keeps its order, and `place` from then on that of images.
        """
        module.to(self.device)
        convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
        if self.device.type == "cpu" and any(map(crashes_in_channels_last, convolutions)):
            self._channels_last = False
        elif convolutions:
            module.to(memory_format=torch.channels_last)
        return module

    def place(self, x: Tensor) -> Tensor:
        """Move a tensor to the device; image batches `[B, C, H, W]` in channels-last order."""
        if x.dim() == 4 and self._channels_last:
            return x.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        return x.to(self.device, non_blocking=True)

    def autocast(self) -> AbstractContextManager[Any]:
        """Around forwards only; outputs may be bf16 or fp16, so cast them to float before a loss."""
        if self.number_type == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, _DTYPES[self.number_type])

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss (scaled under fp16)."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, optimizer: torch.optim.Optimizer, *, max_norm: float | None = None) -> None:
        """Clip the gradients' norm if asked and update the weights; under fp16 skip an overflowed step.

        Call `end_update` once after the last optimizer of an update.
        """
        if max_norm is not None:
            self._scaler.unscale_(optimizer)
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, max_norm)
        self._scaler.step(optimizer)

    def end_update(self) -> None:
        """Adapt the fp16 loss scale."""
        self._scaler.update()

    def state(self) -> dict[str, Any]:
        return dict(self._scaler.state_dict())

    def load_state(self, state: dict[str, Any]) -> None:
        self._scaler.load_state_dict(state)
