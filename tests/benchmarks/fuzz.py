"""Readers against mutated inputs, each in a process that may take 1 GiB: `make fuzz`."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.fuzz import Reader, case, fault_of, limit_memory
from tests.fuzz_readers import readers


def faults(reader: Reader, count: int, seed: int, folder: Path) -> int:
    """Run them and print each fault; returns how many there are."""
    limit_memory()
    found = 0
    for index in range(count):
        content = case(reader, seed, index)
        fault = fault_of(reader, content, folder)
        if fault is not None:
            found += 1
            print(f"{reader.name}, seed {seed}, input {index} ({len(content)} bytes):\n{fault[-3000:]}", flush=True)
    return found


def main() -> int:
    """Print a row for each reader."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="inputs for each reader (1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="readers whose name holds this")
    options = parser.parse_args()
    failed = False
    # A fault may hold what no terminal takes.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory(prefix="espalier-fuzz-") as scratch:
        base = Path(scratch)
        for reader in readers(base / "valid"):
            if options.only not in reader.name:
                continue
            started = time.monotonic()
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    code = min(faults(reader, options.count, options.seed, base / "case"), 99)
                    sys.stdout.flush()
                except Exception:  # noqa: BLE001 - told, not lost: the parent sees an exit code alone
                    traceback.print_exc()
                finally:
                    os._exit(code)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            failed |= code != 0
            told = f"{code} faults" if code >= 0 else f"ended by signal {-code}"
            print(f"{reader.name:36}{options.count:8} inputs  {told}  {time.monotonic() - started:.0f} s", flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
