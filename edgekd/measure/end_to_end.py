"""From image files to answers on the device, in parts, and whether its resizing is the one trained with."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.core.errors import DataError, UsageError
from edgekd.core.preprocess import Preprocess
from edgekd.data.decode import SUFFIXES, decode_file, resize
from edgekd.measure import statistics
from edgekd.measure.accuracy import NOT_FINITE, Labels, predictions, read_array
from edgekd.measure.findings import Item
from edgekd.measure.further import Rig

MOST_FILES = 64
_MOST_NAMED = 20
CAVEAT = "single images one after another, files in the page cache; the parts' medians need not add up"


def measure_end_to_end(rig: Rig, item: Item, folder: Path) -> dict[str, Any]:
    """Decode, resize, normalize and infer the images below `folder`, in fresh processes on the device.

    `total` and `parts` have milliseconds of one image (median over images and rounds, geometric mean over
    processes, Student-t interval); `parity` compares the device's pixels and answers with our own. Kept as
    `<subject>.end_to_end.json`. Raises `DataError` for images that cannot be decoded here or there.
    """
    files = golden_files(folder)
    ours = prepared(files, item.preprocess)
    rounds = max(2, math.ceil(rig.protocol.min_count / rig.protocol.num_processes / len(files)))
    processes = []
    with tempfile.TemporaryDirectory(prefix="edgekd-end-to-end-") as scratch:
        np.save(Path(scratch, "ours.npy"), ours, allow_pickle=False)
        entry = rig.entry(item, Path(scratch, "ours.npy"))
        there = [rig.device.push(path, f"image-{n}{path.suffix}") for n, path in enumerate(files)]
        for number in range(rig.protocol.num_processes):
            rig.tell(number, rig.protocol.num_processes, f"{item.subject.name} from files to answers")
            request = {"files": there, "rounds": rounds, "batch": 1, **_OUT}
            processes.append(rig.call("end_to_end", entry, **request))
        rig.call("accuracy", entry, out="ours.logits.npy", batch=1, profile=False)
        names = {"pixels": _OUT["out_images"], "theirs": _OUT["out_logits"], "ours": "ours.logits.npy"}
        pulled = {name: _pulled(rig, remote, Path(scratch)) for name, remote in names.items()}
    answers = predictions(pulled["theirs"]), predictions(pulled["ours"])
    found = {
        "subject": item.subject.name,
        "caveat": CAVEAT,
        "images": len(files),
        "rounds": rounds,
        "resizer": processes[0]["resizer"],
        **times(processes),
        "parity": parity(pulled["pixels"], ours, *answers, [path.name for path in files]),
    }
    rig.keep(f"{item.subject.name}.end_to_end.json", {**found, "processes": processes})
    return found


_OUT = {"out_images": "resized.npy", "out_logits": "resized.logits.npy"}


def golden_files(folder: Path) -> list[Path]:
    """The first images below `folder` by name, at most `MOST_FILES`; raises `UsageError` if there is none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise UsageError("holds no image file", where=str(folder), choices=sorted(SUFFIXES))
    return found[:MOST_FILES]


def prepared(files: Sequence[Path], preprocess: Preprocess) -> npt.NDArray[np.uint8]:
    """uint8 `[N, H, W, C]` as evaluation sets are made: the definition that the device is compared with."""
    size, channels, name = preprocess.size, preprocess.num_channels, preprocess.resize
    return np.stack([resize(decode_file(path, channels), size, channels, name) for path in files])


def _pulled(rig: Rig, remote: str, folder: Path) -> npt.NDArray[Any]:
    rig.device.pull(remote, folder / "pulled.npy")
    return read_array(folder / "pulled.npy")


def times(processes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`total` and every part: `p50_ms`, `low`, `high`, `process_ms`; of a part its `share` of the total."""
    arrays = [np.asarray(process["ns"], np.float64) / 1e6 for process in processes]
    total = _over_processes([array.sum(axis=2) for array in arrays])
    parts = {}
    for at, name in enumerate(processes[0]["parts"]):
        part = _over_processes([array[:, :, at] for array in arrays])
        parts[name] = {**part, "share": part["p50_ms"] / total["p50_ms"]}
    return {"total": total, "parts": parts}


def _over_processes(samples: Sequence[npt.NDArray[np.float64]]) -> dict[str, Any]:
    medians = [float(np.median(one)) for one in samples]
    value, interval = statistics.mean_of_logs(medians)
    ends = (interval.low, interval.high) if interval else (None, None)
    return {"p50_ms": value, "low": ends[0], "high": ends[1], "process_ms": medians}


def parity(
    pixels: npt.NDArray[np.uint8],
    ours: npt.NDArray[np.uint8],
    there: Labels,
    here: Labels,
    names: Sequence[str],
) -> dict[str, Any]:
    """The device's pixels beside ours, and its answers to either: what its own resizing costs.

    `max_difference` is in grey levels of 255, `agreement` the share of images with the same answer.
    """
    if pixels.shape != ours.shape:
        raise DataError(f"the device made images {list(pixels.shape)}, we {list(ours.shape)}")
    apart = np.abs(pixels.astype(np.int16) - ours.astype(np.int16))
    differ = np.flatnonzero((there != here) | (there == NOT_FINITE))
    return {
        "max_difference": int(apart.max()),
        "mean_difference": float(apart.mean()),
        "pixels_that_differ": float((apart > 0).mean()),
        "agreement": 1 - len(differ) / len(here),
        "n": len(here),
        "differing": [names[at] for at in differ[:_MOST_NAMED]],
    }
