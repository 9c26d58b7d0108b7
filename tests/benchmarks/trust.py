"""What trust and the pages cost: sign and verify a bundle of 100 MB; gate, report and index runs.

`python -m tests.benchmarks.trust`. Each figure is the wall time of the whole command as a user calls it, from the start
of its process to its end; the files are in the page cache, as they are right after a run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from devices.bundle import write_manifest
from tests import drill

_BLOCK_BYTES = 1 << 20


def bundle_of(folder: Path, size_bytes: int) -> Path:
    """A deploy bundle whose engine is so many random bytes."""
    (folder / "engine").mkdir(parents=True)
    with open(folder / "engine" / "engine.onnx", "wb") as stream:
        for start in range(0, size_bytes, _BLOCK_BYTES):
            stream.write(os.urandom(min(_BLOCK_BYTES, size_bytes - start)))
    (folder / "labels.json").write_text("[]")
    write_manifest(folder, "deploy", {"name": "large", "device": "cpu"})
    return folder


def finished_run(scratch: Path) -> Path:
    """Folder of a run of the drill recipe."""
    out = scratch / "drill"
    subprocess.run(drill.command(scratch / "store", out), env=drill.environment(), check=True, cwd=scratch)
    return out


def seconds_of(words: Sequence[str], folder: Path) -> float:
    """Wall time of an `espalier` command. Raises `CalledProcessError` when it fails."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *words],
        cwd=folder,
        env=drill.environment() | {"PYTHONPATH": str(Path(__file__).parents[2])},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


def commands(scratch: Path, run: Path, size_mb: int, runs: int) -> dict[str, list[str]]:
    """Each command by what the table calls it, with all that it reads made."""
    bundle = bundle_of(scratch / "large", size_mb * 1_000_000)
    for index in range(runs):
        shutil.copytree(run, scratch / "runs" / f"run{index:03}")
    shutil.copytree(run, scratch / "one")
    seconds_of(["keygen", "key"], scratch)
    return {
        f"sign {size_mb} MB": ["sign", str(bundle), "--key", "key.key"],
        f"verify {size_mb} MB": ["verify", str(bundle), "--trust", "key.trust.toml"],
        "gate": ["gate", "one"],
        "report": ["report", "one"],
        f"index of {runs} runs": ["index", "runs"],
    }


def main() -> None:
    """Time each and print a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="times that each command is called (5)")
    parser.add_argument("--size-mb", type=int, default=100, help="of the bundle (100)")
    parser.add_argument("--runs", type=int, default=200, help="that the index lists: copies of one (200)")
    parser.add_argument("--run", type=Path, help="folder of a finished run (the drill recipe's, made first)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="espalier-trust-") as place:
        scratch = Path(place)
        run = options.run.resolve() if options.run else finished_run(scratch)
        for name, words in commands(scratch, run, options.size_mb, options.runs).items():
            found = [seconds_of(words, scratch) for _ in range(options.repeats)]
            middle = statistics.median(found)
            print(f"{name:18} {middle:6.2f} s  ({min(found):.2f} to {max(found):.2f}, {len(found)} times)", flush=True)


if __name__ == "__main__":
    main()
