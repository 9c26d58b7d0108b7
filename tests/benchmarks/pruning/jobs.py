"""Work in processes of its own: recoveries side by side, one thread each, and the peer in its environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from devices.files import canonical_json, digest_file, write_json
from pipeline.model import WEIGHTS_FILE
from tests.benchmarks.pruning.plan import Plan
from tests.benchmarks.pruning.rebuild import answers
from tests.benchmarks.pruning.recover import Job
from tests.benchmarks.pruning.results import Results

ROOT = Path(__file__).parents[3]


def _run(python: str | Path, module: str, job: Path) -> None:
    """Run a module on a job file. Raises `SystemExit` with its last words when it fails."""
    # One thread a process: two processes side by side waste less than two threads of one.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [str(python), "-m", f"tests.benchmarks.pruning.{module}", str(job)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")


def recover_all(results: Results, jobs: Mapping[str, Job], workers: int) -> None:
    """Run the recoveries that are not stored, so many side by side; each is kept when it ends.

    Arms that came to the same network are recovered once: equal jobs give equal weights.
    """
    settings = {key: asdict(job) | _starts(job) for key, job in jobs.items()}
    waiting: dict[str, list[str]] = {}
    for key in jobs:
        if results.get(key, settings[key]) is None:
            waiting.setdefault(canonical_json(settings[key] | {"out": "", "pruned": ""}), []).append(key)

    def recover(keys: list[str]) -> dict[str, Any]:
        job = jobs[keys[0]]
        path = Path(job.out, "job.json")
        write_json(path, asdict(job))
        _run(sys.executable, "recover", path)
        for key in keys[1:]:
            shutil.copytree(job.out, jobs[key].out, dirs_exist_ok=True)
        found: dict[str, Any] = json.loads(Path(job.out, "recovered.json").read_text())
        return found

    with ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(recover, keys): keys for keys in waiting.values()}
        for index, future in enumerate(as_completed(running)):
            found = future.result()
            for key in running[future]:
                results.put(key, settings[key], found)
            print(f"{running[future][0]}: {found['cpu_s']:.0f} s ({index + 1} of {len(running)})", flush=True)


def _starts(job: Job) -> dict[str, str]:
    """Digests of the networks that a recovery starts from and follows."""
    return {
        role: digest_file(Path(folder, WEIGHTS_FILE))
        for role, folder in (("start", job.pruned), ("followed", job.teacher))
        if folder is not None
    }


def peer_prune(
    plan: Plan, results: Results, key: str, name: str, dense: Path, out: Path, target_macs: float, tuned: bool
) -> dict[str, Any]:
    """Let Torch-Pruning prune the network of `dense` into `out`, in its own environment; returns what it said.

    Raises `SystemExit` when the network that comes back does not answer here as it did there.
    """

    def find() -> dict[str, Any]:
        shutil.rmtree(out, ignore_errors=True)
        job = out / "job.json"
        write_json(job, settings | {"network": name, "dense": str(dense), "out": str(out)})
        _run(plan.peer, "peer_prune", job)
        found: dict[str, Any] = json.loads((out / "peer.json").read_text())
        answered = answers(name, out)
        if not np.allclose(answered, np.array(found.pop("logits")), rtol=1e-3, atol=1e-4):
            raise SystemExit(f"{out}: the peer's network answers otherwise here than in the peer's environment")
        return found

    settings = plan.peer_settings(dense, target_macs, tuned)
    found: dict[str, Any] = results.once(key, settings, find)
    return found
