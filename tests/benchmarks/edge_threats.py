"""Threats of small devices on the digits recipe, before and after compression: `make bench-edge-threats`.

Every engine of one run is tried, and the table has each threat at its budget, with its control and paired changes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.report.threats_view import threat_views

ROOT = Path(__file__).parent.parent.parent
NAMES = ("differential", "patch", "universal", "calibration", "bit_errors", "membership")
# A patch of a tenth of 8x8 pixels is two and a half pixels wide: a quarter is four.
_BUDGET = ("steps=100", "samples=360", "patch_share=0.25", "memories=10", "shadows=8")
_REFUSED = 10


def run(options: argparse.Namespace) -> Path:
    """Run the recipe; what is stored is not made again. What its gate says is not asked."""
    settings = [f"threats.edge={json.dumps(list(NAMES))}", *(f"threats.edge_budget.{text}" for text in _BUDGET)]
    # What ships by its latency is another question, and a busy machine would answer it.
    settings += ["quantize.only_if_faster=false", "measure.duration_s=1", "measure.processes=1", *options.set]
    command = [sys.executable, "-m", "pipeline.cli", "run", str(options.recipe), "--out", str(options.out)]
    command += [part for text in settings for part in ("--set", text)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    if done.returncode not in (0, _REFUSED):
        sys.exit(done.returncode)
    return Path(options.out)


def table(threats: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown: one table a threat."""
    lines = []
    for threat in threat_views(threats, ""):
        lines += ["", f"{threat.title}. {threat.tried}. Budget: {threat.budget}.", ""]
        lines += ["| engine | setting | found | change |", "|---|---|---|---|"]
        for row in threat.rows:
            measure = f"{row.setting}: {row.measure}"
            lines.append(
                f"| {row.artifact} | {measure} | {row.found.figure} ({row.found.detail}) | {'; '.join(row.changes)} |"
            )
    return lines


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "digits.toml", help="recipe to run")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "edge-threats", help="folder of the run")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    report = json.loads((run(parser.parse_args()) / "evidence" / "threats.json").read_text())
    print("\n".join(table([threat for threat in report["threats"] if threat["name"] in NAMES])))


if __name__ == "__main__":
    main()
