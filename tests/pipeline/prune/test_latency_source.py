"""Where milliseconds come from: layers at any widths, the source that is chosen, and real engines."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from devices.detect import detect_host
from devices.engine_files import read_engine
from devices.engines import onnxruntime
from devices.errors import BundleError, RecipeError
from devices.latency import LatencyConfig
from devices.profile import Activations, HardwareProfile, LatencyTableProfile, Profile, load_profile
from devices.roofline import Layers
from exporters.quantize_options import Operators
from pipeline.latency_source.choose import choose_source
from pipeline.latency_source.estimate import estimated_budget
from pipeline.latency_source.layers import layers_by_width, watch_layers
from pipeline.latency_source.measured import ConversionConfig, EngineMaker, MeasuredLatency, plan_key
from pipeline.prune.allocate import Ranked, Snapping, allocate_to
from pipeline.prune.budget import Budget, latency_budget, macs_budget
from pipeline.prune.groups import Grouping, Unit, find_groups, plan_for
from pipeline.prune.latency import allocate_to_latency
from pipeline.prune.replay import apply_plan
from pipeline.prune.trace import trace_network
from pipeline.recipe import read_recipe
from pipeline.recipe.prune import LatencySource
from pipeline.steps.conversion import conversion_config
from pipeline.work import Work
from tests.drill import DRILL
from tests.pipeline.prune.networks import NETWORKS, build, images

HOST = detect_host()
RATES = HardwareProfile(int8_tops=10, fp16_tflops=5, bandwidth_gb_s=50, gpu_clock_mhz=1000)
TABLE = LatencyTableProfile(precision="int8", channels=(4, 16), ms_per_gmac=(4, 2), overhead_ms_per_layer=0.01)
NOTHING = np.zeros(0, dtype=np.int64)


def grouped(network: nn.Module, image: torch.Tensor) -> Grouping:
    """Groups, and the trace that they are of."""
    return find_groups(network, trace_network(network, image), image, ())


def some(network: nn.Module, image: torch.Tensor, seed: int) -> list[Unit]:
    """Some units of each group."""
    rng = random.Random(seed)
    groups = grouped(network, image).groups
    return [unit for group in groups for unit in rng.sample(group.units, rng.randint(1, group.width - 1))]


def pruned(network: nn.Module, units: Sequence[Unit]) -> nn.Module:
    smaller = copy.deepcopy(network)
    apply_plan(smaller, plan_for(network, units))
    return smaller


def seen(network: nn.Module, image: torch.Tensor) -> Layers:
    """Layers of a network as it is."""
    return layers_by_width(watch_layers(network, image), trace_network(network, image), [], 1)(NOTHING)


class Attention(nn.Module):
    """Tokens that attend to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Conv2d(3, 8, 2, stride=2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.tokens(x).flatten(2).transpose(1, 2)
        x, _ = self.attention(x, x, x, need_weights=False)
        logits: torch.Tensor = self.head(x.mean(dim=1))
        return logits


class Square(nn.Module):
    """A weight that is written inputs first, and of as many inputs as outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(192, 12), nn.Linear(12, 5)
        self.weight = nn.Parameter(torch.randn(12, 12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(torch.relu(torch.relu(self.first(x.flatten(1))) @ self.weight))
        return logits


@pytest.mark.parametrize("name", [*NETWORKS, "attention", "square"])
def test_layers_are_foretold(name: str) -> None:
    """What is said of a smaller network is what is seen on it: every figure of every layer."""
    torch.manual_seed(0)
    own = {"attention": Attention, "square": Square}
    network, image = own[name]().eval() if name in own else build(name), images(1)
    for seed in range(2):
        units = some(network, image, seed)
        by_width = layers_by_width(watch_layers(network, image), grouped(network, image).trace, [units], 1)
        foretold, found = by_width(np.array([len(units)])), seen(pruned(network, units), image)
        for field in fields(Layers):
            assert np.array_equal(getattr(foretold, field.name), getattr(found, field.name)), field.name


def test_layers_by_hand() -> None:
    """Strided, depthwise and linear layers, 2 bytes a value."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Flatten(),
        nn.Linear(8 * 16, 5),
    ).eval()
    image = images(1)
    found = layers_by_width(watch_layers(network, image), trace_network(network, image), [], 2)(NOTHING)
    assert found.macs.tolist() == [3 * 8 * 9 * 16, 8 * 9 * 16, 8 * 16 * 5, 0]
    assert found.weight_bytes.tolist() == [2 * 216, 2 * 72, 2 * 640, 0]
    assert found.input_bytes.tolist() == [2 * 3 * 64, 2 * 8 * 16, 2 * 128, 0]
    assert found.output_bytes.tolist() == [2 * 8 * 16, 2 * 8 * 16, 2 * 5, 0]
    assert found.in_channels.tolist() == [3, 1, 128, 0]
    assert found.out_channels.tolist() == [8, 8, 5, 0]
    assert found.launches.tolist() == [1, 1, 1, 0]
    assert found.depthwise.tolist() == [0, 1, 0, 0]


class Halves(nn.Module):
    """One parameter that holds the matrices of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 192))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        upper, lower = self.weight.chunk(2)
        return nn.functional.linear(x.flatten(1), upper) * nn.functional.linear(x.flatten(1), lower)


def test_each_layer_counts_its_part_of_a_parameter() -> None:
    found = layers_by_width(watch_layers(Halves(), images(1)), trace_network(Halves(), images(1)), [], 1)(NOTHING)
    assert found.macs.tolist() == found.weight_bytes.tolist() == [8 * 192, 8 * 192, 0]
    assert found.out_channels.tolist() == [8, 8, 0]


def test_what_has_no_weight_counts_by_its_operations() -> None:
    """16 tokens of 8 values: scores and sums are 16 x 16 x 8 each."""
    torch.manual_seed(0)
    found = seen(Attention().eval(), images(1))
    assert found.macs[-1] == 2 * 16 * 16 * 8
    assert found.launches[-1] >= 1
    assert found.macs.sum() == 16 * 12 * 8 + 16 * 8 * 24 + 2 * 16 * 16 * 8 + 16 * 8 * 8 + 8 * 5


def board(**changes: object) -> Profile:
    """A board that is not this host."""
    return replace(load_profile("jetson-orin-nano-8gb"), **changes)  # type: ignore[arg-type]


def estimate(source: Literal["table", "predicted"], network: nn.Module, profile: Profile) -> Budget:
    return estimated_budget(1.0, source, network, images(1), grouped(network, images(1)).trace, profile, "int8")


@pytest.mark.parametrize("source", ["table", "predicted"])
def test_an_estimate_is_that_of_the_smaller_network(source: Literal["table", "predicted"]) -> None:
    network, image = build("residual"), images(1)
    profile = board(hardware=RATES, latency_table=TABLE)

    budget = estimate(source, network, profile)
    units = some(network, image, 0)
    again = estimate(source, pruned(network, units), profile)
    assert budget.source == source
    assert again.dense == pytest.approx(budget.cost(units), rel=1e-12)
    assert budget.cost(units) < budget.dense
    assert budget.width_cost([units])(np.array([len(units)])) == budget.cost(units)


@pytest.mark.parametrize("scope", ["global", "local", "allocated"])
@pytest.mark.parametrize("source", ["table", "predicted"])
def test_an_estimate_is_a_budget_like_any_other(source: Literal["table", "predicted"], scope: str) -> None:
    network, image = build("residual"), images(1)
    ranked = [
        Ranked(group, np.random.default_rng(0).random(group.width) + 0.1) for group in grouped(network, image).groups
    ]
    slow = HardwareProfile(int8_tops=1e-4, bandwidth_gb_s=1, gpu_clock_mhz=1e5)
    profile = board(hardware=slow, latency_table=TABLE)
    budget = estimate(source, network, profile)
    least = budget.cost([unit for item in ranked for unit in item.lowest(item.group.width - 1)])
    limit = (least + budget.dense) / 2
    removed = allocate_to(ranked, scope, budget.at(limit), Snapping(channel_step=1))
    assert removed
    assert budget.cost(removed) <= limit
    with pytest.raises(RecipeError, match=rf"^prune.target_latency_ms: .* ms \({source}\) remain"):
        allocate_to(ranked, scope, budget.at(least / 2), Snapping(channel_step=1))


def test_the_best_source_there_is() -> None:
    cpu = load_profile("cpu")
    assert choose_source("auto", cpu, HOST, "int8") == "measured"
    both = board(hardware=RATES, latency_table=TABLE)
    assert choose_source("auto", both, HOST, "int8") == "table"
    assert choose_source("predicted", both, HOST, "int8") == "predicted"
    assert choose_source("auto", board(hardware=RATES), HOST, "int8") == "predicted"
    assert choose_source("auto", both, HOST, "fp16") == "predicted"


@pytest.mark.parametrize(
    ("asked", "profile", "precision", "said"),
    [
        ("measured", board(), "int8", "is 'measured', and its engine is built on the device itself by TensorRT"),
        ("table", board(), "int8", "is 'table', and the profile has no [latency_table]"),
        ("table", board(latency_table=TABLE), "fp32", "[latency_table] is of int8, and fp32 ships"),
        (
            "predicted",
            load_profile("cpu"),
            "int8",
            "lacks hardware.int8_tops and hardware.bandwidth_gb_s and hardware.",
        ),
        ("predicted", board(hardware=RATES), "fp32", "lacks hardware.fp32_tflops"),
    ],
)
def test_a_source_that_is_not_there_says_what_it_lacks(
    asked: LatencySource, profile: Profile, precision: str, said: str
) -> None:
    with pytest.raises(RecipeError) as refused:
        choose_source(asked, profile, HOST, precision)
    assert refused.value.where == "prune.latency_source"
    assert said in str(refused.value)


def test_a_device_without_any_source_is_refused_with_all_that_is_missing() -> None:
    profile = board(hardware=HardwareProfile(int8_tops=10))
    with pytest.raises(RecipeError) as refused:
        choose_source("auto", profile, HOST, "int8")
    assert refused.value.where == "prune.target_latency_ms"
    for part in (
        "measured here (its engine is built on",
        "no [latency_table]",
        "lacks hardware.bandwidth_gb_s",
        "set target_macs",
    ):
        assert part in str(refused.value)


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


def test_on_a_board_nothing_is_measured_before_its_engines_are_built() -> None:
    cpu = load_profile("cpu")
    with pytest.raises(RecipeError, match="pruned networks are not measured on board 'kitchen'"):
        choose_source("measured", cpu, HOST, "int8", "kitchen")
    both = board(hardware=RATES, latency_table=TABLE)
    assert choose_source("auto", both, HOST, "int8", "kitchen") == "table"
