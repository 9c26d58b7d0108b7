"""Check once what needs an NVIDIA GPU.

    python -m tests.benchmarks.gpu [--out FOLDER]

Prints a line a part. On a machine with a GPU it writes `docs/gpu/DATE-GPU.json` and makes `docs/gpu.md` of all such
files. Exit code: 0 when nothing that is there fails, 1 when something does, 77 without a GPU.
"""

from __future__ import annotations

import argparse
import platform
import re
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from devices.detect import detect_host
from devices.files import write_atomic, write_json
from tests.benchmarks.gpu.checks import PARTS
from tests.benchmarks.gpu.page import PAGE, RESULTS, page
from tests.benchmarks.gpu.parts import FAILED, PartResult, run_apart, run_here, tell

EXIT_FAILED, EXIT_NO_GPU = 1, 77


def summary(results: Sequence[PartResult], gpus: Sequence[str], now: datetime) -> dict[str, Any]:
    """One run, as it is kept: nothing in it says whose machine it was."""
    return {
        "date": now.strftime("%Y-%m-%d"),
        "gpus": list(gpus),
        "espalier": version("espalier"),
        "python": platform.python_version(),
        "parts": [result.as_dict() for result in results],
    }


def exit_code(results: Sequence[PartResult], gpus: Sequence[str]) -> int:
    """A failure counts before the missing GPU."""
    if any(result.state == FAILED for result in results):
        return EXIT_FAILED
    return 0 if gpus else EXIT_NO_GPU


def main() -> int:
    """Run all parts, or one of them for the process that waits for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON files (docs/gpu)")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        tell(run_here(asked.part, PARTS[asked.part]))
        return 0
    gpus = detect_host().gpus
    results = []
    for name in PARTS:
        results.append(run_apart(name))
        print(f"{name:22} {results[-1].state:8} {results[-1].reason}", flush=True)
    if gpus:
        now = datetime.now(timezone.utc)
        device = re.sub(r"[^a-z0-9]+", "-", gpus[0].lower()).strip("-")
        path = asked.out / f"{now:%Y-%m-%d}-{device}.json"
        write_json(path, summary(results, gpus, now))
        print(f"written: {path.name}")
        if asked.out == RESULTS:
            write_atomic(PAGE, page().encode())
    else:
        print("No NVIDIA GPU here: nothing is written.")
    return exit_code(results, gpus)


if __name__ == "__main__":
    sys.exit(main())
