"""A step's key follows the code of the backends that it uses, and of no other.

The laws are tried on a copy of the package, which is edited; that nothing is missed, on real exports, by what
they really import.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.errors import MissingDependencyError
from edgekd.pipeline.backend_code import files_for
from edgekd.stages.catalogue import STAGES
from tests.cli.running import REPOSITORY, environment

USERS = ("edgekd.networks", "edgekd.quant", "edgekd.stages")
_DIGESTS = f"""
import ast
import json
from edgekd.backends.catalogue import BACKENDS
from edgekd.pipeline.backend_code import digest
found = {{name: digest({USERS!r}, [name]) for name in BACKENDS.names()}}
print(json.dumps({{**found, "quantize": digest(["edgekd.quant", "edgekd.backends.profile"], [])}}))
"""


class Copy:
    """The package in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        left_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / "edgekd", folder / "edgekd", ignore=left_out)
        self.before = self.digests()

    def digests(self) -> dict[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", _DIGESTS],
            env=environment(PYTHONPATH=str(self.folder)),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, str] = json.loads(done.stdout)
        return found

    def append(self, path: str, text: str) -> None:
        with (self.folder / "edgekd" / "backends" / path).open("a") as stream:
            stream.write(text)

    def changed(self) -> set[str]:
        """Whose digest is another one since the last look."""
        now = self.digests()
        changed = {name for name in now if now[name] != self.before.get(name)}
        self.before = now
        return changed


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


ALL = {*BACKENDS.names()}


@pytest.mark.parametrize(
    ("path", "whose"),
    [
        ("openvino/export.py", {"openvino"}),
        ("openvino/runtime.py", {"openvino"}),
        ("ncnn/export.py", {"ncnn"}),
        ("executorch/trained_form.py", {"executorch", "litert"}),
        ("tensorrt/profile.py", {*ALL, "quantize"}),
        ("onnx/operators.py", {*ALL, "quantize"}),
        ("source.py", ALL),
        ("catalogue.py", set()),
    ],
)
def test_a_change_counts_for_those_that_use_it(copy: Copy, path: str, whose: set[str]) -> None:
    copy.append(path, "\n# a change\n")
    assert copy.changed() == whose


def test_a_new_backend_leaves_the_others(copy: Copy) -> None:
    new = copy.folder / "edgekd" / "backends" / "fresh"
    new.mkdir()
    for name in ("__init__.py", "backend.py", "export.py"):
        (new / name).write_text('"""Fresh."""\n')
    copy.append(
        "catalogue.py", '\nBACKENDS.add(Entry("fresh", "edgekd.backends.fresh.backend:BACKEND", "-"))\n'
    )
    assert copy.changed() == {"fresh"}
    copy.append("fresh/export.py", "\n# a change\n")
    assert copy.changed() == {"fresh"}


@pytest.mark.parametrize(
    "reference",
    [
        "import edgekd.backends.ncnn.conversion",
        "from edgekd.backends.ncnn.conversion import anything",
        "from edgekd.backends.ncnn import conversion",
        "from edgekd.backends import ncnn",
        "from ..ncnn import conversion",
        "def f():\n    from edgekd.backends.ncnn import conversion",
        "TARGET = 'edgekd.backends.ncnn.conversion:converted'",
        "from edgekd.backends.catalogue import BACKENDS\nother = BACKENDS.load('ncnn')",
        "import importlib\ndef f(name):\n    importlib.import_module(f'edgekd.backends.{name}')",
        "import edgekd.backends",
        "from edgekd.backends import *",
    ],
)
def test_whatever_way_one_refers_to_another_is_followed(copy: Copy, reference: str) -> None:
    copy.append("openvino/silent.py", f"\n{reference}\n")
    assert copy.changed() == {"openvino"}
    copy.append("ncnn/conversion.py", "\n# a change\n")
    assert copy.changed() == {"openvino", "ncnn"}


def test_what_a_docstring_mentions_does_not_count(copy: Copy) -> None:
    (copy.folder / "edgekd/backends/openvino/silent.py").write_text(
        '"""As edgekd.backends.ncnn.conversion."""\n'
    )
    copy.changed()
    copy.append("ncnn/conversion.py", "\n# a change\n")
    assert copy.changed() == {"ncnn"}


def test_training_depends_on_no_exporter() -> None:
    """It would be trained anew whenever one is changed."""
    stage = STAGES.load("quantize")
    names = {file.name for file in files_for([*stage.sources, stage.run.__module__], ())}
    assert {"operators.py", "profile.py"} <= names
    assert not names & {"export.py", "runtime.py"}


_EXPORT = """
import sys
from pathlib import Path
from edgekd.backends.catalogue import BACKENDS
from edgekd.testing.backend_contract import exported
name, folder = sys.argv[1:]
for precision in BACKENDS.load(name).precisions:
    exported(name, Path(folder), precision)
BACKENDS.load(name).baseline_graph()
print([m.__file__ for n, m in list(sys.modules.items()) if n.startswith("edgekd.backends.")])
"""


@pytest.mark.backends
@pytest.mark.parametrize("name", BACKENDS.names())
def test_nothing_that_an_export_imports_is_missed(name: str, tmp_path: Path) -> None:
    try:
        BACKENDS.load(name).require()
    except MissingDependencyError as error:
        pytest.skip(f"not checked: {error}")
    done = subprocess.run(
        [sys.executable, "-c", _EXPORT, name, str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    imported = {Path(path) for path in ast.literal_eval(done.stdout.splitlines()[-1])}
    catalogue = REPOSITORY / "edgekd/backends/catalogue.py"
    assert len(imported) > 5
    assert imported - {catalogue} <= {*files_for(USERS, [name])}
