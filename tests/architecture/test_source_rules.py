"""Rules that hold for every source file, read from the files themselves: none is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "edgekd"
MODULES = sorted(PACKAGE.rglob("*.py"))
CODE = [path for path in MODULES if path.name != "__init__.py"]

MOST_LINES = 400
_PUSHED = "one file, because one file is what is pushed to a device"
LONGER = dict.fromkeys(
    ("edgekd/measure/agent.py",),
    _PUSHED,
)
DRAWERS = {"utils", "util", "helpers", "helper", "common", "misc", "base", "tools"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call with its dotted name, as `np.load`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(item.value) for item in call.keywords if item.arg == name), None)


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_a_module_says_what_it_is_for_in_one_sentence(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text, "no docstring"
    first = text.split("\n\n")[0]
    assert first.rstrip()[-1] in ".:?", f"the first sentence does not end: {first!r}"
    assert first[0].isupper() or first[0] in "`0123456789"


@pytest.mark.parametrize("path", [p for p in MODULES if p.name == "__init__.py"], ids=name_of)
def test_an_init_file_is_empty(path: Path) -> None:
    assert path.read_bytes() == b""


def test_every_folder_of_code_is_a_package() -> None:
    folders = {path.parent for path in CODE}
    assert [name_of(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_no_file_is_a_drawer() -> None:
    parts = {name_of(path): {*path.relative_to(PACKAGE).with_suffix("").parts} for path in MODULES}
    assert [name for name, words in parts.items() if words & DRAWERS] == []


def test_files_are_short() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: n for name, n in lengths.items() if n > MOST_LINES and name not in LONGER} == {}
    assert [name for name in LONGER if lengths.get(name, 0) <= MOST_LINES] == [], "no longer an exception"


def test_nothing_that_was_read_is_ever_executed() -> None:
    """Files may be hostile: nothing is unpickled, evaluated or built from tags."""
    found = [f"{name_of(path)}: {told}" for path in MODULES for told in _dangers(path)]
    assert found == []


def _dangers(path: Path) -> Iterator[str]:
    for name, call in calls(path):
        last = name.rpartition(".")[2]
        if name in ("eval", "exec", "os.system", "os.popen", "marshal.loads", "shelve.open"):
            yield f"{name} in line {call.lineno}"
        if keyword(call, "shell") not in (None, "False"):
            yield f"a shell in line {call.lineno}"
        if name.startswith(("pickle.", "_pickle.", "dill.", "joblib.", "cloudpickle.")):
            yield f"{name} in line {call.lineno}"
        if name == "torch.load" and keyword(call, "weights_only") != "True":
            yield f"torch.load without weights_only=True in line {call.lineno}"
        if name.startswith("yaml.") and last.endswith("load") and last != "safe_load":
            yield f"{name} in line {call.lineno}"
        if name in ("np.load", "numpy.load") and keyword(call, "allow_pickle") != "False":
            yield f"np.load without allow_pickle=False in line {call.lineno}"
        if (
            name in ("tar.extract", "archive.extract", "tar.extractall", "archive.extractall")
            and keyword(call, "filter") != "'data'"
        ):
            yield f"{name} without filter='data' in line {call.lineno}"
        if name.endswith(("shutil.unpack_archive", "ZipFile.extractall")):
            yield f"{name} in line {call.lineno}"


UNPICKLING = {
    "edgekd/data/pickled_arrays.py": "reads CIFAR's pickles with an unpickler that knows arrays only",
    "edgekd/networks/weights.py": "catches pickle.UnpicklingError of torch.load(weights_only=True)",
}


def test_pickle_is_imported_only_where_it_is_tamed() -> None:
    found = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"} & set(names):
                found.add(name_of(path))
    assert found <= set(UNPICKLING)


def test_yaml_of_others_is_read_in_one_place_where_its_size_is_bounded() -> None:
    """Shipped files are not others'; whatever a user names goes through `core.plain_yaml`."""
    shipped = {"edgekd/networks/shipped.py", "edgekd/pipeline/teacher_look.py", "edgekd/cli/listing.py"}
    readers = {
        name_of(p) for p in MODULES if any(n in ("yaml.safe_load", "yaml.compose") for n, _ in calls(p))
    }
    assert readers - shipped == {"edgekd/core/plain_yaml.py"}


def test_the_agent_and_runtimes_import_nothing_of_edgekd() -> None:
    """They are pushed to a device alone."""
    parts = [part for folder in PACKAGE.glob("backends/*/") for part in folder.glob(f"{folder.name}_*.py")]
    for path in (*PACKAGE.glob("measure/agent*.py"), *PACKAGE.glob("backends/*/runtime.py"), *parts):
        tree = ast.parse(path.read_text())
        modules = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        modules += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
        # ExecuTorch's own Python interface takes torch's tensors.
        banned = (
            {"edgekd", "pydantic"} if path.parent.name == "executorch" else {"edgekd", "torch", "pydantic"}
        )
        assert [m for m in modules if m.partition(".")[0] in banned] == [], path


def test_tests_mirror_the_code() -> None:
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    tested = {path.name for path in (ROOT / "tests").iterdir() if (path / "__init__.py").is_file()}
    assert packages - {"testing"} <= tested
