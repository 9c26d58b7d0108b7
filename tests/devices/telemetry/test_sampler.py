"""The sampler's process on recorded trees: what it reads, where it runs, and that it always ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from devices.latency import pinned
from devices.telemetry import sampler
from devices.telemetry.sampler import Sampler, SamplerConfig, sampling
from devices.telemetry.series import Series
from tests.devices.telemetry.trees import expand
from tests.devices.test_agent_process import gone


def test_it_samples_what_changes_at_its_rate(tmp_path: Path) -> None:
    clock = expand("orin-nano", tmp_path) / "sys/class/devfreq/17000000.gpu/cur_freq"
    began = time.perf_counter_ns()
    with sampling(SamplerConfig(rate_hz=50, root=tmp_path)) as found:
        time.sleep(1)
        before = time.perf_counter_ns()
        clock.write_text("624750000\n")
        after = time.perf_counter_ns()
        time.sleep(1)
        assert found == []
    ended = time.perf_counter_ns()
    series = Series.of(found[0])
    times, gaps = series.times_ns, np.diff(series.times_ns)
    assert began < times[0] < times[-1] < ended
    assert np.all(gaps > 0)
    # A machine that is busy makes some late, and none early: one at the start and one at the end are beside the rate.
    assert 5 <= times.size <= 50 * (ended - began) / 1e9 + 3
    assert np.quantile(gaps, 0.25) < 50_000_000
    gpu = series.values["clock.gpu"]
    # A sample is read after its own time and before that of the next.
    assert set(gpu[:-1][times[1:] < before]) == {306.0}
    assert set(gpu[times > after]) == {624.75}
    # A part that is switched off has no figure in any sample.
    assert np.isnan(series.values["temperature.cv0"]).all()
    assert "temperature.cv0" not in series.figures()
    assert series.figures()["power.VDD_IN"].mean == pytest.approx(6.117, abs=1e-3)


def test_it_keeps_off_the_cpus_that_are_measured(tmp_path: Path) -> None:
    everywhere = os.sched_getaffinity(0)
    with pinned(1) as cpus:
        running = Sampler(SamplerConfig(root=tmp_path, cpus=cpus))
        assert running._process is not None
        assert os.sched_getaffinity(running._process.pid) == (everywhere - set(cpus) or everywhere)
        assert running.stop().shares_cpu == (len(everywhere) == 1)
    running = Sampler(SamplerConfig(root=tmp_path, cpus=tuple(everywhere)))
    assert running.stop().shares_cpu


def test_its_own_cost_is_told(tmp_path: Path) -> None:
    with sampling(SamplerConfig(rate_hz=100, root=expand("pc", tmp_path))) as found:
        time.sleep(0.3)
    assert 0 < found[0].cpu_share < 0.5


def test_a_sampler_that_was_killed_says_so(tmp_path: Path) -> None:
    running = Sampler(SamplerConfig(root=tmp_path))
    assert running._process is not None
    os.kill(running._process.pid, signal.SIGKILL)
    assert running.stop().absent == (("telemetry", "the sampler was ended by something else"),)


def test_a_python_that_does_not_start_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sampler, "python_command", lambda *_: [str(tmp_path / "none")])
    (name, why), *_ = Sampler(SamplerConfig()).stop().absent
    assert name == "telemetry"
    assert "does not start" in why
    monkeypatch.setattr(sampler, "python_command", lambda *_: [sys.executable, "-c", "raise SystemExit(1)"])
    assert Sampler(SamplerConfig()).stop().absent == (("telemetry", "the sampler does not start"),)


def test_a_fault_in_the_block_still_ends_it(tmp_path: Path) -> None:
    found: list[sampler.RawSamples] = []

    def fails() -> None:
        nonlocal found
        with sampling(SamplerConfig(root=tmp_path)) as found:
            raise RuntimeError("device lost")

    with pytest.raises(RuntimeError, match="device lost"):
        fails()
    assert len(found[0].times_ns) >= 2


def test_it_does_not_outlive_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib; from devices.telemetry.sampler import *; "
        "s = Sampler(SamplerConfig(root=pathlib.Path(sys.argv[1]))); print(s._process.pid, flush=True); os._exit(1)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert gone(int(done.stdout))


def test_the_sampler_needs_neither_numpy_nor_an_engine() -> None:
    code = "import sys, devices.telemetry.sampler; print({'numpy', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.stdout.strip() == "set()", done.stderr
