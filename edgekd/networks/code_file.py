"""Networks given as `file.py:function`: somebody's code, run only where the recipe trusts it."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from torch import nn

from edgekd.core.digest import of_file
from edgekd.core.errors import ModelError

_FORM = re.compile(r"(?P<file>.+\.py):(?P<function>[A-Za-z_]\w*)")


def is_code(name: str) -> bool:
    """Whether a network's name has the form `file.py:function`."""
    return _FORM.fullmatch(name) is not None


def split_name(name: str) -> tuple[str, str]:
    """(`file.py`, `function`)."""
    match = _FORM.fullmatch(name)
    if match is None:
        raise ModelError(f"`{name}` is not of the form `file.py:function`")
    return match["file"], match["function"]


def code_path(name: str, files_root: Path | None) -> Path:
    """The file behind `name`; a relative one is below `files_root` (default: the working folder)."""
    return (files_root or Path.cwd()) / split_name(name)[0]


def load_function(name: str, files_root: Path | None) -> Callable[..., nn.Module]:
    """Run the file and return its function. Raises `ModelError` when the file or the function is not there,
    or the file fails."""
    path, function = code_path(name, files_root), split_name(name)[1]
    if not path.is_file():
        raise ModelError("there is no such file", where=str(path))
    module = _run(path)
    found = getattr(module, function, None)
    if not callable(found):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ModelError(f"the file has no function `{function}`", where=str(path), choices=names)
    return cast(Callable[..., nn.Module], found)


def _run(path: Path) -> Any:
    # The digest in the name keeps two versions of one file apart within a process.
    module_name = f"edgekd_code_{path.stem}_{of_file(path)[:12]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ModelError("Python cannot load this file", where=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise ModelError(f"the file fails: {type(error).__name__}: {error}", where=str(path)) from error
    return module
