"""Mutation tests of the gate, the verifier and the statistics: `make mutate`.

Each mutant is one small change to one module's syntax tree: a comparison, a condition, an operator, a number or a
statement. It counts as killed when the module's own tests fail on it, or do not end. Libraries are imported once, and
each mutant runs in a fork of that process, in which the mutant stands in the module's place. The score is the share
that was killed; what survives is listed, to be killed by a test or seen to change nothing.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import math
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.benchmarks.mutants import ROOT, Mutant, mutants_of

_TRUST_NAMES: tuple[str, ...] = ("clock", "openssl", "options", "store", "verify", "certificates")
_TRUST_NAMES += ("tamper", "external_weights", "too_large")
_TRUST = tuple(f"tests/devices/trust/test_{name}.py" for name in _TRUST_NAMES)
_TRUST += ("tests/exporters/test_sign.py",)
_GATE = ("tests/pipeline/test_gate.py", "tests/pipeline/test_gate_unproven.py")
_STATISTICS = tuple(f"tests/devices/test_{name}.py" for name in ("statistics", "statistics_of_times", "mean_ratio"))
_EVIDENCE_NAMES = ("run_figures", "evidence_budgets", "last_release")
_EVIDENCE = tuple(f"tests/pipeline/release/test_{name}.py" for name in _EVIDENCE_NAMES)
_TESTS: dict[str, tuple[str, ...]] = {
    "pipeline/gate.py": _GATE,
    "pipeline/budget_rule.py": _GATE,
    "pipeline/release/gate.py": tuple(f"tests/pipeline/release/test_{name}.py" for name in ("regression", "text")),
    "pipeline/release/regression.py": ("tests/pipeline/release/test_regression.py",),
    "pipeline/release/evidence.py": _EVIDENCE,
    "devices/statistics.py": _STATISTICS,
    "devices/archive.py": ("tests/devices/test_archive.py", "tests/devices/test_archive_limits.py"),
    "devices/bundle.py": ("tests/devices/test_bundle.py", "tests/devices/test_bundle_manifest.py", *_TRUST),
    **{path.relative_to(ROOT).as_posix(): _TRUST for path in sorted((ROOT / "devices" / "trust").glob("[!_]*.py"))},
}
_GROUPS = {"gate": "pipeline/", "statistics": "devices/statistics.py", "verifier": "devices/"}
# Imported before the fork; nothing of Espalier, whose modules would hold on to the one that is replaced.
_LIBRARIES: tuple[str, ...] = ("numpy", "hypothesis", "hypothesis.strategies", "hypothesis.extra.numpy", "pytest")
_LIBRARIES += ("onnx", "onnxruntime", "pydantic", "model_signing", "scipy.stats", "torch", "xdist.plugin", "pytest_cov")
_SURVIVED = 0
_SLOW_S = 0.05
_FIRST = 20
_TIMES_FILE, _KILLS_FILE = "times.json", "kills.txt"
_WALL_TO_CPU = 20


class _Quickly:
    """Tests that killed a mutant for little time come first, slow ones last, by their times on the module as it is.

    Property tests fail at their first bad input, since the smallest one takes seconds to find.
    """

    def __init__(self, scratch: Path, learns: bool) -> None:
        self._times, self._kills, self._learns = scratch / _TIMES_FILE, scratch / _KILLS_FILE, learns
        self._known: dict[str, float] = json.loads(self._times.read_text()) if self._times.exists() else {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        kills = Counter(self._kills.read_text().splitlines() if self._kills.exists() else ())
        best = sorted(kills, key=lambda name: kills[name] / (self._known.get(name, 0.0) + _SLOW_S))[-_FIRST:]
        items.sort(key=lambda item: (item.nodeid not in best, self._known.get(item.nodeid, 0.0) > _SLOW_S))

    def pytest_collection_finish(self) -> None:
        from hypothesis import Phase, settings

        settings.register_profile("quickly", settings(phases=(Phase.explicit, Phase.generate)))
        settings.load_profile("quickly")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if self._learns and report.when == "call":
            self._known[report.nodeid] = report.duration
        if not self._learns and report.failed:
            with open(self._kills, "a") as file:
                file.write(f"{report.nodeid}\n")

    def pytest_sessionfinish(self) -> None:
        if self._learns:
            self._times.write_text(json.dumps(self._known))


class _Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads the mutant in the module's place."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant
        self._name = mutant.path[: -len(".py")].replace("/", ".")

    def find_spec(self, fullname: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(fullname, ROOT / self._mutant.path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._mutant.tree, str(ROOT / self._mutant.path), "exec"), module.__dict__)


def survives(mutant: Mutant | None, tests: tuple[str, ...], scratch: Path, limit_s: float) -> bool:
    """Whether the tests pass on the mutant (None: on the module as it is), within so many seconds of the processor."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit_s), math.ceil(limit_s) + 1))
        _run_tests(mutant, tests, scratch)
    # Of the clock too, for what waits; many times as long, because others may use the processor.
    until = time.monotonic() + _WALL_TO_CPU * limit_s
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == _SURVIVED
        time.sleep(0.01)
    os.killpg(child, 9)
    os.waitpid(child, 0)
    return False


def _run_tests(mutant: Mutant | None, tests: tuple[str, ...], scratch: Path) -> None:
    """In the fork: never returns."""
    code = 3
    try:
        import pytest

        os.setsid()
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        if mutant is not None:
            sys.meta_path.insert(0, _Instead(mutant))
        words = ["-x", "-q", "-p", "no:cacheprovider", "--basetemp", str(scratch / str(os.getpid()))]
        # That a plugin was imported before is meant.
        words += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        quickly = _Quickly(scratch, learns=mutant is None)
        code = int(pytest.main([*words, *tests], plugins=[quickly]))
    finally:
        # Not even with an error may this go on as the parent does.
        os._exit(code)


def chosen(names: list[str], sample: int | None, seed: int, at: list[str] | None = None) -> list[Mutant]:
    """The mutants of the modules of these groups; with `sample`, so many of them; with `at`, those at these."""
    paths = [path for path in _TESTS if any(_group(path) == name for name in names)]
    mutants = [mutant for path in paths for mutant in mutants_of(path)]
    if at:
        mutants = [mutant for mutant in mutants if mutant.path in at or f"{mutant.path}:{mutant.line}" in at]
    if sample is not None and sample < len(mutants):
        kept = set(random.Random(seed).sample(range(len(mutants)), sample))
        mutants = [mutant for index, mutant in enumerate(mutants) if index in kept]
    return mutants


def _group(path: str) -> str:
    return next(name for name, start in _GROUPS.items() if path.startswith(start))


def main() -> int:
    """Print what survives, and the score of each module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("groups", nargs="*", choices=[*_GROUPS, []], help="(all)")
    parser.add_argument("--sample", type=int, help="so many mutants, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at", action="append", metavar="FILE[:LINE]", help="those of this, as it was printed")
    parser.add_argument("--limit", type=float, default=60.0, help="processor seconds for one mutant's tests (60)")
    options = parser.parse_args()
    os.chdir(ROOT)
    for name in _LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(name)
    mutants = chosen(options.groups or list(_GROUPS), options.sample, options.seed, options.at)
    scratch = Path(tempfile.mkdtemp(prefix="espalier-mutate-"))
    killed: dict[str, list[bool]] = {}
    try:
        for tests in dict.fromkeys(_TESTS[mutant.path] for mutant in mutants):
            if not survives(None, tests, scratch, options.limit):
                raise SystemExit(f"these fail as the code is: {' '.join(tests)}")
        for mutant in mutants:
            survived = survives(mutant, _TESTS[mutant.path], scratch, options.limit)
            killed.setdefault(mutant.path, []).append(not survived)
            if survived:
                print(f"survived  {mutant.path}:{mutant.line}  {mutant.what}", flush=True)
            for left in scratch.iterdir():
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    rows = {path: (sum(found), len(found)) for path, found in killed.items()}
    rows["together"] = (sum(row[0] for row in rows.values()), sum(row[1] for row in rows.values()))
    for path, (dead, total) in rows.items():
        print(f"{path:34}{dead:5} of {total:5} killed  {100 * dead / max(total, 1):5.1f} %")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
