"""One process of a fit: `torchrun --nproc-per-node 2 -m pipeline.recovery.worker JOB.json`, or by `fabric run`.

`pipeline.recovery.launch` starts the same, and hears of progress and errors on standard output.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from devices.errors import EXIT_INTERNAL, EXIT_USAGE, EspalierError
from devices.files import write_json
from devices.stage import no_progress

SUPERVISED = "ESPALIER_FIT_SUPERVISED"
"""Set by the process that listens; it holds the other end of standard input for as long as it lives."""
MARK = "espalier-fit "
"""What a line for it begins with: libraries write there too."""


def main() -> None:
    """Do the job named on the command line; the exit code is that of its error."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: torchrun --nproc-per-node N -m pipeline.recovery.worker JOB.json\n")
        sys.exit(EXIT_USAGE)
    supervised = SUPERVISED in os.environ
    if supervised:
        threading.Thread(target=_end_with_supervisor, daemon=True).start()
    # Only now, because it takes seconds, and the watch should stand by then.
    from pipeline.recovery.job import is_first, read_job, run_job

    path = Path(sys.argv[1])
    try:
        report = run_job(read_job(path), _tell if supervised else no_progress)
        if is_first():
            write_json(report_path(path), report.as_dict())
    except EspalierError as error:
        _say({"error": [type(error).__name__, error.where, error.what, error.fix]})
        sys.stderr.write(f"{error.kind}: {error}\n")
        sys.stderr.flush()
        # At once: to leave the group in order would be to wait for processes that wait for this one.
        os._exit(error.exit_code)
    _leave_group()


def report_path(job: Path) -> Path:
    """Where the report of a job goes: beside it."""
    return job.with_suffix(".report.json")


def _say(message: dict[str, object]) -> None:
    if SUPERVISED in os.environ:
        # In one write, so that lines of several processes do not mix.
        os.write(1, f"{MARK}{json.dumps(message)}\n".encode())


def _tell(done: int, total: int, text: str) -> None:
    from pipeline.recovery.job import is_first

    if is_first():
        _say({"progress": [done, total, text]})


def _end_with_supervisor() -> None:
    """Wait until standard input ends, which is when its holder does, however it ends."""
    while os.read(0, 4096):
        pass
    os._exit(EXIT_INTERNAL)


def _leave_group() -> None:
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
