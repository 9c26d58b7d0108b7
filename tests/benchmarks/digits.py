"""Five folds of the digits recipe, pooled and paired: `make bench-digits`.

Every one of the 1,797 images is a test image once. Differences are between the dense FP32 engine and the shipped one on
the same images; speed-ups are the geometric mean over folds of each fold's interleaved ratio.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from devices.statistics import Interval, paired_difference, wilson

ROOT = Path(__file__).parent.parent.parent
FOLDS = 5
ATTACKS = ("fgsm", "pgd", "apgd", "fab", "square")


def run_fold(fold: int, base: Path, arguments: list[str]) -> Path:
    """Run one fold; returns its folder. The gate's verdict on a single fold does not stop the table."""
    out = base / f"fold-{fold}"
    command = [sys.executable, "-m", "pipeline.cli", "run", str(ROOT / "recipes" / "digits.toml")]
    command += ["--out", str(out), "--set", f"data.args.fold={fold}", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    if done.returncode not in (0, 10):
        sys.exit(done.returncode)
    return out


def worst_case(outcomes: dict[str, str]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Right on the clean image and under every attack."""
    counted = [text for name, text in outcomes.items() if name == "clean" or name.startswith(ATTACKS)]
    return np.array([all(letters) for letters in zip(*([c == "1" for c in text] for text in counted), strict=True)])


def clean(outcomes: dict[str, str]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Right on the clean image."""
    return np.array([letter == "1" for letter in outcomes["clean"]])


def percent(interval: Interval) -> str:
    """In percent or points, with the interval."""
    return f"{100 * interval.value:6.2f}  ({100 * interval.low:.2f} to {100 * interval.high:.2f})"


def main() -> None:
    """Run what is not stored and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench-digits")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    overrides = [part for text in options.set for part in ("--set", text)]
    folders = [run_fold(fold, options.out, overrides) for fold in range(FOLDS)]
    reports = [json.loads((folder / "report.json").read_text()) for folder in folders]
    replays = [
        json.loads((folder / "evidence" / "results" / "replay.json").read_text())["correct"] for folder in folders
    ]
    shipped = reports[0]["shipped"]
    engines = [engine["name"] for engine in reports[0]["engines"]]
    pooled = {
        kind: {name: np.concatenate([judge(replay[name]) for replay in replays]) for name in engines}
        for kind, judge in (("clean", clean), ("robust", worst_case))
    }
    count = pooled["clean"][shipped].size
    print(f"digits, {FOLDS} folds pooled, n = {count}, epsilon = {reports[0]['epsilon']}, shipped: {shipped}")
    for name in engines:
        figures = [percent(wilson(int(right[name].sum()), count)) for right in pooled.values()]
        p50 = [
            engine["latency"]["p50_ms"]["value"] for r in reports for engine in r["engines"] if engine["name"] == name
        ]
        macs = [engine["macs"] for r in reports for engine in r["engines"] if engine["name"] == name]
        print(
            f"{name:16} clean {figures[0]}  robust {figures[1]}  p50 {np.median(p50):.4f} ms  MACs {np.mean(macs):,.0f}"
        )
    dense = [engine["macs"] for r in reports for engine in r["engines"] if engine["name"] == "dense-fp32"]
    small = [engine["macs"] for r in reports for engine in r["engines"] if engine["name"] == shipped]
    print(f"MACs that remain: {100 * max(b / a for a, b in zip(dense, small, strict=True)):.1f} % at most")
    for kind, right in pooled.items():
        difference = paired_difference(right["dense-fp32"], right[shipped])
        print(f"{kind} accuracy against dense FP32, points: {percent(difference)}")
    for other in ("dense-fp32", "dense-int8"):
        found = [s for r in reports for s in r["speedups"] if (s["engine"], s["than"]) == (shipped, other)]
        mean = float(np.exp(np.mean([np.log(s["value"]) for s in found])))
        low = min(s["low"] for s in found)
        print(f"times as fast as {other}: {mean:.2f} (lowest interval's end of the folds: {low:.2f})")
    same = [r["same_engine_twice"] for r in reports]
    twice = ", ".join("{value:.3f} ({low:.3f} to {high:.3f})".format(**ratio) for ratio in same)
    print(f"same engine twice: {twice}")


if __name__ == "__main__":
    main()
