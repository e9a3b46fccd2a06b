"""The section of an ablation: per term what it bought, in every format."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edgekd.core.measurement import Interval, Measurement, Validity
from edgekd.measure.statistics import paired_difference
from edgekd.report.collect import facts_of
from edgekd.report.facts import AblationFact
from edgekd.report.predictions import Predictions
from edgekd.report.reading import read
from edgekd.report.render import render, summarize
from edgekd.report.terminal import panel
from tests.report.synthetic import ROWS, Rates, Synthetic
from tests.report.test_browser import CHROMIUM, look

Left = list[dict[str, Any]]
TERMS: dict[str, dict[str, Any]] = {
    "task": {"term": "task", "method": None, "knowledge": "labels", "weight": [0.1, 0.1]},
    "kd": {"term": "fitnets-kd", "method": "fitnets", "knowledge": "response", "weight": [0.5, 0.125]},
    "sp": {"term": "sp", "method": "sp", "knowledge": "relation", "weight": [3000.0, 3000.0]},
}
NAMES = [f"without-{name}" for name in TERMS]
TEACHER, STUDENT, DISTILLED, *QUANTIZED = ROWS


def write(folder: Path, left: dict[str, Left] | None = None, **settings: Any) -> Path:
    """A run with a row for each term; `left`: row -> what its step says that it left out."""
    added = [
        Rates(name, name.replace("-", " "), "distill", True, "fp32", keep, 0.3, 1.48, 4_910_000)
        for name, keep in zip(NAMES, (0.97, 0.99, 0.999), strict=True)
    ]
    settings = {"rows": (TEACHER, STUDENT, *added, replace(DISTILLED, keep=0.999), *QUANTIZED)} | settings
    Synthetic(folder, **settings).write()
    record = json.loads((folder / "record.json").read_text())
    for step in record["steps"]:
        name = step["name"].removeprefix("distill-")
        if step["stage"] == "distill" and step["control"]:
            step["inputs"]["pace"] = "distill"
        if name in NAMES:
            term = TERMS[name.removeprefix("without-")]
            step["facts"]["left_out"] = [term] if left is None else left[name]
    (folder / "record.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("ablation") / "run")


def ablation(folder: Path) -> AblationFact:
    (found,) = facts_of(folder).ablations
    return found


def taken(value: float, low: float, high: float, **update: Any) -> Callable[[Measurement], Measurement]:
    """The drop from the distilled student to the one without `sp`, as it is to be."""

    def change(one: Measurement) -> Measurement:
        against = one.against.name if one.against else None
        if (one.quantity, one.subject.name, against) != ("accuracy_drop", "without-sp", "distilled"):
            return one
        interval = Interval(low=low, high=high, method="test")
        return one.model_copy(update={"value": value, "interval": interval, **update})

    return change


def test_a_term_s_gain_is_the_paired_difference_of_the_whole_and_what_lacks_it(folder: Path) -> None:
    right = Predictions(read(folder)).right
    whole = right("local", "distilled")
    assert whole is not None
    for name, line in zip([*NAMES, "student"], ablation(folder).lines, strict=True):
        without = right("local", name)
        assert without is not None
        assert line.gain is not None
        only_whole, only_without = int((whole & ~without).sum()), int((without & ~whole).sum())
        interval = paired_difference(only_whole, only_without, len(whole))
        assert line.gain.value == pytest.approx(whole.mean() - without.mean())
        assert (line.gain.low, line.gain.high) == pytest.approx((interval.low, interval.high))
        assert line.gain.n == 2000


def test_every_term_stands_with_its_method_kind_and_weight(folder: Path) -> None:
    found = ablation(folder)
    assert (found.step, found.whole, found.target) == ("distill", "distilled student", "local")
    assert [(one.term, one.method, one.knowledge, one.weight) for one in found.terms] == [
        ("task", None, "labels", "0.1"),
        ("fitnets-kd", "fitnets", "response", "0.5 to 0.125"),
        ("sp", "sp", "relation", "3000"),
    ]


def test_the_control_without_a_teacher_stands_at_the_bottom(folder: Path) -> None:
    bottom = ablation(folder).all_of_them
    assert bottom is not None
    assert bottom == ablation(folder).lines[-1]
    assert bottom.term is None
    (target,) = facts_of(folder).targets
    accuracy = {row.name: row.numbers["accuracy"].value or 0.0 for row in target.rows}
    assert bottom.gain is not None
    assert bottom.gain.value == pytest.approx(accuracy["distilled"] - accuracy["student"])


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.01, 0.03, "bought"), (-0.03, -0.01, "cost"), (-0.01, 0.03, "can't tell"), (0.0, 0.02, "can't tell")],
)
def test_the_word_is_decided_by_the_whole_interval(
    tmp_path: Path, low: float, high: float, word: str
) -> None:
    found = ablation(write(tmp_path / "run", change=taken((low + high) / 2, low, high)))
    assert found.terms[2].worth == word


def test_an_invalid_difference_decides_nothing(tmp_path: Path) -> None:
    invalid = Validity(valid=False, reasons=("another device",))
    found = ablation(write(tmp_path / "run", change=taken(0.02, 0.01, 0.03, validity=invalid)))
    assert found.terms[2].worth == "can't tell"


def test_what_was_not_measured_says_so(tmp_path: Path) -> None:
    def nothing(one: Measurement) -> Measurement | None:
        return None if "without-sp" in (one.subject.name, one.against and one.against.name) else one

    run = write(tmp_path / "run", change=nothing, logits=False)
    assert ablation(run).terms[2].gain is None
    assert ablation(run).terms[2].worth == "can't tell"
    assert "not measured" in render(run, formats=("md",))["md"].read_text()


def test_of_a_whole_that_itself_leaves_something_out_the_further_term_is_told(tmp_path: Path) -> None:
    left = {name: [TERMS["sp"], term] for name, term in zip(NAMES, TERMS.values(), strict=True)}
    assert [one.term for one in ablation(write(tmp_path / "run", left)).terms] == ["task", "fitnets-kd", "sp"]


def test_the_usual_questions_are_asked_once(folder: Path) -> None:
    questions = [one.question for one in facts_of(folder).controls]
    assert questions.count("Did the teacher buy anything?") == 1
    assert not any("without" in question for question in questions)


def test_a_run_without_an_ablation_has_no_such_section(run_folder: Path, tmp_path: Path) -> None:
    assert facts_of(run_folder).ablations == ()
    for path in render(run_folder, tmp_path, formats=("html", "md")).values():
        assert "kind of knowledge" not in path.read_text().lower()


@pytest.mark.parametrize("broken", ["none", [1], [{}], {"term": "kd"}], ids=str)
def test_a_record_from_elsewhere_with_odd_facts_is_still_reported(tmp_path: Path, broken: Any) -> None:
    run = write(tmp_path / "run", dict.fromkeys(NAMES, broken))
    assert render(run, formats=("html",))["html"].is_file()


# ---- Formats -------------------------------------------------------------------------------------


def test_every_format_tells_term_kind_difference_and_word(folder: Path, tmp_path: Path) -> None:
    written = render(folder, tmp_path, formats=("html", "md", "json"))
    gain = ablation(folder).terms[0].gain
    assert gain is not None
    assert gain.value is not None
    for text in (written["html"].read_text(), summarize(folder)):
        for words in ("task", "response (fitnets)", "relation", "bought", f"+{gain.value * 100:.2f} pt"):
            assert words in text, words
    markdown = written["md"].read_text().replace("\\", "")
    assert f"| `task` | labels | 0.1 | +{gain.value * 100:.2f} pt" in markdown
    (told,) = json.loads(written["json"].read_text())["ablations"]
    assert told["terms"][1]["knowledge"] == "response"
    assert told["terms"][0]["gain"]["value"] == pytest.approx(gain.value)
    assert told["all_of_them"]["worth"] == "bought"


def test_a_live_terminal_shows_it_too(folder: Path) -> None:
    shown = io.StringIO()
    Console(width=160, file=shown).print(panel(facts_of(folder)))
    assert "response (fitnets)" in shown.getvalue()


def test_redacting_leaves_the_words_of_ours(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder, run)
    record = json.loads((run / "record.json").read_text())
    record["provenance"]["user"] = "bought"
    (run / "record.json").write_text(json.dumps(record))
    (told,) = json.loads(render(run, formats=("json",), redact=True)["json"].read_text())["ablations"]
    assert told["terms"][0]["worth"] == "bought"


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_section_fits_a_phone_and_a_desktop(tmp_path: Path, width: int) -> None:
    long = {**TERMS["sp"], "term": "a-term-with-a-very-long-name" * 3, "method": "m" * 40}
    run = write(tmp_path / "run", {name: [long] for name in NAMES}, num_images=300)
    found, console = look(render(run, formats=("html",))["html"], width, tmp_path)
    assert found["wide"] == []
    assert found["requests"] == []
    assert console == ""
