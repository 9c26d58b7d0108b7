"""`kill -9` at random moments over all steps of the drill recipe, here and on a board: `make drill`.

A run is killed, started again, killed again, until it ends; then its results must be those of a run that nobody
disturbed, and the next begins anew. Every second one builds, measures and attacks on a board behind a real sshd on
loopback, and there the board's own process is killed at times instead of the run. A step that was reported as done
and is not found by the next start is a loss. Kills are written down as they happen: the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devices.fleet import BoardConfig
from tests import drill
from tests.devices.remote.conftest import processes_of, wait_until_none
from tests.devices.remote.sshd import SERVER, Server, start_server, stop_server
from tests.devices.remote.test_bench_command import fleet_file

PLACES = ("here", "board")
KILLS_FILE = "kills.jsonl"
HANGS_S = 600.0
_POLL_S = 0.005
# Of kills on a board, so many are of the board's process.
_BOARD_SHARE = 0.3
# The next step to be made, or one of the two after it.
_STEPS_AHEAD = 3
# Kills in a row after which no step more was done: a step that takes longer than it did undisturbed would be killed
# for ever. The run then ends undisturbed, and the next begins.
_MOST_IN_VAIN = 6


@dataclass(frozen=True)
class Step:
    """A line that a run printed of a step that is done."""

    name: str
    stored: bool
    seconds: float


@dataclass(frozen=True)
class Reference:
    """A run that nobody disturbed."""

    steps: tuple[Step, ...]
    digests: dict[str, str]


class Drill:
    """One place where runs are killed: its folders, the undisturbed run, and what was found."""

    def __init__(self, folder: Path, place: str, server: Server | None) -> None:
        self.place, self.folder, self.cache = place, folder, folder / "cache"
        self._more: tuple[str, ...] = ()
        folder.mkdir(parents=True, exist_ok=True)
        if server is not None:
            board = BoardConfig(
                name="bench",
                host="board",
                device="cpu",
                python=sys.executable,
                cache=str(self.cache),
                ssh_options=server.ssh_options,
            )
            self._more = ("--fleet", str(fleet_file(board, folder)), "--board", "bench")

    def start(self) -> subprocess.Popen[bytes]:
        """Start the run, what it prints in a file."""
        command = drill.command(self.folder / "store", self.folder / "run", *self._more)
        with open(self._log, "wb") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env=drill.environment(), stdout=subprocess.DEVNULL, stderr=log
            )

    def reference(self) -> Reference:
        """Of a run from nothing to its end."""
        self.clear()
        process = self.start()
        if process.wait(HANGS_S) != 0:
            raise SystemExit(self._log.read_text())
        return Reference(tuple(self.done()), drill.digests(self.folder / "run"))

    def done(self) -> list[Step]:
        """Steps that the last start reported as done."""
        rows = [line[8:] for line in self._log.read_text().splitlines(keepends=True) if line.startswith("[")]
        return [_step(row) for row in rows if row.endswith("\n")]

    def said(self) -> str:
        """The end of what the last start printed."""
        return self._log.read_text()[-1000:]

    def clear(self) -> None:
        """Begin anew."""
        for name in ("store", "run", "cache"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    @property
    def _log(self) -> Path:
        return self.folder / "stderr.txt"


def _step(row: str) -> Step:
    stage, rest = row[:10].strip(), row[10:33].strip()
    told = row[33:].split()
    return Step(f"{stage} {rest}", told[0] == "stored", float(told[0]) if told[-1] == "s" else 0.0)


def kill_once(
    site: Drill, reference: Reference, held: set[str], rng: random.Random, enough: bool = False
) -> dict[str, Any]:
    """Start, kill at a random moment unless it ends before or it is enough, and say what became of it.

    `held` are the steps that earlier starts reported as done; those of this one are added.
    """
    names = [step.name for step in reference.steps]
    first = next((index for index, name in enumerate(names) if name not in held), len(names))
    target = min(first + rng.randrange(_STEPS_AHEAD), len(names) - 1)
    moment_s = rng.random() * max(reference.steps[target].seconds, 0.2)
    of_board = site.place == "board" and rng.random() < _BOARD_SHARE
    process = site.start()
    row: dict[str, Any] = {"place": site.place, "step": None, "killed": None, "fault": None}
    began, reached = time.monotonic(), None
    while process.poll() is None:
        now, done = time.monotonic(), len(site.done())
        reached = now if reached is None and done >= target else reached
        if now - began > HANGS_S:
            row["fault"] = "hang"
        if row["fault"] or (not enough and reached is not None and now - reached >= moment_s):
            victims = processes_of(site.cache) if of_board else []
            row["step"], row["killed"] = names[min(done, len(names) - 1)], "board" if victims else "run"
            for pid in victims or [process.pid]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            break
        time.sleep(_POLL_S)
    try:
        code = process.wait(HANGS_S)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
        row["fault"] = "hang"
    if site.place == "board" and wait_until_none(site.cache, 60.0):
        row["fault"] = "left running on the board"
    reported = site.done()
    lost = [step.name for step in reported if step.name in held and not step.stored]
    held |= {step.name for step in reported}
    if lost:
        row["fault"] = f"lost: {', '.join(lost)}"
    if row["killed"] != "run" and code != 0:
        row["fault"] = row["fault"] or f"ended with {code}: {site.said()}"
    row["ended"] = code == 0
    if code == 0:
        found = drill.digests(site.folder / "run")
        differing = [name for name, digest in reference.digests.items() if found.get(name) != digest]
        row["fault"] = row["fault"] or (f"differs: {', '.join(differing)}" if differing else None)
    return row


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Kills that were written down, a last line cut short left out."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def table(rows: list[dict[str, Any]], order: list[str]) -> str:
    """Kills by step, and what was found."""
    killed = [row for row in rows if row["killed"]]
    by = Counter((row["step"], "board's process" if row["killed"] == "board" else row["place"]) for row in killed)
    columns = ("here", "board", "board's process")
    text = [f"{'killed during':34}{'run here':>10}{'run, board':>12}{'board itself':>14}"]
    for name in order:
        counts = [by[name, column] for column in columns]
        text.append(f"{name:34}{counts[0]:10}{counts[1]:12}{counts[2]:14}")
    ended = sum(row["ended"] for row in rows)
    faults = [row for row in rows if row["fault"]]
    differing = sum(row["fault"].startswith("differs") for row in faults)
    text.append(f"{len(killed)} kills, {ended} runs that ended and were compared")
    text.append(f"{len(faults) - differing} losses, {differing} runs with differing results")
    text += [f"  {row['place']}, {row['step']}: {row['fault']}" for row in faults]
    return "\n".join(text)


def work(options: argparse.Namespace, server: Server | None) -> int:
    """Kill until it is enough; returns the exit code."""
    journal = options.out / KILLS_FILE
    sites = [Drill(options.out / place, place, server if place == "board" else None) for place in options.places]
    rows, until = read_rows(journal), time.monotonic() + options.minutes * 60
    print(f"{sum(1 for row in rows if row['killed'])} kills are written down in {journal}", flush=True)
    references = {site.place: site.reference() for site in sites}
    run_number = sum(row["ended"] for row in rows)

    def enough() -> bool:
        killed = sum(1 for row in rows if row["killed"])
        return bool(killed >= options.kills or time.monotonic() > until)

    while not enough():
        site = sites[run_number % len(sites)]
        site.clear()
        held: set[str] = set()
        ended, in_vain = False, 0
        while not ended:
            rng, before = random.Random(f"{options.seed} {len(rows)}"), len(held)
            row = kill_once(site, references[site.place], held, rng, enough() or in_vain >= _MOST_IN_VAIN)
            in_vain = in_vain + 1 if len(held) == before else 0
            rows.append(row)
            with open(journal, "a") as stream:
                stream.write(json.dumps(row) + "\n")
            # After a fault nothing is left to go on from.
            ended = row["ended"] or row["fault"] is not None
        run_number += 1
    print(table(rows, [step.name for step in next(iter(references.values())).steps]))
    return 1 if any(row["fault"] for row in rows) else 0


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="kill no more after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--places", nargs="+", choices=PLACES, default=PLACES)
    parser.add_argument("--out", type=Path, default=Path("build/drill"), help="folder that a later call goes on from")
    options = parser.parse_args()
    if "board" in options.places and SERVER is None:
        parser.error("no sshd here: apt-get install openssh-server, or --places here")
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(options.out / "sshd", ignore_errors=True)
    (options.out / "sshd").mkdir()
    server = start_server(options.out / "sshd") if "board" in options.places else None
    try:
        return work(options, server)
    finally:
        if server is not None:
            stop_server(server)


if __name__ == "__main__":
    raise SystemExit(main())
