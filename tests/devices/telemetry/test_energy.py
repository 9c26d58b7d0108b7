"""Energy per inference, on power that is known."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.telemetry import energy as energy_module
from devices.telemetry.energy import EnergyConfig, energies, measure_energy
from devices.telemetry.sampler import SamplerConfig
from devices.telemetry.series import Series, TotalPower, power_channels, total_power
from tests.devices.telemetry.trees import expand

SECOND = 1_000_000_000


def power(watts: np.ndarray[tuple[int], np.dtype[np.float64]]) -> TotalPower:
    """At 10 Hz."""
    return TotalPower(np.arange(watts.size) * (SECOND // 10), watts, ("power.VDD_IN",))


def test_idle_is_subtracted_and_stated() -> None:
    # Two idle seconds of 5 W, then three of 9 W in which 300 queries ran: 4 W for 10 ms each.
    noise = np.tile([0.1, -0.1], 25)
    total = power(np.where(np.arange(50) < 20, 5.0, 9.0) + noise)
    found = energies(total, [(0, 2 * SECOND - 1)], {"a": (2 * SECOND, 5 * SECOND, 300)})["a"]
    assert found.energy_mj.value == pytest.approx(40)
    assert found.energy_with_idle_mj == pytest.approx(90)
    assert (found.power_w, found.idle_w) == (pytest.approx(9), pytest.approx(5))
    assert 39 < found.energy_mj.low < 40 < found.energy_mj.high < 41
    assert found.is_resolved


def test_the_interval_holds_the_truth_and_an_engine_that_draws_nothing_is_not_resolved() -> None:
    held = resolved = 0
    for seed in range(300):
        noise = np.random.default_rng(seed).normal(0, 0.5, 50)
        spans = {"a": (2 * SECOND, 5 * SECOND, 300)}
        nothing = energies(power(5 + noise), [(0, 2 * SECOND - 1)], spans)["a"]
        found = energies(power(np.where(np.arange(50) < 20, 5, 7) + noise), [(0, 2 * SECOND - 1)], spans)["a"]
        held += found.energy_mj.low <= 20 <= found.energy_mj.high
        resolved += nothing.is_resolved
    assert held >= 0.93 * 300
    assert resolved <= 0.05 * 300


def test_too_few_samples_give_no_energy() -> None:
    assert energies(power(np.full(50, 5.0)), [(0, SECOND)], {"a": (2 * SECOND, 2 * SECOND + 1, 3)}) == {}


@given(st.floats(1, 50), st.floats(0, 50), st.integers(1, 10_000))
def test_energy_times_queries_is_the_work_that_was_done(idle_w: float, more_w: float, queries: int) -> None:
    total = power(np.where(np.arange(50) < 20, idle_w, idle_w + more_w))
    found = energies(total, [(0, 2 * SECOND - 1)], {"a": (2 * SECOND, 5 * SECOND, queries)})["a"]
    assert found.energy_mj.value * queries / 1e3 == pytest.approx(3 * more_w, abs=1e-6)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("power.VDD_IN", "power.VDD_CPU_GPU_CV", "power.VDD_SOC"), ("power.VDD_IN",)),
        (
            ("power.VDD_GPU_SOC", "power.VDD_CPU_CV", "power.VIN_SYS_5V0", "power.VDDQ_VDD2_1V8AO"),
            ("power.VDD_GPU_SOC", "power.VDD_CPU_CV", "power.VIN_SYS_5V0"),
        ),
        (("energy.package-0", "energy.dram-0", "energy.psys"), ("energy.package-0", "energy.dram-0")),
        (("energy.psys",), ("energy.psys",)),
        (("energy.package-0", "power.gpu0", "power.gpu1"), ("energy.package-0", "power.gpu0", "power.gpu1")),
        (("clock.gpu", "temperature.tj"), ()),
    ],
)
def test_no_power_is_counted_twice(names: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert power_channels(names) == expected


def test_counters_become_power_and_are_added_to_rails_of_gpus() -> None:
    times = np.arange(5) * SECOND
    values = {"energy.package-0": np.array([0.0, 20, 40, 70, 100]), "power.gpu0": np.array([5.0, 5, 5, np.nan, 7])}
    total = total_power(Series(times, values, {"energy.package-0": "J", "power.gpu0": "W"}))
    assert total is not None
    # There is no step before the first sample, and none of the GPU in the fourth.
    assert total.watts.tolist() == [25, 25, 37]
    assert (total.times_ns / SECOND).tolist() == [1, 2, 4]
    assert total_power(Series(times, {"clock.gpu": np.ones(5)}, {"clock.gpu": "MHz"})) is None


def test_engines_are_measured_one_after_the_other_on_a_board_that_draws_more_when_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = expand("orin-nano", tmp_path)
    current = root / "sys/class/hwmon/hwmon1/curr1_input"
    rest = energy_module._rest

    def draw(milliamperes: int) -> None:
        # In place and of one length, as the sampler keeps the file open.
        with open(current, "r+b") as stream:
            stream.write(f"{milliamperes}\n".encode())

    def idle(config: EnergyConfig) -> tuple[int, int]:
        draw(1000)
        return rest(config)

    def query(milliamperes: int) -> None:
        draw(milliamperes)
        time.sleep(0.002)

    monkeypatch.setattr(energy_module, "_rest", idle)
    queries = {"one": partial(query, 2000), "two": partial(query, 3000)}
    config = EnergyConfig(idle_s=1.5, run_s=1.5, settle_s=0.1)
    found = measure_energy(queries, config, SamplerConfig(rate_hz=50, root=root))
    assert set(found) == {"one", "two"}
    for name, times in (("one", 2), ("two", 3)):
        energy = found[name]
        assert energy.of == ("power.VDD_IN",)
        assert energy.idle_w == pytest.approx(5.064, rel=0.1)
        assert energy.power_w == pytest.approx(times * 5.064, rel=0.1)
        # What was drawn beyond rest while the queries ran, shared among them.
        assert energy.energy_mj.value * energy.queries / 1e3 == pytest.approx((times - 1) * 5.064 * 1.5, rel=0.2)


def test_a_device_without_a_sensor_costs_no_time(tmp_path: Path) -> None:
    before = time.perf_counter()
    assert measure_energy({"one": lambda: None}, EnergyConfig(), SamplerConfig(root=tmp_path)) == {}
    assert time.perf_counter() - before < 5
