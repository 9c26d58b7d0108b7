"""Layers that stay in higher precision: the guilty are found, no more than needed, at the least cost, in data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.engines.base import Outputs
from devices.errors import DataError, ModelError, ParityError, RecipeError
from devices.files import canonical_json
from exporters.layers import layer_costs
from exporters.mixed import JUDGE_IMAGES, MixedConfig, choose_fp8_layers, choose_int8_layers
from exporters.mixed_choice import LayerHarm, MixedChoice, mixed_lines
from exporters.mixed_search import Search
from exporters.mixed_trials import Figures, images_apart
from exporters.parity import Parity
from exporters.quantize import convert_int8
from exporters.quantize_options import QuantizeOptions
from tests.exporters.parts import samples
from tests.exporters.quantize_parts import LOOSE, transformer

PRODUCTS = QuantizeOptions(operators="products")


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of one row are a hundred times the others in what reads a normalization, so by a scale the others vanish:
    `wide` and `value` suffer most of all.
    """
    return transformer(tmp_path_factory.mktemp("mixed") / "t.onnx", 20, outlier=0.01)


def choose(source: Path, budget: Mapping[str, Any], options: QuantizeOptions = PRODUCTS, **more: Any) -> MixedChoice:
    """Calibrated on some images and judged on others."""
    config = MixedConfig(**budget)
    return choose_int8_layers(source, samples(64), samples(48, 1), "signed", 8, config, 1, options, None, **more)


@pytest.mark.parametrize("sensitivity", ["alone", "restored"])
def test_the_fewest_layers_that_hold_the_budget_stay(fragile: Path, tmp_path: Path, sensitivity: str) -> None:
    """Without any one of them it does not hold, and the graph made of the choice has the figures that it names."""
    choice = choose(fragile, {"min_sqnr_db": 30, "sensitivity": sensitivity})
    assert not choice.curve[0].holds
    assert choice.chosen.holds
    assert choice.chosen.sqnr_db >= 30
    assert choice.kept == ("node_value", "node_wide")
    keep = QuantizeOptions(operators="products", keep=choice.kept)
    done = convert_int8(fragile, tmp_path / "q.onnx", samples(64), samples(48, 1), "signed", 8, LOOSE, 1, None, keep)
    assert done.parity.sqnr_db == pytest.approx(choice.chosen.sqnr_db, abs=1e-6)
    for name in choice.kept:
        fewer = QuantizeOptions(operators="products", keep=tuple(set(choice.kept) - {name}))
        less = convert_int8(
            fragile, tmp_path / "q.onnx", samples(64), samples(48, 1), "signed", 8, LOOSE, 1, None, fewer
        )
        assert less.parity.sqnr_db < 30


def test_the_spoiled_layers_lead_the_table_of_harms(fragile: Path) -> None:
    choice = choose(fragile, {"min_sqnr_db": 10})
    assert {harm.layer for harm in choice.harms[:2]} == {"node_wide", "node_value"}
    assert [harm.noise for harm in choice.harms] == sorted((harm.noise for harm in choice.harms), reverse=True)
    assert {harm.layer for harm in choice.harms} == {harm.layer for harm in choose(fragile, {"min_sqnr_db": 5}).harms}
    for harm in choice.harms:
        assert harm.noise == pytest.approx(10 ** (-harm.sqnr_db / 10))


def test_a_budget_that_holds_at_once_keeps_nothing(fragile: Path) -> None:
    choice = choose(fragile, {"min_sqnr_db": -20})
    assert choice.kept == ()
    assert len(choice.curve) == 1


def test_costs_steer_what_stays(fragile: Path) -> None:
    """One of the two guilty layers is enough; which it is, is a matter of what it costs."""
    for dear, cheap in (("node_wide", "node_value"), ("node_value", "node_wide")):
        costs = {harm.layer: 1.0 for harm in choose(fragile, {"min_sqnr_db": 5}).harms} | {dear: 5.0}
        choice = choose(fragile, {"min_sqnr_db": 25}, costs=costs)
        assert choice.kept == (cheap,)
        assert choice.chosen.cost == 1
    with pytest.raises(ModelError, match="layer costs: none is given for 'node_patches'"):
        choose(fragile, {"min_sqnr_db": 24}, costs={"node_wide": 1.0})


def test_multiply_accumulates_are_a_cost(fragile: Path) -> None:
    """Those of each layer for one image, as prediction counts them."""
    choice = choose(fragile, {"min_sqnr_db": 5, "cost": "macs"})
    macs = {layer.name: layer.macs for layer in layer_costs(fragile).layers}
    assert {harm.layer: harm.cost for harm in choice.harms} == {harm.layer: macs[harm.layer] for harm in choice.harms}
    assert len({harm.cost for harm in choice.harms}) > 1


def test_a_score_is_a_budget_too(fragile: Path) -> None:
    """Accuracy on labels that the network itself gave before quantization, so 1 at first."""
    labels: list[np.ndarray] = []

    def score(outputs: Outputs) -> float:
        answers = np.asarray(outputs).argmax(axis=1)
        if not labels:
            labels.append(answers)
        return float((answers == labels[0]).mean())

    choice = choose(fragile, {"max_score_drop": 0.0}, score=score)
    assert choice.reference_score == 1
    assert choice.chosen.score == 1
    assert choice.curve[0].score is not None
    with pytest.raises(RecipeError, match="max_score_drop: is set, and nothing scores"):
        choose(fragile, {"max_score_drop": 0.1})


def test_fp8_chooses_alike(fragile: Path) -> None:
    config = MixedConfig(min_sqnr_db=30)
    choice = choose_fp8_layers(fragile, samples(64), samples(48, 1), config, 1, PRODUCTS, None)
    assert choice.chosen.holds
    assert not {"node_scores", "node_mixed"} & {harm.layer for harm in choice.harms}


def test_what_is_kept_already_stays(fragile: Path) -> None:
    options = QuantizeOptions(operators="products", keep=("node_logits",))
    choice = choose(fragile, {"min_sqnr_db": 20}, options)
    assert "node_logits" in choice.kept
    assert "node_logits" not in {harm.layer for harm in choice.harms}


def test_the_choice_is_data_and_always_the_same(fragile: Path) -> None:
    first, second = (canonical_json(choose(fragile, {"min_sqnr_db": 30}).as_dict()) for _ in range(2))
    assert first == second
    assert json.loads(first)["judged_on"] == 48
    lines = mixed_lines(choose(fragile, {"min_sqnr_db": 30}))
    assert "of 9 layers stay in higher precision: node_" in lines[0]
    assert sum(line.endswith("kept") for line in lines) == len(json.loads(first)["kept"])


def test_bad_input_is_named(fragile: Path) -> None:
    with pytest.raises(RecipeError, match=r"mixed: has no accuracy budget. Set min_sqnr_db"):
        MixedConfig()
    with pytest.raises(RecipeError, match="max_trials: is 1"):
        MixedConfig(min_sqnr_db=1, max_trials=1)
    with pytest.raises(RecipeError, match="sensitivity: is 'both'"):
        MixedConfig(min_sqnr_db=1, sensitivity="both")  # type: ignore[arg-type]
    config = MixedConfig(min_sqnr_db=30)
    shared = np.concatenate([samples(3, 1), samples(64)[5:7]])
    with pytest.raises(DataError, match="images that judge layers: 2 of 5 are calibration images too"):
        choose_int8_layers(fragile, samples(64), shared, "signed", 8, config, 1, PRODUCTS, None)
    with pytest.raises(DataError, match="images that judge layers: are none"):
        choose_int8_layers(fragile, samples(64), samples(0), "signed", 8, config, 1, PRODUCTS, None)
    with pytest.raises(ParityError, match="mixed precision: the budget holds only with every layer"):
        choose(fragile, {"min_sqnr_db": 150})
    with pytest.raises(ParityError, match="the budget is not met with all 9 layers in higher precision"):
        choose(fragile, {"min_sqnr_db": 250})


def test_images_that_set_the_scales_judge_nothing() -> None:
    """The others do, in their order; a handful is too few."""
    calibration = samples(64)
    mixed = np.concatenate([samples(5, 1), calibration[5:7], samples(9, 1)[5:]])
    apart = images_apart(calibration, mixed, JUDGE_IMAGES)
    assert apart.tolist() == [0, 1, 2, 3, 4, 7, 8, 9, 10]
    with pytest.raises(
        DataError, match=r"images that judge layers: are 7 of 9 .*8 are needed: lower quantize.calibrat"
    ):
        images_apart(calibration, mixed[:9], JUDGE_IMAGES)


class _Additive:
    """Stands for a network whose layers add their noise up: what the search does can be checked against all choices."""

    def __init__(self, noises: list[float]) -> None:
        self._noises = {f"l{index}": noise for index, noise in enumerate(noises)}
        self.asked = 0

    def judge(self, keep: frozenset[str]) -> Figures:
        self.asked += 1
        noise = sum(noise for name, noise in self._noises.items() if name not in keep)
        parity = Parity(border="", sqnr_db=-noise, max_abs_diff=0, agreement=None, samples=1)
        return Figures(parity=parity, score=None)


@given(
    noises=st.lists(st.integers(1, 100).map(float), min_size=2, max_size=12),
    share=st.floats(0.05, 0.95),
)
@settings(deadline=None)
def test_with_equal_costs_the_search_keeps_as_few_as_possible(noises: list[float], share: float) -> None:
    """And asks no more than it may."""
    budget = share * sum(noises)
    trials = _Additive(noises)
    order = sorted(range(len(noises)), key=lambda index: -noises[index])
    harms = [
        LayerHarm(layer=f"l{index}", operation="", noise=noises[index], sqnr_db=0, score=None, cost=1.0)
        for index in order
    ]
    search = Search(trials, harms, frozenset(), lambda figures: -figures.parity.sqnr_db <= budget, 64)  # type: ignore[arg-type]
    left, fewest = sum(noises), 0
    for index in order:
        if left <= budget:
            break
        left, fewest = left - noises[index], fewest + 1
    if fewest == len(noises):
        with pytest.raises(ParityError, match="nothing would be quantized"):
            search.run()
        return
    chosen = search.run()
    assert chosen.holds
    assert len(chosen.kept) == fewest
    assert trials.asked == len(search.curve) <= 64
