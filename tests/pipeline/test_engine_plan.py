"""Which engines a device and a recipe ask for, and what is refused before anything runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from devices.detect import Host, detect_host
from devices.errors import DeviceError, EspalierError, RecipeError
from devices.profile import Precision, Profile, load_profile
from pipeline.engine_plan import engine_title, graph_of, in_order, plan_engines
from pipeline.possible import require_possible
from pipeline.recipe import QuantizeConfig, Recipe, read_recipe
from pipeline.steps.build_job import build_job
from pipeline.work import Work
from tests.drill import DRILL

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
TURING: tuple[Precision, ...] = ("fp16", "int8")


def device(*precisions: Precision, name: str = "rtx-4090", max_opset: int = 22) -> Profile:
    profile = load_profile(name)
    engine = replace(profile.engine, precisions=precisions or profile.engine.precisions, max_opset=max_opset)
    return replace(profile, engine=engine)


@pytest.mark.parametrize(
    ("profile", "asked", "built", "rest"),
    [
        (load_profile("cpu"), "int8", ("fp32", "int8"), "fp32"),
        (load_profile("cpu"), "fp32", ("fp32",), "fp32"),
        (device(), "int8", ("fp32", "fp16", "int8"), "fp16"),
        (device(), "fp8", ("fp32", "fp16", "fp8"), "fp16"),
        (device(), "fp16", ("fp32", "fp16"), "fp32"),
        (device(*TURING), "int8", ("fp16", "int8"), "fp16"),
        (device(*TURING), "fp16", ("fp16",), "fp16"),
    ],
)
def test_what_is_built(profile: Profile, asked: Any, built: tuple[str, ...], rest: str) -> None:
    """The baseline is the highest float precision of the device; FP16 is beside INT8 wherever there is any."""
    plan = plan_engines(QuantizeConfig(precision=asked), profile, 20)
    assert plan.precisions == built
    assert (plan.baseline, plan.candidate, plan.rest) == (built[0], asked, rest)


def test_before_opset_19_the_rest_stays_in_fp32() -> None:
    """A cast between quantized values and their product would part them."""
    config = QuantizeConfig(precision="int8")
    assert plan_engines(config, device(), 17).rest == "fp32"
    assert plan_engines(QuantizeConfig(precision="int8", rest="fp32"), device(), 20).rest == "fp32"
    with pytest.raises(RecipeError, match=r"quantize\.rest.*opset 17.*needs 19"):
        plan_engines(QuantizeConfig(precision="int8", rest="fp16"), device(), 17)
    with pytest.raises(RecipeError, match="computes no FP32"):
        plan_engines(config, device(*TURING), 17)


@pytest.mark.parametrize(
    ("precision", "there", "says"),
    [
        ("fp32", TURING, r"device 'rtx-4090': TensorRT-RTX computes no FP32 there .*Set quantize\.precision"),
        ("fp8", ("fp32", "fp16", "int8"), "computes no FP8"),
        ("bf16", TURING, "computes no BF16"),
        ("int8", ("int8",), "has none of fp32, fp16, bf16"),
    ],
)
def test_what_the_profile_does_not_have_is_refused(precision: Any, there: tuple[Precision, ...], says: str) -> None:
    with pytest.raises(DeviceError, match=says):
        plan_engines(QuantizeConfig(precision=precision), device(*there), 22)


def test_an_opset_that_cannot_say_the_precision_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"'bf16', which needs opset 22.*Set export\.opset to 22"):
        plan_engines(QuantizeConfig(precision="bf16"), device(), 20)
    with pytest.raises(RecipeError, match=r"'fp8', which needs opset 19.*Take fp16"):
        plan_engines(QuantizeConfig(precision="fp8"), device(max_opset=17), 17)


@given(st.sets(st.sampled_from(PRECISIONS), min_size=1), st.sampled_from(PRECISIONS), st.sampled_from([13, 19, 22]))
def test_no_plan_asks_for_what_the_device_lacks(there: set[Precision], asked: Any, opset: int) -> None:
    profile = device(*[name for name in PRECISIONS if name in there])
    try:
        plan = plan_engines(QuantizeConfig(precision=asked), profile, opset)
    except EspalierError:
        assume(False)
        return
    assert {*plan.precisions, plan.rest} <= there
    assert plan.precisions[0] == plan.baseline
    assert plan.precisions[-1] == plan.candidate == asked
    assert len(set(plan.precisions)) == len(plan.precisions)
    assert plan.candidate not in plan.rivals


def test_names_and_titles() -> None:
    plan = plan_engines(QuantizeConfig(precision="int8"), device(), 20)
    names = [f"{form}-{precision}" for form in ("compressed", "dense") for precision in reversed(plan.precisions)]
    ordered = ["dense-fp32", "dense-fp16", "dense-int8", "compressed-fp32", "compressed-fp16", "compressed-int8"]
    assert in_order(names) == ordered
    assert engine_title("dense-fp16") == "dense, FP16"
    graphs = [graph_of(name, plan) for name in ordered[:3]]
    assert graphs == ["simplified dense", "half dense-fp16", "half dense-int8"]
    cpu = plan_engines(QuantizeConfig(precision="int8"), load_profile("cpu"), 20)
    assert graph_of("dense-int8", cpu) == "quantized dense"


def work(profile: Profile, *overrides: str, host: Host | None = None) -> Work:
    recipe: Recipe = read_recipe(Path(DRILL), overrides)
    return Work(recipe, profile, host or detect_host(), "espalier run")


def test_a_budget_against_an_engine_that_is_not_built_is_refused_first() -> None:
    """On a device without FP32 there is no dense FP32 engine to be faster than."""
    turing = work(device(*TURING), "gate.min_speedup_dense_fp32=2.0")
    with pytest.raises(RecipeError, match=r"gate\.min_speedup_dense_fp32.*dense FP32.*Take min_speedup_dense"):
        require_possible(turing)
    require_possible(work(device(*TURING), "gate.min_speedup_dense=2.0"))
    with pytest.raises(RecipeError, match=r"measure\.rebuilds.*runs ONNX Runtime"):
        require_possible(work(load_profile("cpu"), "measure.rebuilds=2"))


def test_the_dla_is_asked_for_by_core_and_takes_fp16_alone() -> None:
    orin = load_profile("jetson-orin-nx-8gb")
    asked = work(orin, "engine.dla_core=0")
    require_possible(asked)
    jobs = {name: build_job(asked, name, sparse=False)["dla_core"] for name in ("fp32", "fp16", "int8")}
    assert jobs == {"fp32": None, "fp16": 0, "int8": None}
    # The DLA takes no range of batches.
    assert build_job(asked, "fp16", sparse=False)["batches"] == (1, 1, 1)
    assert build_job(asked, "int8", sparse=False)["batches"] == (1, 1, max(orin.measure.batch_sizes)) != (1, 1, 1)
    with pytest.raises(RecipeError, match=r"engine\.dla_core: .*milliseconds of pruning are of the GPU"):
        require_possible(work(orin, "engine.dla_core=0", "prune={target_latency_ms=1.0}"))
    assert build_job(work(orin), "fp16", sparse=False)["dla_core"] is None
    refused = {
        "jetson-orin-nx-8gb": r"engine\.dla_core: is 1, and a .*Orin NX.* has 1 DLA core\. Set it below 1",
        "jetson-orin-nano-8gb": r"engine\.dla_core: is 1, and .* has 0 DLA cores\. Leave it out",
        "cpu": r"engine\.dla_core: is 1, and .* has 0 DLA cores\. Leave it out",
    }
    for name, said in refused.items():
        with pytest.raises(RecipeError, match=said):
            require_possible(work(load_profile(name), "engine.dla_core=1"))
    with pytest.raises(RecipeError, match=r"engine\.dla_core: is of FP16 engines, and this run builds fp32"):
        require_possible(work(orin, "engine.dla_core=0", "quantize.precision=fp32"))


def test_a_rest_that_the_opset_keeps_in_fp32_is_said() -> None:
    """Orins are served the opset of TensorRT 8.6, the oldest that they may have; a profile for 10.3 says so itself."""
    orin = load_profile("jetson-orin-nano-8gb")
    (note,) = work(orin).plan_notes
    assert note.startswith("what is not INT8 of the INT8 engines is FP32: FP16 around INT8 needs opset 19")
    assert "jetson-orin-nano-8gb is served opset 17" in note
    newer = replace(orin, engine=replace(orin.engine, versions=("10.3",), max_opset=20))
    assert (work(newer).plan_notes, work(newer).engines.rest) == ((), "fp16")
    for quiet in (work(orin, "quantize.rest=fp32"), work(orin, "quantize.precision=fp16"), work(load_profile("cpu"))):
        assert quiet.plan_notes == ()


def test_bf16_is_exported_at_the_opset_that_has_it() -> None:
    assert work(device(), "quantize.precision=bf16").opset == 22
    assert work(device(), "quantize.precision=fp16").opset == 20


def test_an_rtx_engine_is_measured_where_its_gpu_is() -> None:
    bare = replace(detect_host(), machine="x86_64", gpus=())
    assert not work(device(), host=bare).measured
    assert work(device(), host=replace(bare, gpus=("NVIDIA GeForce RTX 4090",))).measured
    assert work(load_profile("cpu"), host=bare).measured
    named = work(device(), host=bare)
    assert (named.candidate, named.baseline) == ("compressed-int8", "dense-fp32")
    assert named.rivals == ("compressed-fp32", "compressed-fp16")
