"""Which files of `edgekd.backends` a step's result depends on, followed from what its code and settings name.

So a new backend, or a change in one, leaves the steps of the others as they are. What is followed: imports
(anywhere in a file), dotted names in strings, as registries and descriptions have them, siblings that are
imported or named as device-side files are, and names of backends in files that load some. A file that builds
such names depends on all.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from edgekd.backends.catalogue import BACKENDS

PACKAGE = "edgekd.backends"
_CATALOGUE = "catalogue.py"
"""Names every backend: of those that count, the digest has the entry instead."""
_DOTTED = re.compile(r"edgekd\.backends((?:\.\w+)*)(\.?)")
"""A dot at the end: the name goes on with what is known only when it runs."""


def digest(users: Iterable[str], backends: Iterable[str]) -> str | None:
    """sha256 of all that counts for `users`, modules or packages, and for what exports to `backends`.

    None where they use nothing of `edgekd.backends`.
    """
    names = sorted({*backends})
    files = files_for(users, names)
    if not files:
        return None
    state = hashlib.sha256()
    for name in names:
        state.update(f"{name}={BACKENDS.entry(name).target}\n".encode())
    for file in files:
        state.update(file.relative_to(_root()).as_posix().encode() + b"\0")
        state.update(hashlib.sha256(file.read_bytes()).digest())
    return state.hexdigest()


def files_for(users: Iterable[str], backends: Iterable[str]) -> list[Path]:
    """The files, sorted. Of a backend that is used, its whole folder counts."""
    waiting = [found for user in users for file in _sources(user) for found in _named_by(file)]
    for name in backends:
        waiting += [*_root().glob("*.py"), *_folder(name)]
    found: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file.name != _CATALOGUE and file not in found:
            found.add(file)
            waiting += _references(file)
    return sorted(found)


def _named_by(file: Path) -> tuple[Path, ...]:
    """What a user's file needs: itself, where it is one of these, and what it names."""
    return (file, *_references(file)) if file.is_relative_to(_root()) else _references(file)


@cache
def _root() -> Path:
    spec = find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def _sources(module: str) -> list[Path]:
    """Of a module or package."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return []
    path = Path(spec.origin)
    return sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]


def _folder(backend: str) -> list[Path]:
    """Of one that somebody else's package registers there is none: plug-ins have a version in the key."""
    module = BACKENDS.entry(backend).target.partition(":")[0]
    if not module.startswith(f"{PACKAGE}."):
        return []
    return sorted((_root() / module.split(".")[2]).rglob("*.py"))


@cache
def _references(file: Path) -> tuple[Path, ...]:
    """What of `edgekd.backends` a file names."""
    nodes = [*_executed(ast.parse(file.read_bytes()))]
    named = {name for node in nodes for name in _names(node, file)}
    strings = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    found = [path for name in named for path in _of_name(name)]
    if ".catalogue" in {name[: len(".catalogue")] for name in named}:
        found += [path for name in BACKENDS.names() if name in strings for path in _folder(name)]
    if file.is_relative_to(_root()):
        found += [file.with_name(text) for text in strings if text.endswith(".py") and "/" not in text]
    return tuple(sorted({path for path in found if path.is_file()}))


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but docstrings."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            yield node
            yield from _executed(node)


def _names(node: ast.AST, file: Path) -> Iterator[str]:
    """Dotted names below `edgekd.backends`, with a leading dot; a lone dot stands for everything."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield from _absolute(alias.name)
            yield from _sibling(alias.name, file)
    elif isinstance(node, ast.ImportFrom):
        module = _resolved(node, file)
        yield from _sibling(module, file)
        for alias in node.names:
            yield from _absolute(f"{module}.{alias.name}")
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        for match in _DOTTED.finditer(node.value):
            yield "." if match[2] else match[1]


def _absolute(name: str) -> Iterator[str]:
    if name == PACKAGE or name.startswith(f"{PACKAGE}."):
        yield name.removeprefix(PACKAGE).replace(".*", "") or "."


def _sibling(name: str, file: Path) -> Iterator[str]:
    """A device-side file imports those that are pushed beside it by their bare names."""
    if file.is_relative_to(_root()) and name and file.with_name(f"{name}.py").is_file():
        folder = file.parent.relative_to(_root())
        yield "." + ".".join([*folder.parts, name])


def _resolved(node: ast.ImportFrom, file: Path) -> str:
    """The absolute name of the module that is imported from."""
    if node.level == 0:
        return node.module or ""
    package = file.relative_to(_root().parents[1]).with_suffix("").parts[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def _of_name(name: str) -> Iterator[Path]:
    """The file of a module, or of the one that has the name, with its package's; all of a package."""
    parts = [part for part in name.split(".") if part]
    while parts:
        place = _root().joinpath(*parts)
        if place.with_suffix(".py").is_file():
            yield from (place.with_suffix(".py"), place.with_name("__init__.py"))
            return
        if place.is_dir():
            yield from place.rglob("*.py")
            return
        parts.pop()
    if name == ".":
        yield from _root().rglob("*.py")
