"""An .mlpackage, which is a folder, as one file: an uncompressed zip with the same bytes for the same model.

An artifact of edgekd is a file with a digest. Core ML's folder has three files with fixed names in folders
of their own, so they cannot lie beside each other under an artifact's name, as companions do; and a zip of
it is what anyone would send to a Mac. Unpacked, it is `model.mlpackage`, for Xcode and for `MLModel`.
"""

from __future__ import annotations

import io
import json
import struct
import uuid
import zipfile
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = "model.mlpackage"
MANIFEST = f"{ROOT}/Manifest.json"
SPEC = f"{ROOT}/Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = f"{ROOT}/Data/com.apple.CoreML/weights/weight.bin"
_OLDEST = (1980, 1, 1, 0, 0, 0)
"""Of a zip; a date of its own would make every export another file."""
_ENTRY = struct.Struct("<IIQQ")
_SENTINEL = 0xDEADBEEF
_BLOB_TYPES = {1: "<f2", 2: "<f4"}
"""Of BlobDataType in coremltools' MILBlob; integers are not written by this backend."""


@dataclass(frozen=True)
class Package:
    """What an .mlpackage holds: a `Model_pb2.Model` and the file of its weights."""

    spec: Any
    weights: bytes

    def operators(self) -> dict[str, int]:
        """Kind -> number of operations of the program, constants left out."""
        counts = Counter(operation.type for operation in self.operations() if operation.type != "const")
        return dict(sorted(counts.items()))

    def operations(self) -> list[Any]:
        """Of the one block of the function `main`, in running order."""
        function = self.spec.mlProgram.functions["main"]
        return list(function.block_specializations[function.opset].operations)

    def blob(self, offset: int) -> npt.NDArray[Any]:
        """The values `[n]` that the entry at `offset` of the weights' file describes."""
        sentinel, kind, size, start = _ENTRY.unpack_from(self.weights, offset)
        if sentinel != _SENTINEL or kind not in _BLOB_TYPES or start + size > len(self.weights):
            raise ValueError(f"the weights have no entry at byte {offset}")
        values: npt.NDArray[Any] = np.frombuffer(self.weights[start : start + size], _BLOB_TYPES[kind])
        return values


def packed(package: Package) -> bytes:
    """The zip of `package`."""
    files = {MANIFEST: _manifest(package), SPEC: package.spec.SerializeToString(deterministic=True)}
    if package.weights:
        files[WEIGHTS] = package.weights
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _OLDEST)
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, content)
    return stream.getvalue()


def unpacked(data: bytes) -> Package:
    """The package in a zip that `packed` wrote."""
    from edgekd.backends.coreml.silent import coremltools

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        spec = coremltools.proto.Model_pb2.Model.FromString(archive.read(SPEC))
        weights = archive.read(WEIGHTS) if WEIGHTS in archive.namelist() else b""
    return Package(spec, weights)


def _manifest(package: Package) -> bytes:
    """coremltools draws the identifiers anew each time; they only need to differ from each other."""
    parts = {"model.mlmodel": "CoreML Model Specification"}
    if package.weights:
        parts["weights"] = "CoreML Model Weights"
    entries = {
        _identifier(name): {
            "author": "com.apple.CoreML",
            "description": description,
            "name": name,
            "path": f"com.apple.CoreML/{name}",
        }
        for name, description in parts.items()
    }
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": _identifier("model.mlmodel"),
    }
    return json.dumps(manifest, indent=4, sort_keys=True).encode()


def _identifier(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"com.apple.CoreML/{name}"))
