"""The Python with LiteRT's converter: jax and transformers, which it needs, must not stand beside edgekd."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

from edgekd.core.durable import disk_error
from edgekd.core.errors import EdgekdError, MissingDependencyError

VARIABLE = "EDGEKD_LITERT_PYTHON"
COMMAND = "edgekd setup litert"
FIX = f"`{COMMAND}`, or name a Python with it in {VARIABLE}"
PINS = (
    "litert-torch==0.10.0",
    "litert-converter==0.5.0",
    "ai-edge-quantizer==0.10.0",
    "ai-edge-litert==2.3.0",
    "jax==0.10.2",
    "jaxlib==0.10.2",
    "transformers==5.23.0",
    "torchao==0.18.0",
    "numpy==2.4.6",
    "pydantic==2.11.10",
)
"""What was run together, with torch 2.14.1; pydantic's is what pip else finds after trying a dozen."""
LIBRARIES = ("litert-torch", "litert-converter", "ai-edge-quantizer", "ai-edge-litert", "torch")
"""Distributions of the environment whose versions decide the bytes of a .tflite."""
_HEAVY = ("nvidia-", "cuda-")
_TELL = ("Collecting ", "Processing ", "Installing collected packages", "Successfully installed")
_ASK = (
    "import json, sys\nfrom importlib.metadata import version, PackageNotFoundError\n"
    "found = {}\nfor name in sys.argv[1:]:\n"
    "    try: found[name] = version(name)\n    except PackageNotFoundError: found[name] = 'absent'\n"
    "print(json.dumps(found))"
)


class MissingEnvironmentError(MissingDependencyError):
    """The converter's environment is absent or unfit; ends with the same exit code as a missing package."""

    def __init__(self, what: str) -> None:
        EdgekdError.__init__(self, what, where="backend `litert`", fix=FIX)


def default_folder() -> Path:
    """In the user's cache, as everything of edgekd that can be made again."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "edgekd" / "environments" / "litert"


def python() -> Path:
    """The Python with the converter; raises `MissingEnvironmentError`."""
    named = os.environ.get(VARIABLE)
    found = Path(named) if named else default_folder() / "bin" / "python"
    if not os.access(found, os.X_OK) or not found.is_file():
        told = f"{VARIABLE} names {found}, which cannot be run" if named else f"there is none at {found}"
        raise MissingEnvironmentError(f"writing .tflite needs LiteRT's converter in its own Python: {told}")
    return found


def versions() -> dict[str, str]:
    """Version of each of `LIBRARIES` in the environment, part of a step's key.

    Raises `MissingEnvironmentError` when there is no environment, or no converter in it.
    """
    return dict(_versions(python()))


@cache
def _versions(interpreter: Path) -> Mapping[str, str]:
    command = [str(interpreter), "-I", "-c", _ASK, *LIBRARIES]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        found: dict[str, str] = json.loads(finished.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise MissingEnvironmentError(f"{interpreter} does not run: {error}") from error
    if "absent" in found.values():
        missing = [name for name, version in found.items() if version == "absent"]
        raise MissingEnvironmentError(f"{interpreter} lacks {', '.join(missing)}")
    return found


# --- making it ----------------------------------------------------------------------------------------------


def make(
    folder: Path | None = None, progress: Callable[[str], None] = print, pins: tuple[str, ...] = PINS
) -> Path:
    """Make the environment anew and return its Python; about 1 GB and three minutes, on Linux and macOS.

    It is made under a temporary name and renamed when it is whole: an interruption leaves what was there
    before. torch is linked to that of edgekd, where there is one: it is not installed twice, and both sides
    of a conversion have the same. Raises `MissingEnvironmentError` with pip's last words, `StoreError` for
    the disk.
    """
    target = folder or default_folder()
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        progress(f"making {target}")
        _call([sys.executable, "-m", "venv", str(temporary)], progress)
        _borrow_torch(temporary, progress)
        pip = [str(temporary / "bin" / "python"), "-m", "pip", "install", "--no-input", "--progress-bar=off"]
        _call([*pip, "--disable-pip-version-check", *pins], progress)
        _take_place(temporary, target)
    except OSError as error:
        raise disk_error(target, error) from error
    finally:  # also when interrupted
        shutil.rmtree(temporary, ignore_errors=True)
    _versions.cache_clear()
    return target / "bin" / "python"


def _sweep(target: Path) -> None:
    """Remove what makings left that were killed."""
    for left in target.parent.glob(f".{target.name}.*.tmp"):
        if not Path("/proc", left.name.split(".")[-2]).exists():
            shutil.rmtree(left, ignore_errors=True)


def _take_place(temporary: Path, target: Path) -> None:
    """A Python of `venv` knows its place from where it lies, so it may be renamed (its scripts may not)."""
    old = temporary.with_name(temporary.name.replace(".tmp", ".old.tmp"))
    if target.exists():
        target.rename(old)
    temporary.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _borrow_torch(environment: Path, progress: Callable[[str], None]) -> None:
    """Link torch, and the gigabytes for GPUs that come with it, into a folder on the environment's path."""
    owned = {one.metadata["Name"].lower(): one for one in distributions()}
    if "torch" not in owned:
        return
    borrowed = environment / "borrowed"
    borrowed.mkdir()
    for one in (one for name, one in owned.items() if name in ("torch", "triton") or name.startswith(_HEAVY)):
        for top in {file.parts[0] for file in one.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (borrowed / top).is_symlink():
                (borrowed / top).symlink_to(str(one.locate_file(top)))
    (site,) = environment.glob("lib/python*/site-packages")
    # Relative, since the environment is renamed.
    (site / "borrowed.pth").write_text(f"{os.path.relpath(borrowed, site)}\n")
    progress(f"torch {owned['torch'].version} is borrowed, not installed again")


def _call(command: list[str], progress: Callable[[str], None]) -> None:
    """Run, telling what is done; ended with us. Raises `MissingEnvironmentError` with its last lines."""
    lines: list[str] = []
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                lines.append(line.rstrip())
                if line.startswith(_TELL) and " (from " not in line:
                    progress(textwrap.shorten(line, 100, placeholder=" ..."))
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        said = " ".join(line for line in lines[-3:] if line)
        raise MissingEnvironmentError(f"`{' '.join(command[1:4])}` ended with {process.returncode}: {said}")
