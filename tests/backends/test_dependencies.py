"""Libraries that a backend was not proven with, or that are broken, are told before anything is made.

The packages are real: installed in a folder in front of the others, met by a process of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.dependencies import installed, out_of_range
from edgekd.backends.litert import environment
from edgekd.core.errors import BrokenDependencyError, MissingDependencyError, UnprovenVersionError
from edgekd.core.version_range import in_range
from tests.backends.odd_site import installed as put_into
from tests.cli.running import REPOSITORY, edgekd
from tests.cli.running import environment as environment_of

BROKEN = "raise ImportError('libfancy.so.7: cannot open shared object file\\nand a second line')\n"
WITH_OPENVINO = ("quickstart", "--set", "export.backends=[onnx,openvino]")


# --- what is stated -----------------------------------------------------------------------------------------


def _declared() -> dict[str, list[Requirement]]:
    """Extra (empty: the base) -> its own requirements."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [Requirement(text) for text in texts] for extra, texts in extras.items()}


DECLARED = _declared()


def _of_extra(extra: str) -> Iterator[Requirement]:
    """What pip installs for it, with the extras that it takes in and the base."""
    yield from DECLARED[""]
    for one in DECLARED[extra]:
        if one.name == "edgekd":
            for other in one.extras:
                yield from _of_extra(other)
        else:
            yield one


def _bounds(specifiers: str) -> tuple[str, str]:
    """`>=1.18,<2` as ("1.18", "2"); both are demanded."""
    match = re.fullmatch(r">=([\d.]+),<([\d.]+)", specifiers)
    assert match, f"{specifiers} is no range"
    return match[1], match[2]


@pytest.mark.parametrize("name", BACKENDS.names())
def test_a_range_has_two_ends(name: str) -> None:
    assert BACKENDS.load(name).versions
    for specifiers in BACKENDS.load(name).versions.values():
        _bounds(specifiers)


@pytest.mark.parametrize("name", BACKENDS.names())
def test_pip_installs_nothing_that_is_out_of_range(name: str) -> None:
    """A device may have an older runtime than the one that is installed here; the newest end is the same."""
    backend, seen = BACKENDS.load(name), set()
    for requirement in _of_extra(backend.extra):
        if requirement.name not in backend.versions:
            continue
        seen.add(requirement.name)
        low, high = _bounds(",".join(sorted(str(requirement.specifier).split(","), reverse=True)))
        assert in_range(low, backend.versions[requirement.name]), requirement
        assert high == _bounds(backend.versions[requirement.name])[1], requirement
    own = {one.name for one in DECLARED[backend.extra]} - {"edgekd"}
    assert seen >= own & {*backend.versions} and "torch" in seen
    assert backend.extra == "train" or own <= {*backend.versions}


@pytest.mark.parametrize("name", BACKENDS.names())
def test_what_is_installed_here_is_in_range(name: str) -> None:
    backend = BACKENDS.load(name)
    assert backend.out_of_range(installed(backend.versions)) == []


def test_the_pins_of_the_converter_are_in_range() -> None:
    pins = dict(pin.split("==") for pin in environment.PINS)
    ranges = BACKENDS.load("litert").versions
    assert {*pins} & {*ranges} == {"litert-torch", "litert-converter", "ai-edge-quantizer", "ai-edge-litert"}
    assert out_of_range(pins, ranges) == {}


# --- what is found ------------------------------------------------------------------------------------------


def test_an_absurd_version_ends_validate_with_6(tmp_path: Path) -> None:
    surroundings = put_into(tmp_path / "site", "openvino", "1999.1", "openvino", "")
    done = edgekd("validate", *WITH_OPENVINO, folder=tmp_path, **surroundings)
    assert done.returncode == 6, done.stderr
    assert "backend `openvino`: openvino 1999.1 is out of the range >=2026.4,<2027" in done.stderr
    assert "fix: pip install 'openvino>=2026.4,<2027'" in done.stderr


def test_the_error_is_one_of_a_missing_dependency() -> None:
    """So that whoever looks for usable backends passes over it."""
    assert issubclass(UnprovenVersionError, MissingDependencyError)
    assert issubclass(BrokenDependencyError, MissingDependencyError)


@pytest.mark.backends
def test_a_broken_package_ends_a_run_with_6_before_a_step_is_made(tmp_path: Path) -> None:
    surroundings = put_into(tmp_path / "site", "openvino", "2026.4.1", "openvino", BROKEN)
    done = edgekd("run", *WITH_OPENVINO, folder=tmp_path, **surroundings)
    assert done.returncode == 6, done.stderr
    text = (
        "backend `openvino`: `openvino` is installed, and importing it fails: "
        "ImportError: libfancy.so.7: cannot open shared object file\n"
    )
    assert text in done.stderr
    assert "fix: pip install --force-reinstall --no-deps openvino" in done.stderr
    assert "second line" not in done.stderr and "Traceback" not in done.stderr
    assert [*(tmp_path / ".edgekd" / "objects").glob("*")] == []


def _loading(surroundings: dict[str, str]) -> str:
    """What loading OpenVINO's exporter ends with, in a process of its own."""
    script = (
        "from edgekd.backends.catalogue import BACKENDS\n"
        "from edgekd.core.errors import EdgekdError\n"
        "try: BACKENDS.load('openvino').load_exporter()\n"
        "except EdgekdError as error: print(error.exit_code, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment_of(**surroundings),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout.startswith("6 "), done.stdout + done.stderr
    return done.stdout


@pytest.mark.backends
def test_a_part_that_is_gone_is_broken_and_not_absent(tmp_path: Path) -> None:
    """Half an upgrade: pip thinks that it is there, so that installing it again would do nothing."""
    surroundings = put_into(
        tmp_path / "site", "openvino", "2026.4.1", "openvino", "import openvino._pyopenvino\n"
    )
    assert "`openvino` is installed, and importing it fails: ModuleNotFoundError" in _loading(surroundings)


@pytest.mark.backends
def test_a_shared_library_that_ctypes_cannot_load_is_told_with_the_package_that_wants_it(
    tmp_path: Path,
) -> None:
    code = "import fancy_kernels\n"
    surroundings = put_into(tmp_path / "site", "openvino", "2026.4.1", "openvino", code)
    put_into(
        tmp_path / "site", "fancy-kernels", "1.0", "fancy_kernels", "import ctypes\nctypes.CDLL('libno.so')\n"
    )
    told = _loading(surroundings)
    assert "`fancy-kernels` is installed, and importing it fails: OSError: libno.so" in told


def test_a_converter_whose_python_is_gone_ends_with_6(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ai_edge_litert", reason="needs edgekd[litert]")
    (tmp_path / "python").symlink_to(tmp_path / "removed" / "python3.11")
    monkeypatch.setenv(environment.VARIABLE, str(tmp_path / "python"))
    with pytest.raises(MissingDependencyError, match="which cannot be run") as caught:
        BACKENDS.load("litert").require()
    assert caught.value.exit_code == 6


def test_a_converter_that_is_out_of_range_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python whose site has other versions of everything that converts."""
    pytest.importorskip("ai_edge_litert", reason="needs edgekd[litert]")
    for name in environment.LIBRARIES:
        put_into(
            tmp_path / "site", name, "0.1" if name == "litert-torch" else "0.0", name.replace("-", "_"), ""
        )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nshift\nPYTHONPATH={tmp_path / "site"} exec {sys.executable} -s "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv(environment.VARIABLE, str(python))
    with pytest.raises(UnprovenVersionError) as caught:
        BACKENDS.load("litert").require()
    assert "litert-torch 0.1 is out of the range >=0.10,<0.11" in str(caught.value)
    assert environment.COMMAND in str(caught.value)
