"""An ONNX graph as a frozen network: it gives logits, and neither taps nor gradients."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx.external_data_helper import _get_all_tensors
from torch import Tensor, nn

from edgekd.core.errors import ModelError
from edgekd.networks.tap import Tap, declare


class OnnxTeacher(nn.Module):
    """Runs `path` in ONNX Runtime on the CPU: `[B, C, H, W]` float32 to logits `[B, num_classes]`.

    Raises `ModelError` for a file that is not a graph with one image input, for external data outside the
    file's folder, and when a gradient with respect to the input is asked for.
    """

    def __init__(self, path: Path, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.path = path
        self._session = _session(path)
        self._input, self._batch = _image_input(self._session, in_channels, path)
        self._num_classes = num_classes
        _check_output(self._session, num_classes, path)
        declare(self, {"logits": Tap("", "output")})

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            raise ModelError(
                "an ONNX teacher has no gradient with respect to its input", where=str(self.path)
            )
        images = x.detach().to("cpu", torch.float32).contiguous().numpy()
        logits = np.concatenate([self._run(part) for part in self._parts(images)])
        if logits.shape != (len(images), self._num_classes):
            raise ModelError(
                f"the graph gives {list(logits.shape)}, not [{len(images)}, {self._num_classes}] logits",
                where=str(self.path),
            )
        return torch.from_numpy(logits).to(x.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxTeacher:
        # A session cannot be copied and has no state: copies share it.
        duplicate = copy.copy(self)
        memo[id(self)] = duplicate
        return duplicate

    def _parts(self, images: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float32]]:
        """The batch as the graph takes it: whole, or in parts of its fixed batch size."""
        step = self._batch or max(1, len(images))
        for start in range(0, len(images), step):
            yield images[start : start + step]

    def _run(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        short = (self._batch or 0) - len(images)
        if short > 0:
            images = np.concatenate([images, np.zeros((short, *images.shape[1:]), np.float32)])
        logits = self._session.run(None, {self._input: images})[0]
        return np.asarray(logits[: len(images) - max(0, short)], np.float32)


def onnx_teacher(*, num_classes: int, in_channels: int, file: str) -> OnnxTeacher:
    """The graph in `file`, frozen."""
    return OnnxTeacher(Path(file), num_classes=num_classes, in_channels=in_channels)


def files_of(path: Path) -> list[Path]:
    """The graph's file and the files of its external data, all below its folder.

    Raises `ModelError` when the file is not an ONNX model, or names data outside its folder.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise ModelError(f"not a readable ONNX model: {_first_line(error)}", where=str(path)) from error
    return [path, *sorted({_inside(path, location) for location in _locations(model)})]


def _locations(model: Any) -> Iterator[str]:
    for tensor in _get_all_tensors(model):
        for entry in tensor.external_data:
            if entry.key == "location":
                yield entry.value


def _inside(path: Path, location: str) -> Path:
    folder = path.parent.resolve()
    file = (folder / location).resolve()
    if not file.is_relative_to(folder):
        raise ModelError(f"names external data outside its folder: `{location}`", where=str(path))
    if not file.is_file():
        raise ModelError(f"its external data `{location}` is not there", where=str(path))
    return file


def _session(path: Path) -> Any:
    if not path.is_file():
        raise ModelError("there is no such file", where=str(path))
    files_of(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"ONNX Runtime refuses it: {_first_line(error)}", where=str(path)) from error


def _image_input(session: Any, in_channels: int, path: Path) -> tuple[str, int | None]:
    """The name of the one input and its fixed batch size, if it has one."""
    inputs = session.get_inputs()
    shape = inputs[0].shape if inputs else []
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(shape) != 4:
        found = ", ".join(f"{i.name}: {i.type} {i.shape}" for i in inputs)
        raise ModelError(f"the graph must take one float [B, C, H, W]; it takes {found}", where=str(path))
    if isinstance(shape[1], int) and shape[1] != in_channels:
        raise ModelError(f"the graph takes {shape[1]} channels, not {in_channels}", where=str(path))
    return inputs[0].name, shape[0] if isinstance(shape[0], int) else None


def _check_output(session: Any, num_classes: int, path: Path) -> None:
    shape = session.get_outputs()[0].shape
    if len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != num_classes):
        raise ModelError(f"the graph gives {shape}, not [B, {num_classes}] logits", where=str(path))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
