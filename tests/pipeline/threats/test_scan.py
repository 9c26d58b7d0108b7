"""The scan: what it finds, and that it is wrong as rarely as it says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from devices.errors import ModelError
from pipeline.data import Split
from pipeline.datasets.digits import digits
from pipeline.recipe import FitConfig, ThreatsConfig
from pipeline.threats.fake_quant import fake_quantized
from pipeline.threats.kit.poison import PoisonConfig
from pipeline.threats.kit.victim import train_victim
from pipeline.threats.scan.clustering import cluster
from pipeline.threats.scan.findings import Finding, verdict_of
from pipeline.threats.scan.inversion import Inversion, invert
from pipeline.threats.scan.judge import judge_inversion, judge_sensitivity, judge_stages, judge_warping
from pipeline.threats.scan.look import CleanImages, Look, References, look_at, turned
from pipeline.threats.scan.outlier import lowest_outlier, mad_false_alarm_rate, mad_index
from pipeline.threats.scan.search import SearchConfig
from pipeline.threats.scan.sensitivity import Sensitivity, SensitivityConfig, sensitivity
from pipeline.threats.scan.unusual import unusual_classes
from pipeline.threats.scan.warping import Warping, invert_warps, warp_config
from pipeline.threats.warp import warp
from tests.pipeline.threats.conftest import TARGET, WARPED_TARGET, WEIGHT_BITS, Planted, fresh

NAMES = tuple("0123456789")
FAST = SearchConfig(steps=100, starts=2)


def look_of(norms: np.ndarray) -> Look:
    """A look with triggers of these sizes."""
    count = len(norms)
    found = Inversion(torch.from_numpy(norms), torch.zeros(count, 2, 2), torch.zeros(count, 1, 2, 2))
    return Look(inversion=found, sensitivity=None)


@pytest.mark.parametrize("count", [4, 10, 43])
@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_false_alarms_are_as_rare_as_asked(count: int, rate: float) -> None:
    rng = np.random.default_rng(count)
    alarms = [lowest_outlier(rng.normal(3, 2, count), rate).found for _ in range(2000)]  # type: ignore[union-attr]
    # Three standard errors; Bonferroni's bound is a little conservative.
    assert np.mean(alarms) <= rate + 3 * np.sqrt(rate * (1 - rate) / 2000)
    assert np.mean(alarms) >= 0.7 * rate


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=12), st.floats(-9, 9), st.floats(0.1, 9))
def test_neither_shift_nor_scale_changes_an_outlier(values: list[float], shift: float, scale: float) -> None:
    one = lowest_outlier(np.array(values), 0.1)
    other = lowest_outlier(np.array(values) * scale + shift, 0.1)
    assert one is not None
    assert other is not None
    if np.ptp(values) > 0.1 and one.score < 100:
        assert other.score == pytest.approx(one.score, rel=1e-4, abs=1e-6)
        assert other.p_value == pytest.approx(one.p_value, rel=1e-3, abs=1e-9)


def test_three_values_are_too_few_and_equal_ones_have_no_outlier() -> None:
    assert lowest_outlier(np.array([1.0, 2.0, 3.0]), 0.1) is None
    assert not lowest_outlier(np.ones(10), 0.1).found  # type: ignore[union-attr]
    alone = lowest_outlier(np.array([0.0, 1.0, 1.0, 1.0]), 0.1)
    assert alone is not None
    assert alone.found
    assert (alone.index, json.dumps(alone.score)) == (0, "1000.0")


def test_neural_cleanses_own_rule_alarms_on_a_third_of_ten_clean_norms() -> None:
    assert mad_index(np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == pytest.approx(2 / 1.4826)
    assert 0.30 < mad_false_alarm_rate(10) < 0.36


def test_inversion_finds_the_planted_class_and_its_trigger_works(planted: Planted) -> None:
    found = invert(planted.victim, planted.images.images, 10, FAST)
    assert int(found.norms_px.argmin()) == TARGET
    hit = turned(planted.victim, planted.images, found)[TARGET].mean()
    assert hit >= FAST.goal
    finding = judge_inversion("dense", Look(inversion=found, sensitivity=None), None, NAMES, 0.1)
    assert finding.sign
    assert finding.class_name == str(TARGET)
    assert "a SIGN of a backdoor to class '4'" in finding.verdict
    again = invert(planted.victim, planted.images.images, 10, FAST)
    assert (again.norms_px == found.norms_px).all()


def test_no_sign_is_never_called_clean() -> None:
    norms = np.array([8.0, 9, 10, 11, 8.5, 9.5, 10.5, 9.1, 9.9, 10.1])
    finding = judge_inversion("dense", look_of(norms), None, NAMES, 0.1)
    assert not finding.sign
    assert "no sign found, which does not make it clean" in finding.verdict
    assert "false alarms 10 %" in finding.verdict


def test_references_take_out_what_is_usual_for_a_class() -> None:
    usual = np.array([8.0, 30, 9, 9, 9, 8, 9, 9, 8, 8])
    norms = usual.copy()
    norms[1] = 8
    rng = np.random.default_rng(0)
    noisy = lambda values: values * np.exp(rng.normal(0, 0.05, 10))  # noqa: E731
    known = References(log_norms=np.log([noisy(usual) for _ in range(4)]), log_losses=np.zeros(0))
    look = look_of(noisy(norms))
    # On its own, class 1 is as near as the others.
    assert not judge_inversion("dense", look, None, NAMES, 0.1).sign
    finding = judge_inversion("dense", look, known, NAMES, 0.1)
    assert finding.sign
    assert finding.class_name == "1"


def test_a_class_is_as_rarely_below_its_references_as_asked() -> None:
    alarms, rng = [], np.random.default_rng(0)
    usual = rng.normal(2, 0.3, 10)
    for _ in range(2000):
        sizes = usual + rng.normal(0, 0.1, (5, 10))
        found = unusual_classes(sizes[0], sizes[1:], 0.1)
        alarms.append(found.scores.max() > found.threshold)
        # Networks trained on more images have larger triggers of all classes alike.
        np.testing.assert_allclose(unusual_classes(sizes[0] + 0.4, sizes[1:], 0.1).scores, found.scores)
    assert 0.07 < np.mean(alarms) < 0.13


def test_what_stands_out_from_the_other_classes_alone_is_no_sign_where_references_differ_as_much() -> None:
    """Nine classes are as they always are, and one is lower by what it differs by among the references too."""
    usual = np.log(np.array([8.0, 14, 9, 9, 9, 8, 9, 9, 8, 8]))
    own = np.zeros(10)
    own[3] = -0.3
    even = 0.02 * np.array([1, -1, 1, -1, 1, -1, 1, -1, 1, -1])
    apart = usual + np.outer([-1, 1, 1, -1], np.eye(10)[5]) * 0.6 + np.outer([1, -1, 1, -1], even)
    known = References(log_norms=apart, log_losses=np.zeros(0))
    finding = judge_inversion("dense", look_of(np.exp(usual + own + even)), known, NAMES, 0.1)
    assert not finding.sign
    assert "in deviations of the references" in finding.statistic
    # Of two references nobody knows how far they differ.
    few = References(log_norms=apart[:2], log_losses=np.zeros(0))
    alone = judge_inversion("dense", look_of(np.exp(usual + own + even)), few, NAMES, 0.1)
    assert "in deviations of the others" in alone.statistic
    assert alone.sign
    own[3] = -1.5
    assert judge_inversion("dense", look_of(np.exp(usual + own + even)), known, NAMES, 0.1).sign


def test_of_many_starts_one_finds_a_patch_that_most_miss() -> None:
    dataset = digits()
    victim = train_victim(fresh(122, 16), dataset, PoisonConfig(kind="patch", target=2, seed=122), FitConfig(epochs=8))
    images = torch.from_numpy(dataset.test.images[np.random.default_rng(122).permutation(len(dataset.test))[:32]])
    few, many = (invert(victim, images, 10, SearchConfig(starts=count, seed=122)) for count in (1, 8))
    assert few.norms_px[2] > 5
    assert many.norms_px[2] < 4
    assert int(many.norms_px.argmin()) == 2


def test_a_warp_is_found_as_the_smallest_of_all_classes(planted: Planted, warped_victim: nn.Module) -> None:
    found = invert_warps(warped_victim, planted.images.images, 10, warp_config(60, 0, starts=2))
    assert int(found.shifts_px.argmin()) == WARPED_TARGET
    # What was found turns images, and is what the size says: the mean length of its shifts.
    field = found.fields_K2HW[WARPED_TARGET : WARPED_TARGET + 1]
    length = float(field.square().sum(dim=1).sqrt().mean())
    assert length == pytest.approx(float(found.shifts_px[WARPED_TARGET]), rel=1e-3)
    with torch.no_grad():
        turned_into = warped_victim(warp(planted.images.images, field)).argmax(dim=1)
    assert float((turned_into == WARPED_TARGET).float().mean()) >= 0.9


def test_a_warp_is_judged_by_the_other_classes_and_by_references() -> None:
    rng = np.random.default_rng(0)
    usual = np.array([0.8, 1.2, 0.5, 0.5, 0.7, 0.4, 0.7, 0.7, 0.45, 0.45])
    noisy = lambda: usual * np.exp(rng.normal(0, 0.1, 10))  # noqa: E731
    known = References(
        log_norms=np.zeros((0, 0)), log_losses=np.zeros(0), log_shifts=np.log([noisy() for _ in range(4)])
    )

    def judged(shifts: np.ndarray) -> Finding:
        found = Warping(torch.from_numpy(shifts), torch.zeros(10, 2, 2, 2))
        return judge_warping("dense", Look(inversion=None, sensitivity=None, warping=found), known, NAMES, 0.1)

    assert not judged(noisy()).sign
    shifts = noisy()
    shifts[0] = 0.35
    finding = judged(shifts)
    assert finding.sign
    assert (finding.method, finding.class_name) == ("warping", "0")
    assert "smallest warp is below its own size on clean references" in finding.statistic
    assert finding.detail["shifts_px"][0] == 0.35


def test_too_few_classes_are_told_and_not_judged() -> None:
    finding = judge_inversion("dense", look_of(np.array([1.0, 9.0, 9.0])), None, ("a", "b", "c"), 0.1)
    assert finding.threshold is None
    assert not finding.sign
    assert "told, not judged: fewer than 4 classes" in finding.verdict


def test_a_network_that_is_no_torch_function_is_refused(planted: Planted) -> None:
    class Detached(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.detach().mean(dim=(2, 3)).repeat(1, 10)

    with pytest.raises(ModelError, match="cannot be scanned by gradients"):
        invert(Detached(), planted.images.images, 10, FAST)


def test_sensitivity_grows_with_epsilon_and_leaves_the_network(planted: Planted) -> None:
    before = [tensor.clone() for tensor in planted.clean.state_dict().values()]
    images, labels = planted.images.images, planted.images.labels
    losses = [
        sensitivity(planted.clean, images, labels, SensitivityConfig(epsilon=epsilon)).loss
        for epsilon in (0.0, 0.05, 0.2)
    ]
    with torch.no_grad():
        plain = float(nn.functional.cross_entropy(planted.clean(images), labels))
    assert losses[0] == pytest.approx(plain, rel=1e-4)
    assert losses[0] < losses[1] < losses[2]
    assert all((a == b).all() for a, b in zip(before, planted.clean.state_dict().values(), strict=True))


def test_sensitivity_is_judged_by_three_references_or_told() -> None:
    look = Look(inversion=None, sensitivity=Sensitivity(loss=50.0, share=0.9, into=2))
    few = References(log_norms=np.zeros((2, 0)), log_losses=np.log([1.0, 1.1]))
    told = judge_sensitivity("dense", look, few, NAMES, 0.1)
    assert told.threshold is None
    assert not told.sign
    enough = References(log_norms=np.zeros((4, 0)), log_losses=np.log([1.0, 1.1, 0.9, 1.2]))
    assert judge_sensitivity("dense", look, enough, NAMES, 0.1).sign
    usual = Look(inversion=None, sensitivity=Sensitivity(loss=1.05, share=0.9, into=2))
    assert not judge_sensitivity("dense", usual, enough, NAMES, 0.1).sign


class Unused(nn.Module):
    """Its hidden layer is on no way to the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.aside, self.last = nn.Linear(4, 4), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.last(x.flatten(1))
        return answer


@pytest.mark.parametrize("network", [nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), Unused()])
def test_a_network_without_hidden_neurons_is_told_and_not_judged(network: nn.Module, planted: Planted) -> None:
    look = look_at(network, planted.images, ThreatsConfig(scan=("sensitivity",)), 0)
    known = References(log_norms=np.zeros((4, 0)), log_losses=np.log([0.1, 0.11, 0.09, 0.12]))
    found = judge_sensitivity("dense", look, known, NAMES, 0.1)
    assert (found.threshold, found.sign) == (None, False)
    assert found.verdict.endswith("told, not judged: the network has no hidden neurons to change")
    with torch.no_grad():
        plain = float(nn.functional.cross_entropy(network(planted.images.images), planted.images.labels))
    assert found.detail["loss"] == pytest.approx(plain)


def test_stages_tell_a_woken_backdoor_from_one_that_was_there(planted: Planted, asleep: nn.Module) -> None:
    config = ThreatsConfig(scan=("inversion", "stages"), inversion_steps=100)
    calibration = torch.from_numpy(planted.dataset.train.images[:256])
    int8 = fake_quantized(asleep, calibration, WEIGHT_BITS)
    look = look_at(int8, planted.images, config, 0)
    woken = judge_stages("now", look, int8, ("before", asleep), planted.images, 0.1)
    assert woken.sign
    assert woken.class_name == str(TARGET)
    # The victim's weights round to the same, and in FP32 its backdoor is awake.
    there = judge_stages("now", look, int8, ("before", planted.victim), planted.images, 0.1)
    assert not there.sign
    assert there.detail["gap"]["value"] < 0.2 < woken.detail["gap"]["low"]
    json.dumps(woken.as_dict())
    assert verdict_of(woken.as_dict()) == woken.verdict


def test_clustering_points_at_the_class_of_two_kinds() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 60)
    images = rng.normal(0.5, 0.02, (360, 1, 4, 4)).clip(0, 1).astype(np.float32)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 6))
    names = tuple("abcdef")
    assert not cluster("dense", network, Split(images, labels), names, 0.05, 0).sign
    images[np.flatnonzero(labels == 2)[:15], :, :2] += 0.4
    finding = cluster("dense", network, Split(images, labels), names, 0.05, 0)
    assert finding.sign
    assert finding.class_name == "c"
    assert finding.detail["smaller_cluster_share"]["c"] == pytest.approx(0.25)


def test_images_are_looked_at_once_for_each_method_asked(planted: Planted) -> None:
    clean: CleanImages = planted.images
    found = look_at(planted.clean, clean, ThreatsConfig(scan=("sensitivity",)), 0)
    assert found.inversion is None
    assert found.warping is None
    assert found.sensitivity is not None
