"""Stands in for `pipeline.recovery.worker` where only starting, hearing and ending processes is tried."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from pipeline.recovery import worker

SUPERVISED, MARK, report_path = worker.SUPERVISED, worker.MARK, worker.report_path


def main() -> None:
    """Do as the folder's `what.txt` says; the second process only waits, for minutes."""
    folder = Path(sys.argv[1]).parent
    rank = os.environ["RANK"]
    threading.Thread(target=worker._end_with_supervisor, daemon=True).start()
    told = Path(os.environ["ESPALIER_TEST_FOLDER"])
    (told / f"pid{rank}").write_text(str(os.getpid()))
    # Nobody ends before the other can be looked for.
    while not (told / "pid1").exists():
        time.sleep(0.01)
    what = os.environ["ESPALIER_TEST_WHAT"]
    if rank == "1" or what == "waits":
        time.sleep(300)
    if what == "refuses":
        print("a library's own words")
        worker._say({"progress": [1, 2, "epoch 1 of 2"]})
        worker._say({"error": ["ModelError", "training", "the loss is nan in epoch 2, step 1", "Lower it"]})
        sys.exit(4)
    sys.stderr.write(f"{folder.name} fills the memory\n\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)
