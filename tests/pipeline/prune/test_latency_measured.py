"""Milliseconds of real engines: made of the smaller network as the one that ships, measured once, kept in a file."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from devices.engine_files import read_engine
from devices.engines import onnxruntime
from devices.errors import BundleError
from devices.latency import LatencyConfig
from devices.profile import Activations, load_profile
from exporters.quantize_options import Operators
from pipeline.latency_source.measured import ConversionConfig, EngineMaker, MeasuredLatency, plan_key
from pipeline.prune.allocate import Ranked, Snapping
from pipeline.prune.budget import latency_budget, macs_budget
from pipeline.prune.groups import Unit
from pipeline.prune.latency import allocate_to_latency
from pipeline.recipe import read_recipe
from pipeline.steps.conversion import conversion_config
from pipeline.work import Work
from tests.drill import DRILL
from tests.pipeline.prune.latency_parts import HOST, grouped, pruned, some
from tests.pipeline.prune.networks import build, images


class Wide(nn.Module):
    """Enough work that an engine's time falls with its width."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
        self.head = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        logits: torch.Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


QUICK = LatencyConfig(duration_s=0.2, warmup_s=0.02)


def maker(network: nn.Module, pixels: torch.Tensor, activations: Activations | None) -> EngineMaker:
    """Opset 17, because the older exporter is the quicker one."""
    config = ConversionConfig(
        opset=17,
        activations=activations,
        weight_bits=7 if HOST.saturates_int8 else 8,
        options=onnxruntime.OrtOptions(provider="CPUExecutionProvider", threads=1),
        threads=1,
    )
    return EngineMaker(network, config, HOST, pixels.numpy())


@pytest.mark.parametrize("activations", [None, "unsigned"])
def test_real_engines_are_measured_and_the_file_decides_the_same_again(
    activations: Activations | None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = Wide().eval()
    pixels = torch.rand(8, 3, 16, 16)
    grouping = grouped(network, pixels[:1])
    trace, groups = grouping.trace, grouping.groups
    ranked = [Ranked(group, np.random.default_rng(0).random(group.width)) for group in groups]
    make = maker(network, pixels, activations)
    made: list[int] = []

    def counting(removed: Sequence[Unit], folder: Path) -> None:
        made.append(len(removed))
        make(removed, folder)

    (tmp_path / "dense").mkdir()
    make([], tmp_path / "dense")
    key_of = plan_key(network, network)
    file = tmp_path / "latencies.json"
    source = MeasuredLatency(tmp_path / "dense", counting, key_of, QUICK, HOST, file)
    # A wide margin, so that a busy machine does not matter: a sixteenth of the channels against all of them.
    limit_ms = 0.7 * source.dense_ms
    budget = latency_budget(limit_ms, source.dense_ms, source.latency_ms, "measured")
    proxy, snapping = macs_budget(trace, 0.5), Snapping(channel_step=16)
    found = allocate_to_latency(ranked, "local", budget, proxy, snapping, most_builds=4)
    assert made, "the whole network needs no engine, and others do"
    assert 0 not in made
    assert len(made) <= 3
    assert found.chosen.latency_ms <= limit_ms

    raw = json.loads(file.read_text())
    assert len(raw["rows"]) == len(made) + 1
    chosen = source.measure(found.chosen.removed)
    gone = {unit.label for unit in found.chosen.removed}
    left = {group.name: sum(unit.label not in gone for unit in group.units) for group in groups}
    assert {group.name: chosen.widths.get(group.name, group.width) for group in groups} == left
    assert chosen.latency_ms.low <= chosen.latency_ms.value <= chosen.latency_ms.high
    assert chosen.latency_ms.value == pytest.approx(chosen.ratio.value * source.dense_ms)
    assert chosen.samples >= 40

    made.clear()
    again = MeasuredLatency(tmp_path / "dense", counting, key_of, QUICK, HOST, file)
    assert again.dense_ms == source.dense_ms
    assert dict(again.rows) == dict(source.rows)
    assert allocate_to_latency(ranked, "local", budget, proxy, snapping, most_builds=4).chosen == found.chosen
    assert made == []
    # Another duration: other figures.
    longer = MeasuredLatency(tmp_path / "dense", counting, key_of, replace(QUICK, duration_s=0.3), HOST, file)
    assert len(longer.rows) == 1


def test_the_engine_made_is_that_of_the_smaller_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, pixels = Wide().eval(), torch.rand(8, 3, 16, 16)
    before = copy.deepcopy(network.state_dict())
    units = some(network, pixels[:1], 0)
    maker(network, pixels, None)(units, tmp_path)
    engine = onnxruntime.open_engine(*read_engine(tmp_path), HOST)
    with torch.no_grad():
        expected = pruned(network, units)(pixels).numpy()
    assert np.allclose(engine.run(pixels.numpy()), expected, atol=1e-5)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(("name", "as_auto"), [("attending", "products"), ("mobile", "all")])
def test_the_engine_made_computes_in_int8_what_the_one_that_ships_does(
    tmp_path: Path, name: str, as_auto: Operators
) -> None:
    """What the recipe says, and by the graph where it leaves that open: an attention's products alone."""
    engines: dict[str, bytes] = {}
    for operators in ("auto", "all", "products"):
        make, folder = maker(build(name), images(8), "unsigned"), tmp_path / operators
        folder.mkdir()
        work = Work(read_recipe(DRILL, [f"quantize.operators={operators}"]), load_profile("cpu"), HOST, "espalier run")
        asked = conversion_config(work).operators
        replace(make, config=replace(make.config, operators=asked))([], folder)
        engines[operators] = read_engine(folder)[0]
    assert engines["all"] != engines["products"]
    assert engines["auto"] == engines[as_auto]


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": "espalier-latency/1"}', "not JSON"])
def test_a_damaged_file_of_latencies_is_named(tmp_path: Path, content: str) -> None:
    torch.manual_seed(0)
    network, pixels = Wide().eval(), torch.rand(8, 3, 16, 16)
    make = maker(network, pixels, None)
    make([], tmp_path)
    (tmp_path / "latencies.json").write_text(content)
    with pytest.raises(BundleError, match=r"latencies\.json"):
        MeasuredLatency(tmp_path, make, plan_key(network, network), QUICK, HOST, tmp_path / "latencies.json")
