"""Every format of every awkward run: complete, escaped, self-contained, and redacted when asked."""

from __future__ import annotations

import getpass
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from edgekd.core.errors import StoreError, UsageError
from edgekd.report.collect import facts_of
from edgekd.report.markdown import escape
from edgekd.report.render import FORMATS, render, summarize
from edgekd.report.terminal import panel
from tests.report.synthetic import CLASSES, DEVICES, LIMITS, ROWS, Synthetic, noisy

MakeRun = Callable[..., Path]
EVIL = "<script>alert(1)</script>\"'|`*_[x](javascript:1)\n# & \x1b[31m \u202e"
LATENCY: dict[str, Any] = {"quantity": "latency_p90_ms", "max": 30.0, "source": "gate.latency_p90.max = 30ms"}
AWKWARD: dict[str, dict[str, Any]] = {
    "complete": {},
    "two targets": {"targets": ("local", "pi5")},
    "noisy": {"change": noisy, "limits": (*LIMITS, LATENCY)},
    "failing": {"limits": ({"quantity": "size_bytes", "max": 1e6, "target": "any"},)},
    "no limits": {"limits": ()},
    "not judged": {"judged": False},
    "one class": {"classes": ("only",), "num_images": 40},
    "100 classes": {"classes": tuple(f"class {i}" for i in range(100)), "num_images": 900},
    "long names": {"classes": ("x" * 300, *CLASSES[1:]), "recipe": "y" * 200},
    "unicode": {"classes": ("猫", "🐕", "Ölkäfer", *CLASSES[3:]), "recipe": "été"},
    "hostile": {"classes": (EVIL, *CLASSES[1:]), "recipe": EVIL, "notes": (EVIL,)},
    "nothing but a record": {
        "events": False, "logits": False, "samples": False, "judged": False, "change": lambda one: None,
    },
    "only the teacher": {"rows": ROWS[:1]},
    "no final stage": {"rows": ROWS[:2]},
}  # fmt: skip


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def tags_of(html: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(html)
    return parser.tags


@pytest.mark.parametrize("name", AWKWARD)
def test_every_format_of_an_awkward_run_is_written_and_well_formed(make_run: MakeRun, name: str) -> None:
    written = render(make_run(**{"num_images": 300, **AWKWARD[name]}), formats=tuple(FORMATS))
    texts = {form: path.read_text(encoding="utf-8") for form, path in written.items()}
    assert json.loads(texts["json"])["schema_version"] == 1
    assert ElementTree.fromstring(texts["junit"]).tag == "testsuites"
    tags = tags_of(texts["html"])
    assert not {"script", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in tags}
    assert not [key for _, attributes in tags for key in attributes if key.startswith("on")]
    assert "alert(1)" not in texts["html"].replace("&lt;script&gt;alert(1)&lt;/script&gt;", "")
    outside_fences = re.sub(r"(?s)(`{3,})\n.*?\n\1", "", texts["md"] + texts["summary"])
    assert "<script" not in outside_fences
    assert "None" not in re.sub(r"<style>.*?</style>", "", texts["html"], flags=re.DOTALL).replace(
        "None:", ""
    )


def test_the_page_refers_to_nothing_outside_itself(run_folder: Path, tmp_path: Path) -> None:
    html = render(run_folder, tmp_path, ("html",))["html"].read_text()
    for _, attributes in tags_of(html):
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in html


def test_the_page_stays_small(run_folder: Path, tmp_path: Path) -> None:
    assert render(run_folder, tmp_path, ("html",))["html"].stat().st_size < 400_000


def test_every_heading_and_picture_has_words(run_folder: Path, tmp_path: Path) -> None:
    tags = tags_of(render(run_folder, tmp_path, ("html",))["html"].read_text())
    assert all(attributes.get("alt") for tag, attributes in tags if tag == "img")
    assert all(attributes.get("aria-label") for _, attributes in tags if attributes.get("role") == "img")
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_the_page_says_everything_in_order(run_folder: Path, tmp_path: Path) -> None:
    html = render(run_folder, tmp_path, ("html",))["html"].read_text()
    sections = re.findall(r'<h2 id="(\w+)"', html)
    assert sections == [
        "limits", "waterfall", "controls", "pareto", "latency", "training", "classes", "caveats",
        "reproduce", "provenance",
    ]  # fmt: skip
    assert "What would decide it:" in html
    assert "edgekd run pipelines/eurosat.yaml --set distill.epochs=20" in html


def test_the_same_facts_give_the_same_page(run_folder: Path, tmp_path: Path) -> None:
    pages = [render(run_folder, tmp_path / name, ("html",))["html"].read_bytes() for name in "ab"]
    assert pages[0] == pages[1]


def test_junit_says_failure_for_fail_and_error_for_inconclusive(make_run: MakeRun, tmp_path: Path) -> None:
    limits = (*LIMITS, {"quantity": "accuracy", "min": 0.999, "source": "gate.accuracy.min = 99.9 %"})
    text = render(make_run(limits=limits), tmp_path / "out", ("junit",))["junit"].read_text()
    suite = ElementTree.fromstring(text)[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("5", "1", "1")
    outcomes = [[part.tag for part in case] for case in suite]
    assert outcomes == [["system-out"], ["error"], ["system-out"], ["system-out"], ["failure"]]
    assert "to decide: about 4,210" in (suite[1][0].text or "")


def test_junit_without_limits_is_an_error(make_run: MakeRun, tmp_path: Path) -> None:
    text = render(make_run(limits=()), tmp_path / "out", ("junit",))["junit"].read_text()
    assert ElementTree.fromstring(text)[0].get("errors") == "1"


def test_json_carries_verdict_and_numbers(run_folder: Path, tmp_path: Path) -> None:
    document = json.loads(render(run_folder, tmp_path, ("json",))["json"].read_text())
    assert (document["outcome"], document["exit_code"]) == ("inconclusive", 3)
    assert document["targets"][0]["rows"][-1]["numbers"]["size"]["value"] == 1_290_000
    assert "png" not in document["classes"]["errors"][0]


def test_what_else_was_measured_has_a_table_of_its_own(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run()
    page, markdown = (render(folder, tmp_path)[name].read_text() for name in ("html", "md"))
    assert "Also measured on local" in page
    assert "| row | cold start | agreement with the host |" in markdown
    assert "energy of one answer" not in markdown, "nothing reads it here: its reason stands elsewhere"
    assert "99.80 %" in markdown


def test_where_nothing_else_was_measured_there_is_no_further_table(make_run: MakeRun, tmp_path: Path) -> None:
    further = ("cold_start_ms", "host_agreement")
    folder = make_run(change=lambda one: None if one.quantity in further else one)
    assert "Also measured" not in render(folder, tmp_path)["html"].read_text()


def test_markdown_tables_have_equal_rows(run_folder: Path, tmp_path: Path) -> None:
    text = render(run_folder, tmp_path, ("md",))["md"].read_text()
    for block in re.findall(r"(?:^\|.*\|\n?)+", text, flags=re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.strip().splitlines()}
        assert len(counts) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b", r"a\|b"),
        ("<b>", "&lt;b&gt;"),
        ("a\nb", "a b"),
        ("[x](y)", r"\[x\]\(y\)"),
        ("`c` *d* _e_", r"\`c\` \*d\* \_e\_"),
    ],
)
def test_markdown_shows_text_as_it_is(text: str, expected: str) -> None:
    assert escape(text) == expected


def test_a_command_with_backticks_stays_in_its_fence(make_run: MakeRun, tmp_path: Path) -> None:
    text = render(make_run(recipe="a```b"), tmp_path / "out", ("md",))["md"].read_text()
    assert "````\nedgekd run" in text


TELLING = (
    "build-42.example.org", "10.1.2.3", "/home/ada", "ada_l", "git@git.example.org", "tok123",
)  # fmt: skip


@pytest.mark.parametrize("form", FORMATS)
def test_redaction_leaves_nothing_that_tells_who_or_where(
    make_run: MakeRun, tmp_path: Path, form: str
) -> None:
    notes = (
        "read from /home/ada/photos/x.png on build-42.example.org by ada_l",
        "pulled ssh://ada@10.1.2.3/data and C:\\Users\\ada_l\\x",
        f"made on {socket.gethostname()} in {Path.home()}/work",
    )
    folder = make_run(targets=("local", "pi5"), notes=notes)
    record = json.loads((folder / "record.json").read_text())
    record["provenance"]["env"] = {"API_KEY": "tok123"}
    record["command"] += ["--store", "/home/ada/.edgekd"]
    (folder / "record.json").write_text(json.dumps(record))
    (folder / "recipe.lock.yaml").write_text("data: {root: /home/ada/photos}\n# tok123\n")
    text = render(folder, tmp_path / "out", (form,), redact=True)[form].read_text()
    for secret in (*TELLING, f"made on {socket.gethostname()} ", f"{Path.home()}/"):
        assert secret not in text
    if form in ("html", "json", "md"):
        assert "redacted" in text


def test_without_redaction_provenance_is_told(make_run: MakeRun, tmp_path: Path) -> None:
    text = render(make_run(), tmp_path / "out", ("html",))["html"].read_text()
    assert DEVICES["local"]["hostname"] in text


def test_redaction_keeps_numbers_names_and_digests(run_folder: Path, tmp_path: Path) -> None:
    plain = json.loads(render(run_folder, tmp_path / "a", ("json",))["json"].read_text())
    clean = json.loads(render(run_folder, tmp_path / "b", ("json",), redact=True)["json"].read_text())
    for part in ("outcome", "limits", "controls", "curves", "distributions", "classes", "steps"):
        assert clean[part] == plain[part]
    assert clean["targets"][0]["rows"] == plain["targets"][0]["rows"]


def test_a_user_named_like_a_row_does_not_break_the_report(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "stage")
    clean = json.loads(render(run_folder, tmp_path, ("json",), redact=True)["json"].read_text())
    assert clean["targets"][0]["rows"][0]["role"] == "stage"


def test_an_unknown_format_lists_the_formats(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`htm` is not a report format; close names: html"):
        render(run_folder, tmp_path, ("htm",))


def test_a_file_in_the_place_of_the_folder_is_an_error(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="reports go into a folder"):
        render(run_folder, tmp_path / "file", ("json",))


def test_a_report_that_cannot_be_written_is_a_store_error(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "report.json").mkdir()
    with pytest.raises(StoreError):
        render(run_folder, tmp_path, ("json",))


def test_reports_go_into_the_runs_own_folder_by_default(make_run: MakeRun) -> None:
    folder = make_run(num_images=50)
    assert set(render(folder)) == {"html", "json", "md", "junit"}
    assert (folder / "report" / "report.html").is_file()


def test_the_terminal_shows_verdict_decision_and_waterfall(run_folder: Path) -> None:
    text = summarize(run_folder)
    assert text.startswith("eurosat: INCONCLUSIVE. 1 of 4 limits cannot be decided; 3 hold.")
    assert "to decide: about 4,210 test images" in text
    assert "> trained in INT8 [int8]" in text


def test_the_terminal_is_not_steered_by_names(make_run: MakeRun) -> None:
    assert "\x1b" not in summarize(make_run(recipe=EVIL, num_images=50))


def test_the_rich_panel_shows_names_as_they_are(make_run: MakeRun) -> None:
    folder = make_run(recipe="[bold]x[/bold]", num_images=50)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    with console.file:
        console.print(panel(facts_of(folder)))
    assert "[bold]x[/bold]" in console.export_text()


def test_importing_the_report_loads_nothing_heavy() -> None:
    heavy = ("torch", "onnx", "onnxruntime", "plotly", "jinja2", "PIL", "rich", "sklearn")
    code = f"import sys, edgekd.report.render; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_with_no_rows_at_all_is_reported(tmp_path: Path) -> None:
    folder = Synthetic(tmp_path / "run", num_images=50).write()
    record = json.loads((folder / "record.json").read_text())
    record["rows"], record["final"] = [], ""
    (folder / "record.json").write_text(json.dumps(record))
    assert "Limits" in render(folder, formats=("html",))["html"].read_text()
