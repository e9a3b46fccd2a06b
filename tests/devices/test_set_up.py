"""`device setup` for real: pip, wheels, environments, on this machine in place of a device."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.errors import TargetError
from edgekd.targets import care
from edgekd.targets.care import SetUp, set_up
from edgekd.targets.local import LocalTarget
from edgekd.targets.target import Session
from edgekd.targets.wheels import Platform, download

pytestmark = [pytest.mark.devices, pytest.mark.slow, pytest.mark.timeout(900)]
ONNX = BACKENDS.load("onnx").device_packages
SMALL = {"six": "six"}
PYTHON = (str(Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}")),)


@pytest.fixture(scope="module", autouse=True)
def _package_index(tmp_path_factory: pytest.TempPathFactory) -> None:
    here = Platform(sys.version.split()[0], "x86_64", 64, ("glibc", "2.36"))
    try:
        download(["six"], here, tmp_path_factory.mktemp("six"), name="here")
    except TargetError as error:
        pytest.skip(f"no package index here: {error.what}")


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with LocalTarget(name="local").session() as session:
        yield session


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "edgekd" / "venv"


def test_the_runtime_is_pushed_once_and_cleaned_away(session: Session, venv: Path) -> None:
    done = set_up(session, name="local", packages=ONNX, base=PYTHON, offline=True)
    assert (set(done.installed), done.source) == ({"numpy", "onnxruntime"}, "this machine")
    assert set(done.versions) == {"numpy", "onnxruntime"}
    assert done.python == str(venv / "bin" / "python")
    assert not done.system_site
    again = set_up(session, name="local", packages=ONNX, base=PYTHON, offline=True)
    assert (again.installed, again.source, again.versions) == ((), None, done.versions)
    removed = care.clean(session, name="local").removed
    assert removed["venv"] > 10_000_000
    assert not venv.exists()


def test_an_old_jetpacks_python_gets_the_last_runtime_that_was_made_for_it(session: Session) -> None:
    kept = next(Path.home().glob(".pyenv/versions/3.8.*/bin/python3.8"), None)
    old = kept or shutil.which("python3.8")
    if old is None or subprocess.run([old, "-c", ""], check=False, capture_output=True).returncode != 0:
        pytest.skip("there is no Python 3.8 on this machine")
    done = set_up(session, name="xavier", packages=ONNX, base=(str(old),), offline=True)
    assert done.python_version.startswith("3.8.")
    assert set(done.installed) == {"numpy", "onnxruntime"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Session, Path, SetUp]]:
    """An environment with one small package, from the network, for the tests that damage it."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch, LocalTarget(name="local").session() as session:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield session, folder / "edgekd" / "venv", set_up(session, name="local", base=PYTHON, packages=SMALL)


def test_the_devices_own_network_will_do(made: tuple[Session, Path, SetUp]) -> None:
    _, venv, done = made
    assert (done.installed, done.source) == (("six",), "the device's network")
    assert (venv / "bin" / "pip").exists()


@pytest.mark.parametrize("damage", ["no package", "no python"])
def test_what_is_damaged_is_made_again(made: tuple[Session, Path, SetUp], damage: str) -> None:
    session, venv, _ = made
    if damage == "no python":  # as after an upgrade of the system's
        (venv / "bin" / "python").unlink()
        (venv / "bin" / "python").symlink_to("/nowhere/python3")
    else:
        (path,) = venv.glob("lib/python3*/site-packages/six.py")
        path.unlink()
        shutil.rmtree(next(venv.glob("lib/python3*/site-packages/six-*")))
    done = set_up(session, name="local", base=PYTHON, packages=SMALL)
    assert (done.installed, set(done.versions)) == (("six",), {"six"})


def test_what_is_out_of_range_is_replaced(made: tuple[Session, Path, SetUp]) -> None:
    session = made[0]
    old = set_up(session, name="local", base=PYTHON, packages=SMALL, ranges={"six": "<1.16"})
    assert (old.installed, old.versions["six"] < "1.16") == (("six",), True)
    new = set_up(session, name="local", base=PYTHON, packages=SMALL, ranges={"six": ">=1.16,<2"})
    assert (new.installed, new.versions["six"] >= "1.16") == (("six",), True)
    assert set_up(session, name="local", base=PYTHON, packages=SMALL).installed == ()


def test_what_installs_but_does_not_import_is_an_error(made: tuple[Session, Path, SetUp]) -> None:
    with pytest.raises(TargetError, match="installed, but not to be used: six: ModuleNotFoundError"):
        set_up(made[0], name="local", base=PYTHON, packages={"six": "seven"})


@pytest.fixture
def jetpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the system's packages, synthetic; its Python cannot find `ensurepip`, as Ubuntu's."""
    monkeypatch.setenv("PYTHONUSERBASE", str(tmp_path / "system"))
    site = tmp_path / "system" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    site.mkdir(parents=True)
    (site / "usercustomize.py").write_text("import sys\nsys.modules['ensurepip'] = None\n")
    return site


def test_jetpacks_tensorrt_is_seen_and_ubuntus_missing_pip_is_no_obstacle(
    session: Session, venv: Path, jetpack: Path
) -> None:
    (jetpack / "tensorrt.py").write_text('__version__ = "10.3.0"\n')
    done = set_up(session, name="orin", base=PYTHON, packages=SMALL, offline=True)
    assert done.system_site
    assert done.versions["tensorrt"] == "10.3.0"
    assert not (venv / "bin" / "pip").exists()
    assert done.notes == ()


def test_a_tensorrt_that_is_broken_is_told(session: Session, jetpack: Path) -> None:
    (jetpack / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open')\n")
    done = set_up(session, name="orin", base=PYTHON, packages=SMALL, offline=True)
    assert "libnvinfer.so.10" in done.notes[0]


def test_a_python_that_is_not_there_is_an_error(session: Session) -> None:
    with pytest.raises(TargetError, match=r"cannot start /no/python3"):
        set_up(session, name="local", packages=ONNX, base=("/no/python3",))


def test_a_pi_gets_wheels_of_its_own(tmp_path: Path) -> None:
    pi5 = Platform("3.11.2", "aarch64", 64, ("glibc", "2.36"))
    names = [path.name for path in download(["numpy", "onnxruntime"], pi5, tmp_path, name="pi5")]
    assert any(name.startswith("onnxruntime-") and name.endswith("aarch64.whl") for name in names)
    assert not any("x86_64" in name for name in names)


def test_there_is_no_onnxruntime_for_a_32_bit_pi(tmp_path: Path) -> None:
    old = Platform("3.11.2", "aarch64", 32, ("glibc", "2.36"))
    with pytest.raises(
        TargetError, match=r"no wheel of `onnxruntime` for Python 3\.11 on armv7l(.|\n)*64-bit"
    ):
        download(["onnxruntime"], old, tmp_path, name="pi")
