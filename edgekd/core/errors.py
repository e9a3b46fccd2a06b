"""Every error edgekd raises on purpose, and the exit code each one ends a command with.

    EdgekdError                    70   internal error
    +-- UsageError                  2   bad input: recipe, model, data, budget
    |   +-- RecipeError             2   every problem of one recipe at once
    |   +-- UnmetNeedsError         2   everything at once that methods need and are not given
    |   +-- DataError               2
    |   +-- ModelError              2
    |   +-- InfeasibleError         2   no student fits the budget
    +-- TargetError                 4   a target was lost
    +-- StoreError                  5   store or disk
    +-- MissingDependencyError      6   names the extra to install
    |   +-- UnprovenVersionError    6   installed in a version that is out of range
    |   +-- BrokenDependencyError   6   installed, and cannot be imported
    +-- DivergedError               7   training produced a non-finite loss
    +-- StoppedError               75   stopped at --max-time, resumable

A gate's verdict is not an error: `fail` ends with 1 and `inconclusive` with 3 (`edgekd.core.verdict`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class EdgekdError(Exception):
    """A message for a person: what is wrong, where, the legal choices and the fix."""

    exit_code = 70

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        choices: Iterable[str] | None = None,
        fix: str | None = None,
    ) -> None:
        self.what = what
        self.where = where
        self.choices = tuple(choices) if choices is not None else None
        self.fix = fix
        super().__init__(self._message())

    def _message(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.choices is not None:
            lines.append(f"choices: {', '.join(self.choices) or '(none)'}")
        if self.fix:
            lines.append(f"fix: {self.fix}")
        return "\n  ".join(lines)


class UsageError(EdgekdError):
    exit_code = 2


class RecipeError(UsageError):
    """All problems found in one recipe, or in `what` else; `problems` holds one message each."""

    def __init__(self, problems: Iterable[str], *, where: str | None = None, what: str = "recipe") -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        head = f"{count} problem{'s' if count != 1 else ''} in the {what}"
        super().__init__("\n  - ".join([head, *self.problems]), where=where)


class UnmetNeedsError(UsageError):
    """What methods need and are not given; `problems` holds one message each."""

    def __init__(
        self,
        what: str,
        *,
        problems: Iterable[str] = (),
        where: str | None = None,
        choices: Iterable[str] | None = None,
        fix: str | None = None,
    ) -> None:
        self.problems = tuple(problems)
        text = "\n  - ".join([what, *self.problems])
        super().__init__(text, where=where, choices=choices, fix=fix)


class DataError(UsageError):
    pass


class ModelError(UsageError):
    pass


class InfeasibleError(UsageError):
    pass


class TargetError(EdgekdError):
    exit_code = 4


class StoreError(EdgekdError):
    exit_code = 5


class AbsentRuntimeError(TargetError):
    """The runtime of a backend is not on the device, or cannot work there: not measured, whatever it was."""


class MissingDependencyError(EdgekdError):
    """An optional package is absent: `MissingDependencyError("torch", extra="train")`."""

    exit_code = 6

    def __init__(self, package: str, *, extra: str, where: str | None = None) -> None:
        super().__init__(
            f"this needs the package `{package}`, which is not installed",
            where=where,
            fix=f"pip install 'edgekd[{extra}]'",
        )


class UnprovenVersionError(MissingDependencyError):
    """Installed in a version that nothing here was proven with; `what` names it and the range."""

    def __init__(self, what: str, *, where: str, fix: str) -> None:
        EdgekdError.__init__(self, what, where=where, fix=fix)


class BrokenDependencyError(MissingDependencyError):
    """A distribution is installed, and importing it fails: half an upgrade, a shared library that is gone."""

    def __init__(self, distribution: str, error: BaseException, *, where: str) -> None:
        said = next(iter(str(error).strip().splitlines()), "")
        EdgekdError.__init__(
            self,
            f"`{distribution}` is installed, and importing it fails: {type(error).__name__}: {said}",
            where=where,
            fix=f"pip install --force-reinstall --no-deps {distribution}; "
            "where a shared library is missing, install that with the system's packages",
        )


class DivergedError(EdgekdError):
    exit_code = 7


class StoppedError(EdgekdError):
    exit_code = 75


def problems_of(error: EdgekdError) -> tuple[str, ...]:
    """The messages of an error that may hold several."""
    held: tuple[str, ...] = getattr(error, "problems", ())
    return held or (str(error),)


def close_names(name: str, choices: Iterable[str]) -> str:
    """`; close names: a, b` for the names nearest to a misspelt one, or an empty string."""
    near = difflib.get_close_matches(name, list(choices), n=3, cutoff=0.6)
    return f"; close names: {', '.join(near)}" if near else ""
