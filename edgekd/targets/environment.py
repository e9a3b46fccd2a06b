"""Sets a device up: a virtual environment with the runtime that a backend needs there."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.core.errors import TargetError
from edgekd.core.version_range import in_range
from edgekd.targets.asking import ask, ending
from edgekd.targets.target import Session
from edgekd.targets.wheels import Platform, download, explain

_LOOK_S = 120.0
_CREATE_S = 300.0
_INSTALL_S = 1800.0
_PIP_OPTIONS = ("--disable-pip-version-check", "--no-input", "--no-cache-dir", "--only-binary=:all:")


@dataclass(frozen=True)
class SetUp:
    """What `set_up` did and found; `python` goes into the devices file."""

    python: str
    """The environment's Python on the device; `~/` is the home folder, which may tell a user's name."""
    python_version: str
    versions: Mapping[str, str]
    """Of what was asked for, and of `tensorrt` where JetPack's is seen."""
    installed: tuple[str, ...]
    """Empty when all was there already."""
    source: str | None
    """Where it came from: "the device's network" or "this machine"; None when nothing was installed."""
    system_site: bool
    """Whether the environment sees the system's packages."""
    notes: tuple[str, ...]


def set_up(
    session: Session,
    *,
    name: str,
    packages: Mapping[str, str],
    ranges: Mapping[str, str] | None = None,
    base: Sequence[str] = ("python3",),
    offline: bool = False,
) -> SetUp:
    """Make `<cache>/edgekd/venv` on the device and install what of `packages` cannot be imported there.

    A second call changes nothing. `ranges`: package -> specifiers of the versions that may be there. `base`:
    the Python that the environment is made of. `offline`: this machine fetches the wheels and pushes them.
    Raises `TargetError` that says what the device lacks.
    """
    return _Environment(session, name, dict(packages), dict(ranges or {}), tuple(base), offline).set_up()


class _Environment:
    """One set-up under way."""

    def __init__(
        self,
        session: Session,
        name: str,
        packages: dict[str, str],
        ranges: dict[str, str],
        base: tuple[str, ...],
        offline: bool,
    ) -> None:
        self.session, self.name, self.packages, self.base = session, name, packages, base
        self.ranges, self.offline = ranges, offline
        self.facts = self._look(base, {})
        self.python = f"{self.facts['venv']}/bin/python"
        libc = self.facts["libc"]
        self.platform = Platform(
            self.facts["python"], self.facts["machine"], self.facts["bits"], (libc[0], libc[1])
        )

    def set_up(self) -> SetUp:
        if not self._usable():
            self._create()
        missing = self._missing(self._inside())
        if missing:
            self._install(missing)
        found = self._inside()
        if self._missing(found):
            reasons = [f"{p}: {self._unfit(found['modules'][p], p)}" for p in self._missing(found)]
            raise TargetError(f"installed, but not to be used: {'; '.join(reasons)}", where=self.name)
        return self._report(found, missing)

    def _report(self, found: Mapping[str, Any], installed: list[str]) -> SetUp:
        versions = {p: m["version"] for p, m in found["modules"].items() if "version" in m}
        broken = found["modules"].get("tensorrt", {}).get("error")
        source = "this machine" if self.offline else "the device's network"
        return SetUp(
            python=_below_home(self.python, self.facts["home"]),
            python_version=found["python"],
            versions=versions,
            installed=tuple(installed),
            source=source if installed else None,
            system_site=found["system_site"],
            notes=(f"TensorRT is there, but cannot be imported: {broken}",) if broken else (),
        )

    # --- looking --------------------------------------------------------------------------------------------

    def _look(self, python: Sequence[str], modules: Mapping[str, str]) -> dict[str, Any]:
        return ask(
            self.session, "look", {"modules": modules}, where=self.name, timeout_s=_LOOK_S, python=python
        )

    def _inside(self) -> dict[str, Any]:
        """What the environment's own Python imports; TensorRT only where the system has it."""
        tensorrt = {"tensorrt": "tensorrt"} if self.facts["tensorrt"] else {}
        return self._look((self.python,), {**self.packages, **tensorrt})

    def _missing(self, found: Mapping[str, Any]) -> list[str]:
        return [p for p in self.packages if self._unfit(found["modules"][p], p)]

    def _unfit(self, module: Mapping[str, Any], package: str) -> str | None:
        """Why what was found is not what was asked for."""
        version, range_ = module.get("version"), self.ranges.get(package, "")
        if version is None:
            return str(module.get("error"))
        if version == "?" or in_range(version, range_):
            return None
        return f"{version} is out of the range {range_}"

    def _usable(self) -> bool:
        """Whether an environment is there, whole, of the same Python, and sees what it should."""
        if not self.facts["venv_python"]:
            return False
        try:
            found = self._look((self.python,), {})
        except TargetError:
            return False  # half made, or its Python was upgraded away
        same = all(found[fact] == self.facts[fact] for fact in ("python", "base"))
        return same and (found["system_site"] or not self.facts["tensorrt"])

    # --- making ---------------------------------------------------------------------------------------------

    def _create(self) -> None:
        if not self.facts["has_venv"]:
            raise TargetError("its Python has no module `venv`", where=self.name, fix=self._apt())
        system = ["--system-site-packages"] if self.facts["tensorrt"] else []
        bare = [] if self.facts["has_ensurepip"] else ["--without-pip"]
        argv = [*self.base, "-m", "venv", "--clear", *system, *bare, self.facts["venv"]]
        finished = self.session.run(argv, timeout_s=_CREATE_S)
        if finished.code != 0:
            said = (finished.stdout + finished.stderr).decode(errors="replace").strip()
            raise TargetError(
                f"cannot make a virtual environment: {said[-800:]}", where=self.name, fix=self._apt()
            )

    def _apt(self) -> str:
        return f"on the device: `sudo apt install python{self.platform.python_minor}-venv`"

    def _install(self, packages: list[str]) -> None:
        packages = [f"{package}{self.ranges.get(package, '')}" for package in packages]
        with tempfile.TemporaryDirectory(prefix="edgekd-wheels-") as folder:
            pip = self._pip(Path(folder, "pip"))
            pushed = self._push_wheels(packages, Path(folder, "wheels")) if self.offline else []
            where = ["--no-index", "--find-links", "."] if pushed else ["--retries", "2", "--timeout", "15"]
            argv = [*pip, "install", *_PIP_OPTIONS, *where, *packages]
            finished = self.session.run(argv, timeout_s=_INSTALL_S)
        if finished.code != 0:
            said = (finished.stdout + finished.stderr).decode(errors="replace")
            if not said.strip():
                raise TargetError(f"pip failed there, {ending(finished)}", where=self.name)
            raise explain(said, self.platform, name=self.name, here=False)

    def _pip(self, folder: Path) -> list[str]:
        """The environment's own; else (Debian without `python3-venv`) a pushed wheel, which runs as it is."""
        if self.session.run([self.python, "-m", "pip", "--version"], timeout_s=_LOOK_S).code == 0:
            return [self.python, "-m", "pip"]
        try:
            (wheel,) = download(["pip"], self.platform, folder, name=self.name)
        except TargetError as error:
            raise TargetError(
                f"it has no pip, and here: {error.what}", where=self.name, fix=self._apt()
            ) from error
        return [self.python, f"{self.session.push(wheel)}/pip"]

    def _push_wheels(self, packages: list[str], folder: Path) -> list[str]:
        return [self.session.push(path) for path in download(packages, self.platform, folder, name=self.name)]


def _below_home(path: str, home: str) -> str:
    return f"~/{path[len(home) + 1 :]}" if path.startswith(f"{home.rstrip('/')}/") and len(home) > 1 else path
