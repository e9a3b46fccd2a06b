"""The page in a real browser: no errors, no requests, and nothing wider than a phone or a desktop."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgekd.report.render import render
from tests.report.synthetic import CLASSES, Synthetic, noisy

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

PROBE = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe id="page" style="border:0;width:WIDTHpx;height:900px" srcdoc="PAGE"></iframe><pre id="found"></pre>
<script>
const frame = document.getElementById("page");
frame.onload = () => {
  const page = frame.contentDocument, root = page.documentElement;
  page.querySelectorAll("details").forEach(one => one.open = true);
  const wide = [...page.querySelectorAll("body *")].filter(one => {
    const box = one.getBoundingClientRect();
    return box.right > WIDTH + 1 && getComputedStyle(one).visibility !== "hidden" && !one.closest(".hide");
  });
  document.getElementById("found").textContent = JSON.stringify({
    width: root.scrollWidth, body: page.body.scrollWidth, height: root.scrollHeight,
    wide: wide.slice(0, 5).map(one => `${one.tagName}.${one.className}: ${one.textContent.slice(0, 60)}`),
    requests: frame.contentWindow.performance.getEntriesByType("resource").map(one => one.name.slice(0, 80)),
  });
};
</script>"""


def look(page: Path, width: int, folder: Path) -> tuple[dict[str, object], str]:
    """What the probe found in the page at a width, and what the browser said on its console."""
    wrapper = folder / f"probe-{width}.html"
    content = PROBE.replace("WIDTH", str(width)).replace("PAGE", html.escape(page.read_text()))
    wrapper.write_text(content)
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--hide-scrollbars", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr",
        "--virtual-time-budget=5000", "--window-size=1400,1000", "--dump-dom", wrapper.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    match = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert match is not None, done.stderr[-2000:]
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return json.loads(html.unescape(match[1]) or "{}"), console


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hardest page: noisy, two targets, many classes, long and hostile names."""
    long = ("a-very-long-class-name-without-any-break-" * 5, "W" * 120, "<b>bold</b>")
    classes = (*long, *(f"{name} {i}" for i in range(4) for name in CLASSES))
    folder = tmp_path_factory.mktemp("browser")
    recipe = "<script>alert(1)</script>" + "z" * 150
    targets = ("local", "pi5")
    run = Synthetic(folder / "run", targets=targets, classes=classes, change=noisy, recipe=recipe).write()
    return render(run, formats=("html",))["html"]


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_makes_no_request_and_no_error(page: Path, width: int, tmp_path: Path) -> None:
    found, console = look(page, width, tmp_path)
    assert found["wide"] == []
    assert found["width"] == width
    assert isinstance(found["height"], int)
    assert found["height"] > 2000
    assert found["requests"] == []
    assert console == ""
