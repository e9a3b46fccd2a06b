"""Keeps engines, and opens one only for exactly what it was built for; pushed beside runtime.py.

An engine is kept in a folder of the user's under all that it depends on; one that was built for anything
else is never opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from .tensorrt_build import build_engine
    from .tensorrt_settings import FallbackError, Settings, batches_of
else:  # on the device, where the files lie side by side
    from tensorrt_build import build_engine
    from tensorrt_settings import FallbackError, Settings, batches_of

_MAGIC = b"edgekd-tensorrt 1\n"
_LARGEST_MANIFEST = 1 << 20


class Stale(Exception):
    """What is kept is not what is looked for; the message says why."""


def engine_of(
    trt: Any, device: dict[str, str], path: Path, batch: int, settings: Settings, log: Any
) -> tuple[bytes, dict[str, Any]]:
    """The engine, kept or built now and kept; `engine` (where it came from) and `layers`.

    Raises `FallbackError` where others may write to the folder: an engine is code, and is run.
    """
    folder = cache_folder(settings)
    machine = {"format": 1, "tensorrt": str(trt.__version__), "device": device}
    sizes = batches_of(settings, batch)
    about = {**machine, "model": _sha256(path), "settings": settings.of_engine(), "batches": list(sizes)}
    file = folder / f"{key_of(about)}.engine"
    try:
        engine, notes = kept(file, about)
        return engine, {"engine": "kept", "layers": notes["layers"]}
    except Stale as stale:
        reason = str(stale)
    times = folder / f"{key_of(machine)}.timing"
    cache = _kept_times(times, machine) if settings.timing_cache else None
    built = build_engine(trt, path, settings, batches=sizes, timing_cache=cache, log=log)
    keep(file, about, {"layers": built.layers}, built.engine)
    if built.timing_cache is not None:
        keep(times, machine, {}, built.timing_cache)
    return built.engine, {"engine": f"built: {reason}", "layers": built.layers}


def _kept_times(path: Path, machine: dict[str, Any]) -> bytes:
    try:
        return kept(path, machine)[0]
    except Stale:
        return b""


def cache_folder(settings: Settings) -> Path:
    """Made where it is missing; raises `FallbackError` unless it is the user's own and nobody else writes."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(home) if home.startswith("/") else Path("~/.cache").expanduser()
    folder = Path(settings.cache).expanduser() if settings.cache else root / "edgekd" / "tensorrt"
    with contextlib.suppress(OSError):  # a read-only disk: nothing is kept then
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.exists():
        found = folder.stat()
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise FallbackError(f"others may write to {folder}: no engine is kept there; `chmod 700` it")
    return folder


def key_of(about: dict[str, Any]) -> str:
    text = json.dumps(about, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def keep(path: Path, about: dict[str, Any], notes: dict[str, Any], content: bytes) -> None:
    """Write manifest and content as one file that appears whole or not at all; a full disk keeps nothing."""
    manifest = {
        "about": about,
        "notes": notes,
        "size": len(content),
        "sha256": _digest(about, notes, content),
    }
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with contextlib.suppress(OSError):
        try:
            with temporary.open("xb") as stream:
                os.fchmod(stream.fileno(), 0o600)
                stream.write(_MAGIC + json.dumps(manifest, sort_keys=True).encode() + b"\n" + content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def kept(path: Path, about: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """Content and notes of what was kept for exactly this; raises `Stale`, also for one damaged byte."""
    if not path.is_file():
        raise Stale("none was kept")
    with path.open("rb") as stream:
        if os.fstat(stream.fileno()).st_uid != os.geteuid():
            raise Stale("the one that was kept is another user's")
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise Stale("the one that was kept is no file of this version of edgekd")
        line = stream.readline(_LARGEST_MANIFEST)
        content = stream.read()
    try:
        manifest = json.loads(line)
        found, notes = manifest["about"], manifest["notes"]
        digest, size = manifest["sha256"], manifest["size"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Stale(f"the manifest of the one that was kept cannot be read: {error!r}") from error
    if found != about:
        raise Stale(f"the one that was kept is of another {', '.join(_differing(found, about))}")
    if len(content) != size or _digest(found, notes, content) != digest:
        raise Stale("the one that was kept is damaged")
    return content, notes


def _digest(about: Any, notes: Any, content: bytes) -> str:
    """sha256 of all three."""
    digest = hashlib.sha256(json.dumps([about, notes], sort_keys=True).encode())
    digest.update(content)
    return digest.hexdigest()


def _differing(found: Any, about: dict[str, Any]) -> list[str]:
    return [key for key in about if not isinstance(found, dict) or found.get(key) != about[key]]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for piece in iter(lambda: stream.read(1 << 16), b""):
            digest.update(piece)
    return digest.hexdigest()
