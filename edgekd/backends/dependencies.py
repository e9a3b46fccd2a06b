"""Whether a backend's libraries are of versions that it was proven with, and why one cannot be imported."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec

from edgekd.core.errors import BrokenDependencyError, EdgekdError, MissingDependencyError
from edgekd.core.version_range import in_range


def installed(distributions: Iterable[str]) -> dict[str, str]:
    """The versions of those that are here; nothing is imported."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def out_of_range(found: Mapping[str, str], ranges: Mapping[str, str]) -> dict[str, str]:
    """Distribution -> `openvino 2025.1 is out of the range >=2026.4,<2027`, of those that are.

    Both map distributions to text: a version as its library tells it, and PEP 440 specifiers. What has no
    range, or was not found, is not looked at.
    """
    return {
        name: f"{name} {found[name]} is out of the range {ranges[name]}"
        for name in ranges
        if name in found and not in_range(found[name], ranges[name])
    }


def import_error(error: ImportError | OSError, *, extra: str, where: str) -> EdgekdError:
    """What a person is told of a library that cannot be imported: it is absent, or there and broken."""
    name = getattr(error, "name", None) or ""
    if isinstance(error, ModuleNotFoundError) and not _is_part_of_one_that_is_here(name):
        return MissingDependencyError(name or str(error), extra=extra, where=where)
    return BrokenDependencyError(_distribution(_culprit(error, name)), error, where=where)


def _is_part_of_one_that_is_here(module: str) -> bool:
    package, _, rest = module.partition(".")
    return bool(rest) and find_spec(package) is not None


def _culprit(error: BaseException, name: str) -> str:
    """The package whose code raised it: the innermost that is neither Python's nor ours."""
    ours = {"edgekd", "", *sys.stdlib_module_names}
    packages = [package for package in _packages_on_the_way(error) if package not in ours]
    return packages[-1] if packages else name.partition(".")[0] or "?"


def _packages_on_the_way(error: BaseException) -> Iterator[str]:
    for frame, _ in traceback.walk_tb(error.__traceback__):
        yield str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _distribution(package: str) -> str:
    """What pip calls it."""
    return next(iter(packages_distributions().get(package, ())), package)
