"""The device side of the Core ML backend: it says that it cannot run here, and refuses what is no package."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgekd.backends.coreml import runtime
from edgekd.backends.coreml.backend import BACKEND

pytestmark = pytest.mark.backends


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A zip of the right form; what its files hold is for coremltools to judge."""
    path = tmp_path / "a.mlpackage.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in runtime._NAMES:
            archive.writestr(name, name * 50)
    return path


@pytest.mark.skipif(sys.platform == "darwin", reason="this is where it would run")
def test_anywhere_but_on_macos_it_is_unavailable(package: Path) -> None:
    for action in (runtime.versions, lambda: runtime.load(str(package))):
        with pytest.raises(
            runtime.Unavailable, match="macOS and iOS only: numerics and speed are not measured"
        ):
            action()


def test_importing_it_by_path_needs_no_coremltools() -> None:
    script = (
        "import importlib.util, sys\n"
        f"s = importlib.util.spec_from_file_location('r', {str(BACKEND.runtime)!r})\n"
        "m = importlib.util.module_from_spec(s); s.loader.exec_module(m)\n"
        "print('coremltools' in sys.modules, 'edgekd' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_threads_that_cannot_be_set_are_refused(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_coremltools", lambda: None)
    with pytest.raises(runtime.FallbackError, match="2 threads were asked for, Core ML chooses"):
        runtime.load(str(package), threads=2)
    with pytest.raises(runtime.FallbackError, match="'GPU' is none of CPU_ONLY"):
        runtime.load(str(package), options={"threads": "any", "compute_units": "GPU"})


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_a_cut_file_is_refused(package: Path, share: float) -> None:
    content = package.read_bytes()
    package.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(runtime.ArtifactError, match="not a zip, or cut short"):
        runtime.load(str(package))


def test_flipped_bytes_are_refused_or_leave_the_files_as_they_were(package: Path) -> None:
    draw, content = random.Random(0), package.read_bytes()
    for _ in range(300):
        broken = bytearray(content)
        broken[draw.randrange(len(broken))] ^= 1 << draw.randrange(8)
        package.write_bytes(broken)
        try:
            runtime.check_file(package)
        except runtime.ArtifactError:
            continue
        with zipfile.ZipFile(package) as archive:
            assert [archive.read(name).decode() for name in runtime._NAMES] == [
                n * 50 for n in runtime._NAMES
            ]


@pytest.mark.parametrize(
    "names",
    [
        [],
        list(runtime._NAMES[:1]),
        [*runtime._NAMES, "../outside"],
        [*runtime._NAMES[:2], "/etc/passwd"],
        [*runtime._NAMES[:2], runtime._NAMES[0]],
        ["model.mlpackage/../../Manifest.json", *runtime._NAMES[1:]],
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_of_other_files_is_refused_before_it_is_unpacked(names: list[str], tmp_path: Path) -> None:
    path = tmp_path / "a.mlpackage.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    with pytest.raises(runtime.ArtifactError, match=r"not the zip of an \.mlpackage"):
        runtime.load(str(path))


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mlpackage.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in runtime._NAMES:
            archive.writestr(name, bytes(10_000_000))
    with pytest.raises(runtime.ArtifactError, match="compressed or encrypted"):
        runtime.load(str(path))


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"7767517\n", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_package_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.mlpackage.zip"
    path.write_bytes(content)
    with pytest.raises(runtime.ArtifactError, match=r"not a zip|not the zip"):
        runtime.load(str(path))


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(runtime.ArtifactError, match="there is no file"):
            runtime.load(str(path))


def test_the_description_costs_nothing() -> None:
    assert BACKEND.runtime.is_file()
    assert "int8" not in BACKEND.precisions
    assert importlib.util.find_spec(BACKEND.exporter.partition(":")[0]) is not None
