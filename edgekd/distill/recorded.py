"""What frozen roles answer, computed once for every image and kept on disk.

A role that no phase changes answers the same image with the same vector every time. Where the loader repeats
a fixed number of augmentations (`Batch.variant`), that answer is computed when an image's variant is first
needed and read afterwards. One file holds one view and variant of all images, written whole or not at all, so
a training that was killed goes on with the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


# ---- How a vector is kept ------------------------------------------------------------------------


class Codec(Protocol):
    """`width` numbers stand for one sample's vector."""

    @property
    def width(self) -> int: ...

    def encode(self, values: Tensor) -> Tensor: ...

    def decode(self, stored: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Whole:
    """Every number: `[B, width]` as it is."""

    width: int

    def encode(self, values: Tensor) -> Tensor:
        return values

    def decode(self, stored: Tensor) -> Tensor:
        return stored


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


def codec_for(tap: str, width: int, *, num_rows: int, max_bytes: int) -> Codec | None:
    """How `num_rows` vectors of a tap fit into `max_bytes`; None if they do not."""
    fits = max_bytes // (num_rows * _FLOAT_BYTES)
    if width <= fits:
        return Whole(width)
    kept = min((fits - 1) // 2, width - 1)
    return LargestLogits(kept, width) if tap == LOGITS and kept >= FEWEST_CLASSES else None


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

    def read(self, batch: Batch, view: str) -> dict[str, Tensor] | None:
        """Every recorded tap `[B, D]` for a view of a batch; None for a batch without variant."""
        if batch.variant is None:
            return None
        rows = batch.indices.cpu().numpy()
        stored = {tap: self._file(view, batch.variant, tap)[rows] for tap in self._codecs}
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
        name = f"{view}-{variant}-{tap}".replace(":", "_")
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
        chunks = list(self._answers(view, variant))
        for tap in self._codecs:
            values = np.concatenate([chunk[tap] for chunk in chunks])
            with replacing(self._path(view, variant, tap)) as temporary, temporary.open("wb") as stream:
                np.save(stream, values, allow_pickle=False)

    def _answers(self, view: str, variant: int) -> Iterator[dict[str, Floats]]:
        module, taps = self._role.module, tuple(self._codecs)
        training = module.training
        module.eval()
        for indices in torch.split(torch.arange(self._pool.num_images), _CHUNK):
            images = self._precision.place(self._pool.images(indices, view, variant))
            with torch.no_grad():
                values = self._role.run(images, taps, self._precision.autocast())
            yield {tap: codec.encode(values[tap]).cpu().numpy() for tap, codec in self._codecs.items()}
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


def record(
    program: Program, cast: Cast, image_shape: ImageShape, precision: Precision, recorder: Recorder
) -> dict[str, Recorded]:
    """The recordings of every role that nothing changes and whose answers are vectors that fit."""
    networks = {name: role for name, role in cast.roles.items() if program.takes_images(name)}
    wanted = recordable(program, tap_shapes(networks, image_shape))
    rows = recorder.pool.num_images * recorder.num_variants * max(len(program.views), 1)
    share = recorder.max_bytes // max(sum(map(len, wanted.values())), 1)
    recorded: dict[str, Recorded] = {}
    for name, widths in wanted.items():
        codecs = {tap: codec_for(tap, width, num_rows=rows, max_bytes=share) for tap, width in widths.items()}
        kept = {tap: codec for tap, codec in codecs.items() if codec is not None}
        if len(kept) < len(codecs):
            text = f"the answers of `{name}` do not fit into {recorder.max_bytes >> 20} MB; it runs live"
            recorder.emit({"event": "note", "text": text})
            continue
        role = replace(cast.roles[name], forward=None)
        folder = recorder.folder / _identity(role, kept, precision, recorder)
        recorded[name] = Recorded(
            role, kept, pool=recorder.pool, folder=folder, precision=precision, emit=recorder.emit
        )
    return recorded


def recordable(
    program: Program, shapes: Mapping[tuple[str, str], tuple[int, ...]]
) -> dict[str, dict[str, int]]:
    """Role -> tap -> width: roles that training leaves as they are, in turns that read vectors of them."""
    found: dict[str, dict[str, int]] = {}
    for turn in program.turns:
        for role in turn.roles:
            taps = turn.taps(role)
            frozen = role not in program.changing and program.takes_images(role)
            if not frozen or not isinstance(turn.source, Labeled):
                continue
            if taps and all(len(shapes[role, tap]) == 1 for tap in taps):
                found.setdefault(role, {}).update({tap: shapes[role, tap][0] for tap in taps})
    return found


def _identity(
    role: Participant, codecs: Mapping[str, Codec], precision: Precision, recorder: Recorder
) -> str:
    """Digest of everything the recorded numbers depend on."""
    return of_data(
        {
            "images": dict(recorder.identity),
            "module": str(role.module),
            "weights": _weights_digest(role.module),
            "input": [str(role.normalize), _weights_digest(role.normalize)],
            "taps": {tap: str(codec) for tap, codec in codecs.items()},
            "precision": [precision.number_type, str(precision.device.type)],
        }
    )


def _weights_digest(module: torch.nn.Module) -> str:
    state = portable(module.state_dict())
    return of_data({key: of_bytes(value.numpy().tobytes()) for key, value in state.items()})
