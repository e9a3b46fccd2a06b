"""`edgekd validate` tells what a recipe's methods need and it does not give, and how to give it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from edgekd.cli.main import exit_code_of
from edgekd.core.registry import Entry
from edgekd.core.shipped import shipped_models
from edgekd.measure import agent  # noqa: F401 - here, because importing it limits NumPy's threads
from edgekd.networks.names import NETWORKS
from edgekd.networks.tap import Tap, Taps, head
from edgekd.quant.prepare import quantized_copy
from edgekd.quant.settings import QuantSettings

Typed = Callable[..., tuple[int, str]]
SHIPPED = next(iter(shipped_models()))
KNOWN = f"data: {{source: digits}}\nteacher: {{model: {SHIPPED}}}"
"""A teacher that needs no training."""
SMALL = "{network: resnet_cifar, args: {depth: 8, width: 0.25}}"
TEACHER = "teacher: {network: resnet_cifar, args: {depth: 8, width: 0.25}, epochs: 1, accept_poor: true}"


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """Writes a recipe, types a command in its folder; gives the exit code and what was told, on one line."""
    monkeypatch.chdir(tmp_path)

    def type_(recipe: str, *command: str) -> tuple[int, str]:
        Path("r.yaml").write_text(recipe)
        capsys.readouterr()
        code = exit_code_of([*(command or ("validate",)), "r.yaml"])
        return code, " ".join(capsys.readouterr().err.split())

    return type_


def recipe(
    distill: str,
    *,
    teachers: str = "[teacher]",
    student: str = f"student: {SMALL}",
    quantize: str = "",
    top: str = f"data: {{source: digits}}\n{TEACHER}",
) -> str:
    more = f"\n  - quantize: {{{quantize}}}" if quantize else ""
    steps = [*teachers.strip("[]").split("; "), student, f"distill: {{{distill}}}{more}", "export"]
    return f"{top}\nsteps:\n  - " + "\n  - ".join(step for step in steps if step) + "\n"


def knowing(labels: str, teacher: str = "network: resnet_cifar, args: {depth: 8, width: 0.25}") -> str:
    """The top of a recipe whose teacher knows these classes."""
    return f"data: {{source: digits}}\nteacher: {{{teacher}, labels: {labels}}}"


SIX = knowing("[0, 1, 2, 3, 4, 5]")
TWO = "teacher; teacher: {name: second, network: resnet_cifar, args: {depth: 8}}"
REFUSED = {
    "no such tap of the student": (
        recipe("method: {name: at, taps: {stage9: stage1}}"),
        ("method `at`", "the student has no tap `stage9`", "choices: embedding", "name one of its taps"),
    ),
    "no such tap of the teacher": (
        recipe("method: {name: fitnets, taps: {stage1: stage7}}"),
        ("method `fitnets`", "the teacher has no tap `stage7`"),
    ),
    "no such tap of a searched student's teacher": (
        recipe("method: {name: fitnets, taps: {stage1: stage7}}", student="select: {}"),
        ("method `fitnets`", "the teacher has no tap `stage7`"),
    ),
    "a teacher without taps": (
        recipe("method: at", top="data: {source: digits}\nteacher: {onnx: there.onnx}"),
        ("method `at`", "one of them has none", "use a response method"),
    ),
    "one teacher where several are needed": (
        recipe("method: avg-teachers"),
        ("method `avg-teachers`", "needs two teachers or more and there is one", "or use `kd`"),
    ),
    "one teacher where several are needed, for a searched student": (
        recipe("method: avg-teachers", student="select: {}"),
        ("step `distill`: method `avg-teachers`", "needs two teachers or more"),
    ),
    "several teachers where one is": (
        recipe("method: at, teachers: [teacher, second]", teachers=TWO),
        ("method `at`", "takes one teacher and there are 2", "name one in the step's `teachers`"),
    ),
    "no teacher where one is needed": (
        recipe("method: dkd", teachers="[]", top="data: {source: digits}"),
        ("method `dkd`", "needs a teacher and there is none", "give the step an input `teachers`"),
    ),
    "a whole scheme beside others": (
        recipe("method: [kd, born-again]"),
        ("method `born-again` is a whole training scheme", "use `method: born-again` alone"),
    ),
    "a batch that is too small to compare samples": (
        recipe("method: [kd, rkd-a], batch_size: 2"),
        ("term `rkd-a` compares the samples", "needs 3 and gets 2", "`batch_size: 3` or more"),
    ),
    "a batch that the processes cannot share": (
        recipe("batch_size: 33, processes: 2"),
        ("batch of 33 cannot be shared evenly by 2 processes", "`batch_size` divisible by 2"),
    ),
    "a training time on several processes": (
        recipe("time: 5m, processes: 2"),
        ("`time` needs one process", "give `epochs` with `processes`"),
    ),
    "no unlabeled images": (
        recipe("method: kd", quantize="method: noisy-student"),
        ("step `quantize`", "learns from images without labels", "data: {unlabeled: folder/}"),
    ),
    "a shipped teacher of other classes": (
        recipe("method: kd", top=KNOWN.replace("source: digits", "source: fashion_mnist, root: nowhere")),
        ("step `teacher`", "other classes than the data's", "step `distill`: term `kd` compares the logits"),
    ),
    "a teacher of some of the classes, whose logits are compared": (
        recipe("method: kd", top=SIX),
        ("1 problem", "step `distill`: term `kd` compares the logits", "(10 and 6 classes)", "(`lwf` takes"),
    ),
    "a teacher of some of the classes, in the search": (
        recipe("method: lwf", top=SIX, student="select: {}"),
        ("1 problem", "step `select`: term `kd` compares the logits", "(10 and 6 classes)"),
    ),
    "a teacher of some of the classes, in INT8": (
        recipe("method: lwf", top=SIX, quantize="epochs: 1"),
        ("1 problem", "step `quantize`: term `kd` compares the logits", "(10 and 6 classes)"),
    ),
    "one teacher of some of the classes among several": (
        recipe(
            "method: avg-teachers, teachers: [teacher, second]",
            teachers="teacher; teacher: {name: second, network: resnet_cifar, labels: [0, 1]}",
        ),
        ("logits of `student` and `teacher2`, whose classes differ (10 and 2 classes)",),
    ),
    "a class that the data lack": (
        recipe("method: at", top=knowing("[0, 1, ten]")),
        ("1 problem", "`labels`: class `ten` is not among the 10 of the data", "choices: 0, 1, 2", "alike"),
    ),
    "a class that the data lack, of a graph": (
        recipe("method: none", top=knowing("[0, ten]", "onnx: there.onnx")),
        ("`labels`: class `ten` is not among the 10 of the data",),
    ),
    "a class named twice": (
        recipe("method: lwf", top=knowing("[0, 1, 0]")),
        ("`labels` names the class `0` twice",),
    ),
    "one class": (recipe("method: lwf", top=knowing("[0]")), ("labels", "at least 2 items")),
    "classes of a shipped teacher": (
        recipe("method: lwf", top=knowing("[0, 1]", f"model: {SHIPPED}")),
        ("a shipped model has its own",),
    ),
    "a network that cannot be built": (
        recipe("method: {name: takd, assistants: [{network: resnet_cifra}]}"),
        ("step `distill`", "cannot be built", "resnet_cifra", "close names: resnet_cifar"),
    ),
}


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED)
def test_an_unmet_need_is_named_with_the_way_to_meet_it(
    typed: Typed, text: str, words: tuple[str, ...]
) -> None:
    Path("there.onnx").write_bytes(b"looked at by a run only")
    code, said = typed(text)
    assert code == 2
    for word in words:
        assert word in said, said
    assert not Path(".edgekd").exists()


def test_the_needs_of_all_methods_and_steps_are_told_at_once(typed: Typed) -> None:
    methods = "[born-again, avg-teachers, {name: at, taps: {stage9: stage1}}]"
    code, said = typed(recipe(f"method: {methods}", quantize="method: [kd, pkt], batch_size: 2"))
    assert code == 2
    assert "4 problems in the recipe" in said
    for word in ("born-again", "avg-teachers", "stage9", "step `quantize`: term `pkt`"):
        assert word in said


def test_a_network_that_cannot_be_built_is_told_once(typed: Typed) -> None:
    student = "student: {network: resnet_cifar, args: {dept: 8}}"
    code, said = typed(recipe("method: [kd, at]", student=student, quantize="method: [kd, sp]"))
    assert code == 2
    assert "1 problem in the recipe - step `student`: network `resnet_cifar`: `dept`" in said


PASSES = {
    "several teachers": recipe("method: avg-teachers, teachers: [teacher, second]", teachers=TWO),
    "a searched student, whatever its taps": recipe(
        "method: {name: at, taps: {s9: stage1}}", student="select: {}"
    ),
    "quantization": recipe("method: [kd, at]", quantize="method: [kd, {name: at, taps: {stage2: stage2}}]"),
    "calibration alone": recipe("method: kd", quantize="epochs: 0, method: noisy-student"),
    "the smallest batch": recipe("method: [sp, rkd-d], batch_size: 2"),
    "a teacher of some of the classes": recipe("method: [lwf, at, sp]", top=SIX, quantize="method: lwf"),
    "a teacher of some of the classes, in the search": recipe(
        "method: lwf", top=SIX, student="select: {method: lwf}", quantize="epochs: 0"
    ),
    "a teacher of the classes in another order": recipe(
        "method: lwf", top=knowing("[9, 8, 7, 6, 5, 4, 3, 2, 1, 0]", "python: 'net.py:net', weights: w.pt")
    ).replace("data:", "trust_code: true\ndata:"),
    "processes": recipe("method: rkd-a, batch_size: 4, processes: 2"),
}


@pytest.mark.parametrize("text", PASSES.values(), ids=PASSES)
def test_needs_that_are_met_pass(typed: Typed, text: str) -> None:
    for file in ("net.py", "w.pt"):
        Path(file).touch()
    assert typed(text) == (0, "")


def test_a_network_from_a_file_is_not_run_and_nothing_is_claimed_of_its_taps(typed: Typed) -> None:
    Path("net.py").write_text("open('marker', 'w')\n")
    text = recipe("method: {name: at, taps: {mine: stage1}}", student="student: {network: 'net.py:net'}")
    assert typed(f"trust_code: true\n{text}") == (0, "")
    assert not Path("marker").exists()


def test_what_only_the_data_tell_is_told_by_plan_and_run(typed: Typed) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez("d.npz", x_train=images, y_train=np.arange(60) % 3)
    text = recipe("method: kd", top=f"data: {{source: arrays, file: d.npz}}\nteacher: {{model: {SHIPPED}}}")
    assert typed(text) == (0, "")
    for command in ("plan", "run"):
        code, said = typed(text, command)
        assert code == 2
        assert "knows 10 other classes than the data's 3" in said
        assert "10 and 3 classes" in said or "3 and 10 classes" in said


@pytest.mark.parametrize(("method", "code"), [("lwf", 0), ("kd", 2)])
def test_a_shipped_teacher_of_some_of_the_classes_needs_no_word(typed: Typed, method: str, code: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (120, 8, 8), dtype=np.uint8)
    labels = np.arange(120) % 12
    np.savez("d.npz", x_train=images, y_train=labels, classes=np.array([str(11 - k) for k in range(12)]))
    text = recipe(
        f"method: {method}", top=f"data: {{source: arrays, file: d.npz}}\nteacher: {{model: {SHIPPED}}}"
    )
    found, said = typed(text, "plan")
    assert found == code
    assert ("(12 and 10 classes)" in said) == (code == 2)


# ---- Folding -------------------------------------------------------------------------------------


class Unnormalized(nn.Module):
    """Its tap `raw` is what batch norm has not seen yet."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(in_channels, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu, self.pool = nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        self.flatten, self.linear = nn.Flatten(), nn.Linear(4, num_classes)
        self.taps: Taps = {"raw": Tap("conv"), "stage1": Tap("relu"), **head("linear")}

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.flatten(self.pool(self.relu(self.norm(self.conv(x))))))
        return logits


def unnormalized_network(num_classes: int, in_channels: int) -> nn.Module:
    return Unnormalized(num_classes, in_channels)


@pytest.fixture
def unnormalized(monkeypatch: pytest.MonkeyPatch) -> str:
    """The step of a student that is such a network."""
    entry = Entry("unnormalized", f"{__name__}:unnormalized_network", "for this test")
    monkeypatch.setattr(NETWORKS, "_entries", {**NETWORKS._all(), entry.name: entry})
    return "student: {network: unnormalized}"


def test_a_tap_that_folding_takes_away_is_told_before_the_run(typed: Typed, unnormalized: str) -> None:
    lost = "method: {name: at, taps: {raw: stage1}}"
    code, said = typed(recipe(lost, student=unnormalized, quantize=lost))
    assert code == 2
    assert "1 problem in the recipe" in said, "before quantization the tap is there"
    assert "step `quantize`: term `at` reads the student's tap `raw`, which is lost when batch norm" in said
    assert "name one that is left in the method's parameters (embedding, logits, stage1)" in said


def test_a_tap_that_folding_takes_away_does_no_harm_where_nobody_reads_it(
    typed: Typed, unnormalized: str
) -> None:
    kept = "method: {name: at, taps: {stage1: stage1}}"
    assert typed(recipe("method: kd", student=unnormalized, quantize=kept)) == (0, "")


def test_a_quantized_network_knows_the_taps_that_it_lost() -> None:
    quantized = quantized_copy(Unnormalized(3, 1), QuantSettings())
    assert quantized.lost_taps == ("raw",)
    assert "stage1" in quantized.taps and "raw" not in quantized.taps


# ---- In the run ----------------------------------------------------------------------------------

TWICE = """
from torch import nn
from edgekd.networks.tap import Tap

class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.first, self.second = nn.Conv2d(in_channels, 4, 3), nn.Conv2d(4, 4, 3)
        self.relu, self.linear = nn.ReLU(), nn.Linear(4, num_classes)
        self.taps = {"stage1": Tap("relu"), "logits": Tap("linear")}

    def forward(self, x):
        return self.linear(self.relu(self.second(self.relu(self.first(x)))).mean((2, 3)))

def net(num_classes, in_channels):
    return Net(num_classes, in_channels)
"""


def test_a_step_checks_its_real_networks_before_it_trains(typed: Typed) -> None:
    Path("net.py").write_text(TWICE)
    text = recipe(
        "method: {name: at, taps: {stage1: stage1}}", student="student: {network: 'net.py:net'}", top=KNOWN
    )
    code, said = typed(f"trust_code: true\n{text}", "run", "--until", "distill", "--threads", "1")
    assert code == 2
    assert "the module at tap `stage1` runs more than once" in said
    assert "give every use a module of its own" in said
    assert not list(Path(".edgekd").glob("**/training/*")), "nothing was trained"


def test_a_diverging_run_names_the_term_its_turn_and_the_step(typed: Typed) -> None:
    text = recipe("method: [kd, at], learning_rate: 1.0e+6, epochs: 3", top=KNOWN)
    code, said = typed(text, "run", "--until", "distill", "--threads", "1")
    assert code == 7
    assert any(f"term `{name}` became" in said for name in ("task", "kd", "at")), said
    assert "phase `main`, turn 1" in said and "at step" in said and "lower the learning rate" in said
