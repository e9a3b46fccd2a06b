"""Bad input gets one clear screen, the right exit code, no traceback, and nothing that existed is lost."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from PIL import Image

from edgekd.cli.main import exit_code_of
from edgekd.core.digest import of_file
from edgekd.pipeline.bundle import BUNDLE, make_bundle
from edgekd.store.store import Store
from tests.cli.running import edgekd
from tests.measure import graphs
from tests.pipeline.small_run import make_run

pytestmark = pytest.mark.timeout(200)

TRAINED = "{teacher: {epochs: 4, batch_size: 32}}"
STEPS = f"steps: [{TRAINED}, {{student: {{network: resnet_cifar, args: {{depth: 8}}}}}}, distill, export]\n"


class Screen:
    """What a command left: its exit code and what it told."""

    def __init__(self, code: int, text: str) -> None:
        self.code, self.text = code, text

    def expect(self, code: int, *words: str) -> None:
        assert self.code == code, self.text
        assert "Traceback" not in self.text
        assert "internal error" not in self.text
        assert 0 < len(self.text.splitlines()) <= 25, self.text
        assert max(map(len, self.text.splitlines())) < 1200, self.text
        for word in words:
            assert word in self.text


Type = Callable[..., Screen]


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Type:
    """Types a command in an empty folder. In this process: test_endings looks at what a fresh one adds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGEKD_TRACEBACK", raising=False)

    def type_(*arguments: str) -> Screen:
        capsys.readouterr()
        code = exit_code_of(list(arguments))
        return Screen(code, capsys.readouterr().err)

    return type_


def snapshot(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder."""
    return {str(p.relative_to(folder)): of_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}


# --- recipes ------------------------------------------------------------------------------------------------


def laughs(key: str) -> str:
    lines = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    return "\n".join([*lines, f"{key}: *a9", "steps: [export]"])


BROKEN = {
    "too many digits": "seed: " + "9" * 5000,
    "no such date": "seed: 2020-99-99",
    "no such number": "seed: !!int x",
    "no such boolean": "trust_code: !!bool x",
    "no such time": "seed: !!timestamp x",
    "an object": "seed: !!python/object/apply:os.system ['touch marker']",
    "too deep": "seed: " + "[" * 20_000,
    "text for a number": "seed: many\nsteps: [export]",
    "a number for a list": "targets: 3\nsteps: [export]",
    "a number for a step": "teacher: {network: resnet_cifar}\nsteps: [{teacher: 5}, export]",
    "a list for a mapping": "gate: [1]\nsteps: [export]",
    "a size without a unit": "gate: {size: 3}\nsteps: [export]",
    "a name that is a path": "name: ../../etc\nsteps: [export]",
    "an unknown network": STEPS.replace("resnet_cifar", "resnet_cifra") + "teacher: {network: wrn}",
    "an unknown argument": STEPS.replace("depth", "dept") + "teacher: {network: wrn}",
    "an absurd depth": STEPS.replace("depth: 8", "depth: 99999998") + "teacher: {network: wrn}",
    "a wrong argument": STEPS.replace("depth: 8", "depth: deep") + "teacher: {network: wrn}",
    "an unknown torchvision network": STEPS + "teacher: {torchvision: resnet5000}",
    "an unknown space": STEPS.replace(
        "student: {network: resnet_cifar,", "select: {space: zooo, strategy_keys:"
    )
    + "teacher: {network: wrn}",
    "an unknown strategy": "steps: [{teacher: {network: wrn}}, {select: {strategy: luck}}, distill, export]",
    "a space of too much": "steps: [{teacher: {network: wrn}}, {select: {space: {network: wrn, axes: {"
    + ", ".join(f"a{n}: [1, 2, 3, 4, 5, 6, 7, 8]" for n in range(12))
    + "}}}}, distill, export]",
    "a missing table": "steps: [{teacher: {network: wrn}}, {select: {latency: no.json}}, distill, export]",
    "missing weights": STEPS + "teacher: {network: wrn, weights: no.safetensors}",
    "taps that are not there": STEPS.replace("distill", "{distill: {method: fitnets}}")
    + "teacher: {onnx: there.onnx}",
    "an odd preprocessing": STEPS + "teacher: {network: wrn, preprocess: {mean: [0, 0], std: [1]}}",
    "an enormous input": STEPS + "teacher: {network: wrn, preprocess: {size: [100000, 100000]}}",
    "a release that is none": STEPS
    + "teacher: {network: wrn}\ngate: {release: no, accuracy_drop: {max: 1pt, against: release}}",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_recipe_is_told_before_any_compute_is_spent(typed: Type, tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    (tmp_path / "there.onnx").write_bytes(b"looked at by a run only")
    typed("validate", "r.yaml").expect(2, "r.yaml")
    assert not (tmp_path / "marker").exists()
    assert not (tmp_path / ".edgekd").exists()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("key", ["steps", "targets", "seed"])
def test_aliases_of_aliases_neither_hang_nor_exhaust_the_memory(
    typed: Type, tmp_path: Path, key: str
) -> None:
    (tmp_path / "r.yaml").write_text(laughs(key))
    typed("validate", "r.yaml").expect(2, "expand to more than")


def test_a_value_that_contains_itself_is_told(typed: Type, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("seed: &a [*a]\n")
    typed("validate", "r.yaml").expect(2, "line 1 contains itself")


def test_a_recipe_of_a_gigabyte_is_not_read_whole(typed: Type, tmp_path: Path) -> None:
    with (tmp_path / "r.yaml").open("wb") as stream:
        stream.truncate(1 << 30)
    typed("validate", "r.yaml").expect(2, "larger than")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--set", "seed=[" + "*a" * 9],
        ["--set", "steps.0=3"],
        ["--threads", "0"],
        ["--until", "nowhere"],
        ["--device", "potato"],
        ["--device", "cuda:99"],
        ["--max-time", "-5m"],
    ],
    ids=lambda arguments: " ".join(arguments)[:24],
)
def test_wrong_options_are_told(typed: Type, tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "r.yaml").write_text(
        "teacher: {network: resnet_cifar, args: {depth: 8}, epochs: 1}\n" + STEPS
    )
    typed("run", "r.yaml", *arguments).expect(2)


def test_a_python_file_that_is_not_trusted_is_not_run(typed: Type, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("open('marker', 'w')\n")
    (tmp_path / "r.yaml").write_text("teacher: {python: 'net.py:net'}\n" + STEPS)
    for command in ("validate", "plan", "run"):
        typed(command, "r.yaml").expect(2, "trust_code: true")
    (tmp_path / "r.yaml").write_text(
        "teacher: {network: wrn}\n" + STEPS.replace("network: resnet_cifar", "network: 'net.py:net'")
    )
    typed("run", "r.yaml").expect(2, "trust_code: true")
    assert not (tmp_path / "marker").exists()


# --- targets ------------------------------------------------------------------------------------------------

DEVICES = {
    "not YAML": "a: [",
    "a bomb": laughs("pi"),
    "an object": "pi: !!python/object/apply:os.system ['touch marker']",
    "a list": "- local",
    "no kind": "pi: {host: there}",
    "an unknown kind": "pi: {kind: carrier_pigeon}",
    "an unknown option": "pi: {kind: local, coers: [1]}",
    "a wrong type": "pi: {kind: local, threads: many}",
    "no threads": "pi: {kind: local, threads: 0}",
    "absurd threads": "pi: {kind: local, threads: 1000000}",
    "a path for a name": "../pi: {kind: local}",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", DEVICES.values(), ids=DEVICES)
def test_a_broken_devices_file_is_told_with_its_name(typed: Type, tmp_path: Path, text: str) -> None:
    (tmp_path / "edgekd-devices.yaml").write_text(text)
    (tmp_path / "r.yaml").write_text("teacher: {network: resnet_cifar}\n" + STEPS)
    typed("validate", "r.yaml").expect(2, "edgekd-devices.yaml")
    typed("list", "targets").expect(2, "edgekd-devices.yaml")
    assert not (tmp_path / "marker").exists()


# --- data ---------------------------------------------------------------------------------------------------


def image_folder(root: Path, classes: tuple[str, ...], count: int = 8) -> None:
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")


def arrays(file: Path, **changes: Any) -> None:
    rng = np.random.default_rng(0)
    content: dict[str, Any] = {
        "x_train": rng.integers(0, 256, (60, 8, 8), dtype=np.uint8),
        "y_train": np.arange(60) % 3,
    }
    np.savez(file, **{**content, **changes})


class Marker:
    """Unpickling it makes the file `marker`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch marker",)


def _empty_folder(root: Path) -> str:
    (root / "photos").mkdir()
    return "source: image_folder, root: photos"


def _empty_classes(root: Path) -> str:
    for name in ("cat", "dog"):
        (root / "photos" / name).mkdir(parents=True)
    return "source: image_folder, root: photos"


def _undecodable(root: Path) -> str:
    image_folder(root / "photos", ("cat", "dog"))
    (root / "photos" / "cat" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    return "source: image_folder, root: photos"


def _one_class(root: Path) -> str:
    image_folder(root / "photos", ("cat",))
    return "source: image_folder, root: photos"


def _one_class_of_arrays(root: Path) -> str:
    arrays(root / "d.npz", y_train=np.zeros(60, np.int64))
    return "source: arrays, file: d.npz"


def _negative_label(root: Path) -> str:
    arrays(root / "d.npz", y_train=np.arange(60) % 3 - 1)
    return "source: arrays, file: d.npz"


def _label_out_of_range(root: Path) -> str:
    arrays(root / "d.npz", x_test=np.zeros((3, 8, 8), np.uint8), y_test=np.array([0, 1, 9]))
    return "source: arrays, file: d.npz"


def _truncated_npz(root: Path) -> str:
    arrays(root / "d.npz")
    (root / "d.npz").write_bytes((root / "d.npz").read_bytes()[:-200])
    return "source: arrays, file: d.npz"


def _object_npz(root: Path) -> str:
    arrays(root / "d.npz", y_train=np.array([Marker()] * 60, dtype=object))
    return "source: arrays, file: d.npz"


def _huge_npz(root: Path) -> str:
    """A header that declares more than any memory holds."""
    arrays(root / "d.npz")
    head = BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "|u1", "fortran_order": False, "shape": (1 << 40, 8, 8)}
    )
    with zipfile.ZipFile(root / "d.npz", "w") as archive:
        archive.writestr("x_train.npy", head.getvalue())
        archive.writestr("y_train.npy", head.getvalue())
    return "source: arrays, file: d.npz"


def _two_lines(root: Path) -> str:
    arrays(root / "d.npz", classes=np.array(["cat", "dog\nbird", "cow"]))
    return "source: arrays, file: d.npz"


def _twice(root: Path) -> str:
    arrays(root / "d.npz", classes=np.array(["cat", "dog", "cat"]))
    return "source: arrays, file: d.npz"


DATA = {
    "a class name of two lines": (_two_lines, "not one line"),
    "a class named twice": (_twice, "two classes are called"),
    "a missing folder": (lambda root: "source: image_folder, root: nowhere", "does not exist"),
    "a missing file": (lambda root: "source: arrays, file: no.npz", "does not exist"),
    "an empty folder": (_empty_folder, "photos"),
    "empty classes": (_empty_classes, "photos"),
    "an undecodable image": (_undecodable, "1.png"),
    "one class": (_one_class, "at least two"),
    "one class in arrays": (_one_class_of_arrays, "at least two"),
    "a negative label": (_negative_label, "outside 0..1"),
    "a label out of range": (_label_out_of_range, "9 (image 2)"),
    "a truncated npz": (_truncated_npz, "d.npz"),
    "objects in an npz": (_object_npz, "y_train"),
    "an enormous npz": (_huge_npz, "d.npz"),
}


@pytest.mark.parametrize(("make", "words"), DATA.values(), ids=DATA)
def test_broken_data_is_told(typed: Type, tmp_path: Path, make: Callable[[Path], str], words: str) -> None:
    data = make(tmp_path)
    (tmp_path / "r.yaml").write_text(f"data: {{{data}}}\nteacher: {{network: wrn}}\n{STEPS}")
    typed("run", "r.yaml").expect(2, words)
    assert not (tmp_path / "marker").exists()
    assert [*(tmp_path / ".edgekd" / "objects").iterdir()] == []


# --- teachers -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights of a small teacher of digits, and the store in which it was trained."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "r.yaml").write_text(f"teacher: {{network: resnet_cifar, args: {{depth: 8}}}}\n{STEPS}")
    done = edgekd("run", "r.yaml", "--until", "teacher", folder=folder)
    assert done.returncode == 0, done.stderr
    (weights,) = (folder / ".edgekd" / "objects").glob("*/model/weights.safetensors")
    shutil.copy(weights, folder / "weights.safetensors")
    return folder


@pytest.fixture
def beside(trained: Path, tmp_path: Path) -> Path:
    """A copy of that store in the test's folder: what is in it must stay."""
    shutil.copytree(trained / ".edgekd", tmp_path / ".edgekd", symlinks=True)
    shutil.copy(trained / "weights.safetensors", tmp_path)
    return tmp_path


def _truncated_safetensors(folder: Path) -> str:
    cut = (folder / "weights.safetensors").read_bytes()[:-100]
    (folder / "w.safetensors").write_bytes(cut)
    return "network: resnet_cifar, args: {depth: 8}, weights: w.safetensors"


def _lying_safetensors(folder: Path) -> str:
    (folder / "w.safetensors").write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    return "network: resnet_cifar, args: {depth: 8}, weights: w.safetensors"


def _hostile_pt(folder: Path) -> str:
    torch.save({"state_dict": Marker()}, folder / "w.pt")
    return "network: resnet_cifar, args: {depth: 8}, weights: w.pt"


def _bare_pickle(folder: Path) -> str:
    (folder / "w.pth").write_bytes(pickle.dumps(Marker()))
    return "network: resnet_cifar, args: {depth: 8}, weights: w.pth"


def _truncated_pt(folder: Path) -> str:
    torch.save(safetensors.torch.load_file(folder / "weights.safetensors"), folder / "w.pt")
    (folder / "w.pt").write_bytes((folder / "w.pt").read_bytes()[:5000])
    return "network: resnet_cifar, args: {depth: 8}, weights: w.pt"


def _other_network(folder: Path) -> str:
    return "network: resnet_cifar, args: {depth: 14}, weights: weights.safetensors"


def _other_classes(folder: Path) -> str:
    state = safetensors.torch.load_file(folder / "weights.safetensors")
    state = {k: v[:7].clone() if v.shape[:1] == (10,) else v for k, v in state.items()}
    safetensors.torch.save_file(state, folder / "w.safetensors")
    return "network: resnet_cifar, args: {depth: 8}, weights: w.safetensors"


def _not_a_number(folder: Path) -> str:
    state = safetensors.torch.load_file(folder / "weights.safetensors")
    name = next(name for name, value in state.items() if value.is_floating_point())
    state[name] = torch.full_like(state[name], float("nan"))
    safetensors.torch.save_file(state, folder / "w.safetensors")
    return "network: resnet_cifar, args: {depth: 8}, weights: w.safetensors"


def _truncated_onnx(folder: Path) -> str:
    graph = graphs.conv_net(folder / "t.onnx")
    graph.write_bytes(graph.read_bytes()[:-150])
    return "onnx: t.onnx"


def _onnx_with_data_outside(folder: Path) -> str:
    model = onnx.load(graphs.conv_net(folder / "t.onnx"))
    (folder / "sub").mkdir()
    (folder / "outside.bin").write_bytes(bytes(1 << 16))
    tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    onnx.external_data_helper.set_external_data(tensor, location="../outside.bin")
    tensor.ClearField("raw_data")
    (folder / "sub" / "t.onnx").write_bytes(model.SerializeToString())
    return "onnx: sub/t.onnx"


def _onnx_of_other_classes(folder: Path) -> str:
    graphs.conv_net(folder / "t.onnx")
    return "onnx: t.onnx"


TEACHERS = {
    "truncated safetensors": (_truncated_safetensors, "w.safetensors"),
    "safetensors that lie": (_lying_safetensors, "w.safetensors"),
    "a hostile checkpoint": (_hostile_pt, "not unpickled"),
    "a bare pickle": (_bare_pickle, "w.pth"),
    "a truncated checkpoint": (_truncated_pt, "w.pt"),
    "weights of another network": (_other_network, "weights.safetensors"),
    "weights of other classes": (_other_classes, "network [10]"),
    "weights that are NaN": (_not_a_number, "the teacher scores"),
    "truncated ONNX": (_truncated_onnx, "t.onnx"),
    "ONNX with data outside": (_onnx_with_data_outside, "outside its folder"),
    "ONNX of other classes": (_onnx_of_other_classes, "t.onnx"),
}


@pytest.mark.parametrize(("make", "words"), TEACHERS.values(), ids=TEACHERS)
def test_a_broken_teacher_is_told(typed: Type, beside: Path, make: Callable[[Path], str], words: str) -> None:
    (beside / "r.yaml").write_text(f"teacher: {{{make(beside)}}}\n{STEPS}")
    before = snapshot(beside / ".edgekd" / "objects"), snapshot(beside / ".edgekd" / "runs" / "r")
    typed("run", "r.yaml", "--until", "student").expect(2, words)
    assert not (beside / "marker").exists()
    after = snapshot(beside / ".edgekd" / "objects"), snapshot(beside / ".edgekd" / "runs" / "r")
    assert all(before[0][name] == after[0].get(name) for name in before[0])
    assert all(before[1][name] == after[1].get(name) for name in before[1])


def test_a_teacher_with_another_preprocessing_is_told_which_would_match(typed: Type, beside: Path) -> None:
    wrong = "preprocess: {mean: [255], std: [0.001], scale: 1}"
    network = "network: resnet_cifar, args: {depth: 8}, weights: weights.safetensors"
    (beside / "r.yaml").write_text(f"teacher: {{{network}, {wrong}}}\n{STEPS}")
    found = typed("run", "r.yaml", "--until", "student")
    found.expect(2, "where guessing gives 10.0%", "with the training data's mean and sd it scores 9")
    # The fix, as it is told, works.
    fix = next(line for line in found.text.splitlines() if "preprocess: {" in line)
    (beside / "r.yaml").write_text(
        f"teacher: {{{network}, preprocess: {fix.partition('preprocess: ')[2]}}}\n{STEPS}"
    )
    assert typed("run", "r.yaml", "--until", "student").code == 0


def test_a_teacher_with_its_classes_in_another_order_is_told_the_order(typed: Type, beside: Path) -> None:
    state = safetensors.torch.load_file(beside / "weights.safetensors")
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    head = {name: value[order].clone() for name, value in state.items() if value.shape[:1] == (10,)}
    safetensors.torch.save_file({**state, **head}, beside / "w.safetensors")
    (beside / "r.yaml").write_text(
        "teacher: {network: resnet_cifar, args: {depth: 8}, weights: w.safetensors}\n" + STEPS
    )
    told = ", ".join(map(str, order))
    typed("run", "r.yaml", "--until", "student").expect(2, "another class order", f"its order is: {told}")


# --- budgets ------------------------------------------------------------------------------------------------


def _table(folder: Path) -> None:
    """A latency table of four ResNets for digits. A budget of 1 us is below any time that a machine has."""
    from edgekd.core.preprocess import Preprocess
    from edgekd.search.features import describe_all
    from edgekd.search.latency_table import Latency, LatencyTable, Row, write_table
    from edgekd.search.spaces import load_space

    found = load_space(SPACE).candidates(
        num_classes=10, in_channels=1, preprocess=Preprocess.model_validate(PREPROCESS)
    )
    features = describe_all(found)
    rows = tuple(
        Row(
            candidate=candidate,
            features=features[candidate.id],
            latency={"local": Latency(measured_p50_ms=0.1 * (number + 1), measured_spread=0.01)},
            estimated_size_bytes=50_000 * (number + 1),
        )
        for number, candidate in enumerate(found)
    )
    write_table(folder / "table.json", LatencyTable(precision="fp32", targets=("local",), rows=rows))


SPACE: dict[str, Any] = {"network": "resnet_cifar", "depth": [8], "width": [0.25, 0.5], "resolution": [1.0]}
PREPROCESS: dict[str, Any] = {}


@pytest.mark.parametrize("limit", ["latency_p50: 1us", "size: 1KB"])
def test_an_impossible_budget_shows_the_nearest_feasible(typed: Type, beside: Path, limit: str) -> None:
    (spec,) = (beside / ".edgekd" / "objects").glob("*/model/spec.json")
    PREPROCESS.update(json.loads(spec.read_text())["preprocess"])
    _table(beside)
    (beside / "r.yaml").write_text(
        f"teacher: {{network: resnet_cifar, args: {{depth: 8}}}}\ngate: {{{limit}}}\n"
        f"steps: [{TRAINED}, {{select: {{latency: table.json, space: {json.dumps(SPACE)}}}}}, "
        "distill, export]\n"
    )
    typed("run", "r.yaml").expect(
        2, "none of 2 candidates fits", "resnet_cifar-depth8-width0.25-8x8", "admitted by", "at most"
    )


# --- bundles ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store of a small measured run, and its bundle."""
    folder = tmp_path_factory.mktemp("measured")
    run = make_run(Store(folder / ".edgekd"), folder)
    done = edgekd("measure", "small", folder=folder)
    assert done.returncode == 0, done.stderr
    make_bundle(run, folder / "bundle")
    return folder


@pytest.fixture
def bundle(measured: Path, tmp_path: Path) -> Path:
    shutil.copytree(measured / "bundle", tmp_path / "bundle")
    Image.fromarray(np.full((9, 9, 3), 200, np.uint8)).save(tmp_path / "one.png")
    return tmp_path / "bundle"


def _manifest(bundle: Path, **changes: Any) -> None:
    content = json.loads((bundle / BUNDLE).read_text())
    (bundle / BUNDLE).write_text(json.dumps({**content, **changes}))


def _renamed_graph(bundle: Path, name: str) -> None:
    files = json.loads((bundle / BUNDLE).read_text())["files"]
    _manifest(bundle, graph=name, files={**files, name: "0" * 64})


def _relisted(bundle: Path, name: str) -> None:
    """A digest that fits what the file now holds."""
    files = json.loads((bundle / BUNDLE).read_text())["files"]
    _manifest(bundle, files={**files, name: of_file(bundle / name)})


def _cut_graph(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes()[:-100])
    _relisted(bundle, "model.onnx")


def _link_out(bundle: Path) -> None:
    secret = bundle.parent / "secret"
    secret.write_text("not yours")
    (bundle / "card.md").unlink()
    (bundle / "card.md").symlink_to(secret)
    _relisted(bundle, "card.md")


BUNDLES = {
    "a changed file": (lambda b: (b / "card.md").write_text("better than ever"), "changed since"),
    "a missing file": (lambda b: (b / "labels.txt").unlink(), "missing: labels.txt"),
    "a file too many": (lambda b: (b / "setup.py").write_text("boo"), "not part of the bundle: setup.py"),
    "a name that leaves the folder": (lambda b: _renamed_graph(b, "../../etc/passwd"), "outside itself"),
    "an absolute name": (lambda b: _renamed_graph(b, "/etc/passwd"), "outside itself"),
    "a link that leaves the folder": (_link_out, "card.md"),
    "a cut manifest": (lambda b: (b / BUNDLE).write_text('{"recipe": "s'), "cannot be read"),
    "a deep manifest": (lambda b: (b / BUNDLE).write_text('{"a": ' + "[" * 50_000), "cannot be read"),
    "a newer manifest": (lambda b: _manifest(b, schema_version=99), "newer"),
    "an enormous input": (
        lambda b: _manifest(b, preprocess={"size": [200_000, 200_000], "mean": [0], "std": [1]}),
        "cannot be read",
    ),
}
RUNNING = {
    "an unknown backend": (lambda b: _manifest(b, backend="../../onnx"), "is not a backend"),
    "too few labels": (lambda b: _manifest(b, labels=["a"]), "labels"),
    "a cut graph": (_cut_graph, "not an ONNX file"),
    "another input": (lambda b: _manifest(b, preprocess={"size": [3, 3], "mean": [0], "std": [1]}), ""),
}


@pytest.mark.parametrize(("break_", "words"), BUNDLES.values(), ids=BUNDLES)
def test_a_hostile_bundle_is_refused(
    typed: Type, bundle: Path, break_: Callable[[Path], Any], words: str
) -> None:
    break_(bundle)
    typed("verify", "bundle").expect(2, words)
    typed("predict", "bundle", "one.png").expect(2, words)


@pytest.mark.parametrize(("break_", "words"), RUNNING.values(), ids=RUNNING)
def test_a_bundle_that_does_not_run_is_told(
    typed: Type, bundle: Path, break_: Callable[[Path], Any], words: str
) -> None:
    break_(bundle)
    typed("predict", "bundle", "one.png").expect(2, words)


@pytest.mark.parametrize("name", ["no.png", "bundle", "note.txt"])
def test_an_image_that_is_none_is_told(typed: Type, bundle: Path, name: str) -> None:
    (bundle.parent / "note.txt").write_text("no image")
    typed("predict", "bundle", "one.png", name).expect(2, name)


# --- runs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def run(measured: Path, tmp_path: Path) -> Path:
    """The folder of a measured run in a store of its own."""
    shutil.copytree(measured / ".edgekd", tmp_path / ".edgekd", symlinks=True)
    (folder,) = (tmp_path / ".edgekd" / "runs" / "small").iterdir()
    return folder


RUNS: dict[str, tuple[str, Callable[[str], str]]] = {
    "a cut record": ("record.json", lambda text: text[:100]),
    "a deep record": ("record.json", lambda text: '{"a": ' + "[" * 50_000),
    "a cut measurement": ("measurements.jsonl", lambda text: text[:-40]),
    "a NaN": ("measurements.jsonl", lambda text: text.replace('"value":', '"value":NaN,"was":', 1)),
    "no measurement": ("measurements.jsonl", lambda text: "what?\n"),
    "a bomb": ("recipe.lock.yaml", lambda text: laughs("gate")),
}


@pytest.mark.parametrize(("name", "change"), RUNS.values(), ids=RUNS)
def test_a_damaged_run_is_told(typed: Type, run: Path, name: str, change: Callable[[str], str]) -> None:
    (run / name).write_text(change((run / name).read_text()))
    before = (run / "verdict.json").read_bytes()
    typed("gate", "small").expect(2, name)
    assert (run / "verdict.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["gate", "small", "--junit", "blocked/junit.xml"], 5),
        (["gate", "small", "--summary", "folder"], 5),
        (["gate", "small", "--set", "gate.siez=1MB"], 2),
        (["gate", "small", "--set", "seed=1"], 2),
        (["report", "small", "--out", "blocked"], 2),
        (["report", "small", "--format", "pdf"], 2),
        (["bundle", "small", "--out", "blocked/bundle"], 5),
        (["bundle", "small", "--out", "folder"], 2),
        (["bundle", "small", "--out", "folder", "--force"], 2),
        (["store", "export", "blocked/a.tar"], 5),
        (["measure", "small", "--protocol", "eternal"], 2),
        (["measure", "small", "--target", "moon"], 2),
        (["measure", "small", "--evalset", "folder"], 2),
        (["measure", "small", "--soak", "later"], 2),
        (["measure", "small", "--layers", "--row", "pupil"], 2),
        (["measure", "small", "--row", "teacher"], 2),
        (["show", "nothing"], 2),
        (["init", "blocked/r.yaml"], 5),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_wrong_places_and_names_are_told(typed: Type, run: Path, arguments: list[str], code: int) -> None:
    root = run.parents[3]
    (root / "blocked").write_text("a file in the way")
    (root / "folder").mkdir()
    (root / "folder" / "mine.txt").write_text("mine")
    before = snapshot(run)
    typed(*arguments).expect(code)
    assert snapshot(run) == before
    assert (root / "folder" / "mine.txt").read_text() == "mine"


# --- archives -----------------------------------------------------------------------------------------------


def _member(name: str, **fields: Any) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(member, field, value)
    return member


def _archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, BytesIO(content))


def _forged(path: Path, names: str = "model.onnx") -> None:
    """An artifact whose digests fit, except that its manifest names a file elsewhere."""
    from edgekd.core.artifact import Manifest

    files = {names: of_file(path.parent / "secret")}
    manifest = Manifest.model_construct(schema_version=1, kind="graph", facts={}, files=files)
    _archive(
        path,
        (_member(f"objects/{manifest.digest}/manifest.json"), manifest.model_dump_json().encode()),
        (_member("keys/k.json"), json.dumps({"digest": manifest.digest}).encode()),
    )


ARCHIVES: dict[str, Callable[[Path], Any]] = {
    "not an archive": lambda p: p.write_text("no"),
    "an empty file": lambda p: p.write_text(""),
    "a name that leaves the store": lambda p: _archive(p, (_member("objects/../../x"), b"x")),
    "an absolute name": lambda p: _archive(p, (_member("/tmp/x"), b"x")),
    "another place": lambda p: _archive(p, (_member("runs/x"), b"x")),
    "a link": lambda p: _archive(p, (_member("objects/x", type=tarfile.SYMTYPE, linkname="/etc"), b"")),
    "a device": lambda p: _archive(p, (_member("objects/x", type=tarfile.CHRTYPE), b"")),
    "a key that is no JSON": lambda p: _archive(p, (_member("keys/k.json"), b"{")),
    "a deep key": lambda p: _archive(p, (_member("keys/k.json"), b"[" * 100_000)),
    "a key without an artifact": lambda p: _archive(p, (_member("keys/k.json"), b'{"digest": "00"}')),
    "a digest that is a path": lambda p: _archive(p, (_member("keys/k.json"), b'{"digest": "../keys"}')),
    "a manifest that names a file outside": lambda p: _forged(p, "../../../../../secret"),
    "a manifest with an absolute name": lambda p: _forged(p, str(p.parent / "secret")),
}


@pytest.mark.parametrize("make", ARCHIVES.values(), ids=ARCHIVES)
def test_a_hostile_archive_changes_nothing(typed: Type, run: Path, make: Callable[[Path], Any]) -> None:
    root = run.parents[3]
    (root / "secret").write_text("not yours")
    make(root / "a.tar")
    before = snapshot(root / ".edgekd")
    typed("store", "import", "a.tar").expect(2, "a.tar")
    assert snapshot(root / ".edgekd") == before


def test_an_archive_with_a_changed_file_is_refused(typed: Type, run: Path) -> None:
    root = run.parents[3]
    assert typed("store", "export", "a.tar").code == 0
    with tarfile.open(root / "a.tar") as tar:
        members = [(m, tar.extractfile(m)) for m in tar.getmembers()]
        content = [(m, f.read()) for m, f in members if f is not None]
    _archive(root / "b.tar", *((m, c + b"!" if m.name.endswith(".onnx") else c) for m, c in content))
    shutil.rmtree(root / ".edgekd")
    typed("store", "import", "b.tar").expect(2, "does not match")
    assert [*(root / ".edgekd" / "objects").iterdir()] == []


def test_an_archive_that_is_cut_short_changes_nothing(typed: Type, run: Path) -> None:
    root = run.parents[3]
    assert typed("store", "export", "a.tar").code == 0
    whole = (root / "a.tar").read_bytes()
    (root / "a.tar").write_bytes(whole[: len(whole) // 2])
    shutil.rmtree(root / ".edgekd")
    typed("store", "import", "a.tar").expect(2, "a.tar")
    assert [*(root / ".edgekd" / "objects").iterdir()] == []
