"""The report page in a real Chromium: nothing to complain about, every plot drawn, no scrolling across."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.page import render_page
from tests.pipeline.test_report_page import budget, example_report

# In front of the page's own policy, which would not let any script run.
_PROBE = """<head><script>
const faults = [];
addEventListener("error", event => faults.push(event.message || "a part did not load"), true);
addEventListener("securitypolicyviolation", event => faults.push(event.violatedDirective));
addEventListener("load", () => {
  const sides = [...document.querySelectorAll("svg.plot")].flatMap(plot => {
    plot.closest("details")?.setAttribute("open", "");
    const box = plot.getBoundingClientRect();
    return [box.width, box.height];
  });
  const across = document.scrollingElement.scrollWidth;
  parent.postMessage(JSON.stringify({sides, faults, inner: innerWidth, across}), "*");
});
</script>"""
# A window of Chromium is never as narrow as a phone; a frame is.
_FRAME = """<!doctype html><html><body><script>
addEventListener("message", event => document.documentElement.setAttribute("data-seen", btoa(event.data)));
</script><iframe src="report.html" style="width:{width}px;height:900px;border:0"></iframe></body></html>"""


def _chromium(page: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("chromium")
    if program is None:
        if os.environ.get("ESPALIER_REQUIRE_SYSTEM") == "1":
            pytest.fail("chromium is not on PATH, and ESPALIER_REQUIRE_SYSTEM=1 asks for it")
        pytest.skip("chromium is not on PATH")
    quiet = "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
    command = [program, "--headless", "--no-sandbox", *quiet.split(), "--disable-sync", f"--user-data-dir={profile}"]
    command += [*options, "--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def _seen(page: str, width: int, folder: Path) -> dict[str, Any]:
    """What a script inside the page sees in a frame of `width` px."""
    (folder / "report.html").write_text(page.replace("<head>", _PROBE, 1), encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(_FRAME.format(width=width))
    done = _chromium(frame, folder / "profile")
    found = re.search(r'data-seen="([^"]+)"', done.stdout)
    assert found, done.stderr
    seen: dict[str, Any] = json.loads(base64.b64decode(found[1]))
    return seen


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_every_plot_is_drawn_and_nothing_scrolls_across(tmp_path: Path, width: int) -> None:
    report = example_report(layers=40)
    report["layers"][0]["name"] = "a.very.long.name." * 20
    report["images"][0]["label"] = "x" * 300
    text = "robust accuracy lost against dense FP32"
    report["verdict"]["budgets"] += [
        budget("max_robust_accuracy_drop", text, 6.0, "points", -0.278, -1.519, 2.072),
        budget("max_size_bytes", "size of the engine", 200_000_000, "bytes", 2e8, 2e8, 2e8),
    ]
    seen = _seen(render_page(report), width, tmp_path)
    assert seen["faults"] == []
    assert len(seen["sides"]) == 2 * 8
    assert min(seen["sides"]) > 100
    assert seen["inner"] == width
    assert seen["across"] <= width


def test_the_console_stays_empty(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(render_page(example_report()), encoding="utf-8")
    done = _chromium(file, tmp_path / "profile", "--enable-logging=stderr")
    assert "PASSED" in done.stdout
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
