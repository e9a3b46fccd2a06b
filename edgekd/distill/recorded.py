"""What frozen roles answer, computed once for every image and kept on disk.

A role that no phase changes answers the same image with the same numbers every time. Where the loader repeats
a fixed number of augmentations (`Batch.variant`), that answer is computed when an image's variant is first
needed and read afterwards. One file holds one tap's values of all images in one view and variant, written
whole or not at all, so a training that was killed goes on with the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgekd.core.digest import of_bytes, of_data
from edgekd.core.durable import replacing
from edgekd.core.events import Emit
from edgekd.data.batch import Batch
from edgekd.distill.cast import Cast, ImageShape, tap_shapes
from edgekd.distill.participant import Participant
from edgekd.distill.program import LOGITS, Program
from edgekd.distill.sources import Labeled
from edgekd.networks.model import portable
from edgekd.train.precision import Precision

MAX_BYTES = 1 << 30
FEWEST_CLASSES = 16
"""Fewer logits of a sample than this are not worth keeping: the teacher is run instead."""
_CHUNK = 256
_FLOAT_BYTES = 4

Floats = npt.NDArray[np.float32]


class ImagePool(Protocol):
    """Where images come from by position; `edgekd.data.loader.Loader` is one."""

    @property
    def num_images(self) -> int: ...

    def images(self, indices: Tensor, view: str, variant: int) -> Tensor: ...


# ---- How a tap's values are kept -----------------------------------------------------------------


class Codec(Protocol):
    """`width` numbers stand for one sample's values."""

    @property
    def width(self) -> int: ...

    def encode(self, values: Tensor) -> Tensor: ...

    def decode(self, stored: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Whole:
    """Every number of a vector or map: `[B, *shape]` as it is."""

    shape: tuple[int, ...]

    @property
    def width(self) -> int:
        return math.prod(self.shape)

    def encode(self, values: Tensor) -> Tensor:
        return values.flatten(1)

    def decode(self, stored: Tensor) -> Tensor:
        return stored.reshape(-1, *self.shape)


@dataclass(frozen=True)
class LargestLogits:
    """The `kept` largest of `num_classes` logits, and the log of the sum of exp over the rest.

    Decoded, the rest share their probability (at temperature 1) evenly, so the kept classes keep theirs.
    """

    kept: int
    num_classes: int

    @property
    def width(self) -> int:
        return 2 * self.kept + 1

    def encode(self, values: Tensor) -> Tensor:
        """`[B, num_classes]` to `[B, 2 kept + 1]`: logits, classes, rest."""
        largest, classes = values.topk(self.kept, dim=1)
        others = values.scatter(1, classes, -torch.inf)
        rest = torch.logsumexp(others, dim=1, keepdim=True)
        return torch.cat([largest, classes.to(values.dtype), rest], dim=1)

    def decode(self, stored: Tensor) -> Tensor:
        largest, classes, rest = torch.split(stored, [self.kept, self.kept, 1], dim=1)
        even = rest - float(np.log(self.num_classes - self.kept))
        filled: Tensor = even.expand(-1, self.num_classes).clone()
        return filled.scatter(1, classes.to(torch.int64), largest)


def codecs_for(
    shapes: Mapping[str, tuple[int, ...]], *, num_rows: int, max_bytes: int
) -> dict[str, Codec] | None:
    """How `num_rows` answers of one role, given by tap, fit into `max_bytes`; None if they do not.

    Whole, or with the largest logits only, which then get what the other taps leave.
    """
    fits = max_bytes // (num_rows * _FLOAT_BYTES)
    widths = {tap: math.prod(shape) for tap, shape in shapes.items()}
    whole: dict[str, Codec] = {tap: Whole(shape) for tap, shape in shapes.items()}
    if sum(widths.values()) <= fits:
        return whole
    left = fits - sum(width for tap, width in widths.items() if tap != LOGITS)
    kept = min((left - 1) // 2, widths.get(LOGITS, 0) - 1)
    return {**whole, LOGITS: LargestLogits(kept, widths[LOGITS])} if kept >= FEWEST_CLASSES else None


# ---- One role's recorded answers -----------------------------------------------------------------


class Recorded:
    """The answers of one frozen role; `read` records what is not there yet."""

    def __init__(
        self,
        role: Participant,
        codecs: Mapping[str, Codec],
        *,
        pool: ImagePool,
        folder: Path,
        precision: Precision,
        emit: Emit,
    ) -> None:
        self._role = role
        self._codecs = dict(codecs)
        self._pool = pool
        self._folder = folder
        self._precision = precision
        self._emit = emit
        self._open: dict[tuple[str, int, str], Floats] = {}

    @property
    def taps(self) -> frozenset[str]:
        return frozenset(self._codecs)

    def read(self, batch: Batch, view: str, taps: Sequence[str]) -> dict[str, Tensor] | None:
        """Recorded taps `[B, ...]` for a view of a batch; None for a batch without variant."""
        if batch.variant is None:
            return None
        rows = batch.indices.cpu().numpy()
        stored = {tap: self._file(view, batch.variant, tap)[rows] for tap in taps}
        device = self._precision.device
        return {tap: self._codecs[tap].decode(torch.from_numpy(x)).to(device) for tap, x in stored.items()}

    def _file(self, view: str, variant: int, tap: str) -> Floats:
        key = (view, variant, tap)
        if key not in self._open:
            if not all(self._usable(view, variant, name) for name in self._codecs):
                self._record(view, variant)
            self._open[key] = np.load(self._path(view, variant, tap), mmap_mode="r", allow_pickle=False)
        return self._open[key]

    def _path(self, view: str, variant: int, tap: str) -> Path:
        """Roles that are read at other taps, or less exactly, share the folder."""
        name = f"{view}-{variant}-{tap}-{self._codecs[tap].width}".replace(":", "_")
        return self._folder / f"{name}.npy"

    def _usable(self, view: str, variant: int, tap: str) -> bool:
        try:
            found = np.load(self._path(view, variant, tap), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):  # absent, or cut short by a full disk
            return False
        return bool(
            found.dtype == np.float32 and found.shape == (self._pool.num_images, self._codecs[tap].width)
        )

    def _record(self, view: str, variant: int) -> None:
        self._emit({"event": "note", "text": f"recording the teacher's answers to version {variant + 1}"})
        missing = [tap for tap in self._codecs if not self._usable(view, variant, tap)]
        with ExitStack() as stack:
            files = {}
            for tap in missing:
                path = stack.enter_context(replacing(self._path(view, variant, tap)))
                files[tap] = stack.enter_context(path.open("wb"))
                shape = (self._pool.num_images, self._codecs[tap].width)
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(files[tap], header)
            for answer in self._answers(view, variant, missing):
                for tap, values in answer.items():
                    files[tap].write(values.astype("<f4").tobytes())

    def _answers(self, view: str, variant: int, taps: Sequence[str]) -> Iterator[dict[str, Floats]]:
        module = self._role.module
        training = module.training
        module.eval()
        for indices in torch.split(torch.arange(self._pool.num_images), _CHUNK):
            images = self._precision.place(self._pool.images(indices, view, variant))
            with torch.no_grad():
                values = self._role.run(images, tuple(taps), self._precision.autocast())
            yield {tap: self._codecs[tap].encode(values[tap]).cpu().numpy() for tap in taps}
        module.train(training)


# ---- Which roles of a program are recorded -------------------------------------------------------


@dataclass(frozen=True)
class Recorder:
    """Where answers are kept and how much of them.

    identity: plain data that determines the images and how they are answered (data, augmentation, seed,
    code, libraries). num_variants: augmentations of every image that the loader repeats.
    """

    pool: ImagePool
    num_variants: int
    folder: Path
    identity: Mapping[str, Any]
    emit: Emit
    max_bytes: int = MAX_BYTES

    def open(self, role: Participant, codecs: Mapping[str, Codec], precision: Precision) -> Recorded:
        """The recording of a role that nothing changes."""
        plain = replace(role, forward=None)
        folder = self.folder / _identity(plain, precision, self)
        return Recorded(plain, codecs, pool=self.pool, folder=folder, precision=precision, emit=self.emit)


def record(
    program: Program, cast: Cast, image_shape: ImageShape, precision: Precision, recorder: Recorder
) -> dict[str, Recorded]:
    """The recordings of every role that nothing changes and whose answers fit."""
    networks = {name: role for name, role in cast.roles.items() if program.takes_images(name)}
    wanted = recordable(program, tap_shapes(networks, image_shape))
    rows = recorder.pool.num_images * recorder.num_variants * max(len(program.views), 1)
    share = recorder.max_bytes // max(len(wanted), 1)
    recorded: dict[str, Recorded] = {}
    for name, shapes in wanted.items():
        codecs = codecs_for(shapes, num_rows=rows, max_bytes=share)
        if codecs is None:
            text = f"the answers of `{name}` do not fit into {share >> 20} MB; it runs live"
            recorder.emit({"event": "note", "text": text})
            continue
        recorded[name] = recorder.open(cast.roles[name], codecs, precision)
    return recorded


def recordable(
    program: Program, shapes: Mapping[tuple[str, str], tuple[int, ...]]
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Role -> tap -> shape of one sample: of roles that training leaves as they are."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for turn in program.turns:
        for role in turn.roles:
            frozen = role not in program.changing and program.takes_images(role)
            if frozen and isinstance(turn.source, Labeled):
                found.setdefault(role, {}).update({tap: shapes[role, tap] for tap in turn.taps(role)})
    return {role: taps for role, taps in found.items() if taps}


def _identity(role: Participant, precision: Precision, recorder: Recorder) -> str:
    """Digest of everything the recorded numbers depend on."""
    return of_data(
        {
            "images": dict(recorder.identity),
            "module": str(role.module),
            "weights": _weights_digest(role.module),
            "input": [str(role.normalize), _weights_digest(role.normalize)],
            "precision": [precision.number_type, str(precision.device.type)],
        }
    )


def _weights_digest(module: torch.nn.Module) -> str:
    state = portable(module.state_dict())
    return of_data({key: of_bytes(value.numpy().tobytes()) for key, value in state.items()})
