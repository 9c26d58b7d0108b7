"""Gradients against queries on ResNet-20, FP32 and INT8: `make bench-masking DATA=... WEIGHTS=...`.

Queries alone make an engine that rounds look robust. The same seeds on its FP32 form, and gradients through its own
rounding (the twin), show whether it is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
RECIPE = Path(__file__).with_suffix(".toml")


def run(options: argparse.Namespace) -> Path:
    """Run the recipe; what is stored is not made again."""
    settings = [
        f"data.args.path={options.data}",
        f"model.weights={options.weights}",
        f"robustness.samples={options.samples}",
        f"robustness.query_samples={options.samples}",
        f"robustness.query_budget={options.queries}",
        *options.set,
    ]
    command = [sys.executable, "-m", "pipeline.cli", "run", str(RECIPE), "--out", str(options.out)]
    command += [part for text in settings for part in ("--set", text)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return Path(options.out)


def left(figure: Mapping[str, float]) -> str:
    """In percent, with the interval."""
    return f"{100 * figure['value']:6.2f}  ({100 * figure['low']:.2f} to {100 * figure['high']:.2f})"


def table(report: Mapping[str, Any]) -> list[str]:
    """One block an engine: clean, each set, queries, worst case, and the verdict."""
    plan = report["query_plan"]
    lines = [f"n = {report['samples']}, epsilon = {255 * report['epsilon']:.3g}/255, percent right (95 % interval)"]
    for engine in report["engines"]:
        lines.append(engine["name"])
        rows = [(row["name"], row) for row in engine["sets"] if row["kind"] in ("clean", "adversarial")]
        rows += [
            (f"{row['method']}, {plan['queries']} queries, n = {row['samples']}", row) for row in engine["queries"]
        ]
        rows.append(("worst case", engine["robust"]))
        lines += [f"  {name:40} {left(row)}" for name, row in rows]
        lines.append(f"  {engine['masking']['words']}")
    twin = report["twin"]
    alike = twin["twin_parity"]["agreement"] if twin["twin_parity"] else None
    told = f"kept, {100 * alike:.2f} % of answers as the engine's" if alike is not None else str(twin["reason"])
    return [*lines, f"twin of the INT8 graph: {told}"]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="archive or folder of CIFAR-10 images")
    parser.add_argument("--weights", required=True, help="weights of ResNet-20")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench-masking")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    report = json.loads((run(parser.parse_args()) / "report.json").read_text())
    print("\n".join(table(report)))


if __name__ == "__main__":
    main()
