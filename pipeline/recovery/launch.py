"""Fits in several processes of this host: started here, watched, and ended with this one."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from devices import errors
from devices.errors import DeviceError, EspalierError
from devices.files import read_json, storage_errors
from devices.stage import Progress
from pipeline.data import Split
from pipeline.recovery import worker
from pipeline.recovery.job import FitJob, run_job
from pipeline.recovery.machine import place, require_fabric
from pipeline.recovery.report import FitReport

_END_S = 10
# The same import path as here: `-m` would take what the current folder holds.
_WITH_PATH = "import sys; sys.path[:] = {path!r}; from {module} import main; main()"


def recover(job: FitJob, progress: Progress, train: Split | None = None) -> FitReport:
    """Do the job here, or in `job.config.devices` processes of this host; the network is in `job.output` then.

    `train` are the recipe's training images, where this process has them. Raises what `pipeline.recovery.fit.fit`
    raises, here or in a process, and `DeviceError` with the last words of a process that died.
    """
    placement = place(job.config)
    if placement.devices == 1:
        return run_job(job, progress, train)
    require_fabric(placement)
    with storage_errors(job.output):
        job.output.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix="espalier-fit-")
    with scratch as name:
        folder = Path(name)
        job.write(folder / "job.json")
        with _workers(folder, placement.devices, placement.accelerator) as process:
            assert process.stdout is not None
            failed = _listen(process.stdout, progress)
            code = process.wait()
        if failed or code:
            raise failed or _died(folder, code)
        return FitReport.from_dict(read_json(worker.report_path(folder / "job.json"), DeviceError))


@contextmanager
def _workers(folder: Path, count: int, accelerator: str) -> Iterator[subprocess.Popen[bytes]]:
    """torchrun with `count` workers on the job in the folder; none of them outlives this block."""
    path = [entry or str(Path.cwd()) for entry in sys.path]
    # A port that is free, for this host alone: the rendezvous of `--standalone`.
    options = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(count), "--max-restarts", "0"]
    logs = ["--redirects", "2", "--log-dir", str(folder / "logs")]
    run = [sys.executable, "-c", _WITH_PATH.format(path=path, module="torch.distributed.run"), *options, *logs]
    own = ["--no-python", sys.executable, "-c", _WITH_PATH.format(path=path, module=worker.__name__)]
    environment = os.environ | {worker.SUPERVISED: "1"}
    if accelerator == "cpu":
        # Gloo would look this host's name up, which need not lead anywhere.
        environment["GLOO_SOCKET_IFNAME"] = environment.get("GLOO_SOCKET_IFNAME", "lo")
    with open(folder / "launcher.log", "wb") as log:
        process = subprocess.Popen(
            [*run, *own, str(folder / "job.json")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            # Ctrl-C reaches this process alone, which ends the others in order.
            start_new_session=True,
        )
    try:
        yield process
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        # The workers watch it and leave when it closes; that of a killed process closes by itself.
        with contextlib.suppress(OSError):
            process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()


def _listen(stream: BinaryIO | Any, progress: Progress) -> EspalierError | None:
    """Pass progress on until the processes end. Returns the first error of one of them."""
    failed = None
    for line in stream:
        text = line.decode(errors="replace")
        if not text.startswith(worker.MARK):
            continue
        message = json.loads(text[len(worker.MARK) :])
        if "progress" in message:
            progress(*message["progress"])
        elif failed is None:
            kind, where, what, fix = message["error"]
            failed = getattr(errors, kind)(where, what, fix)
    return failed


def _died(folder: Path, code: int) -> DeviceError:
    """What is said of processes that ended without an error of their own."""
    report = (folder / "launcher.log").read_text(errors="replace")
    ended = re.search(r"exitcode\s*:\s*(-?\d+)", report)
    number = int(ended[1]) if ended else code
    how = f"killed by signal {-number}" if number < 0 else f"exit code {number}"
    words = [_last_line(path) for path in sorted((folder / "logs").rglob("stderr.log"))]
    last = next((line for line in words if line), "") or _last_line(folder / "launcher.log")
    fix = "A kill can mean that memory ran out: lower batch_size or devices" if number < 0 else ""
    return DeviceError("training", f"a process ended ({how}): {last or 'it wrote no message'}", fix)


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")
