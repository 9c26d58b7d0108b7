"""Random bit errors: how many, where, and what they cost."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from devices.errors import ModelError
from pipeline.threats.edge.bit_errors import BitErrorConfig, bit_errors, flip_bits, weights_of, with_bit_errors
from pipeline.threats.edge.intervals import crossed_mean
from pipeline.threats.edge.subject import Images, Subject


@settings(max_examples=40, deadline=None)
@given(
    rate=st.floats(0.001, 1.0),
    seed=st.integers(0, 100),
    name=st.sampled_from(["int8", "uint8", "float16", "float32"]),
)
def test_as_many_bits_are_wrong_as_the_rate_says(rate: float, seed: int, name: str) -> None:
    """Within six standard deviations of the binomial, in any type; the original keeps its bits."""
    values = np.random.default_rng(1).integers(-100, 100, (40, 50)).astype(name)
    before = values.tobytes()
    wrong = flip_bits(values, rate, np.random.default_rng(seed))
    assert values.tobytes() == before
    assert (wrong.shape, wrong.dtype) == (values.shape, values.dtype)
    turned = np.unpackbits(np.frombuffer(before, np.uint8) ^ np.frombuffer(wrong.tobytes(), np.uint8))
    expected = rate * turned.size
    assert abs(turned.sum() - expected) <= 6 * np.sqrt(max(expected * (1 - rate), 1.0)) + 1


def test_every_bit_of_a_byte_is_hit_alike() -> None:
    """At a rate of one half, each of the eight about half of the time."""
    wrong = flip_bits(np.zeros(4000, dtype=np.uint8), 0.5, np.random.default_rng(0))
    shares = np.unpackbits(wrong).reshape(-1, 8).mean(axis=0)
    assert np.all(np.abs(shares - 0.5) < 0.05)


def test_weights_alone_change_and_one_seed_gives_one_memory(pair: tuple[Subject, Subject]) -> None:
    """Biases, scales and zero points stay; another seed is another memory."""
    model = onnx.load(pair[1].onnx_path)
    names = {tensor.name for tensor in weights_of(model, "x")}
    once, again, other = (with_bit_errors(model, 0.01, seed, "x") for seed in (1, 1, 2))
    assert once == again
    assert once != other
    for before, after in zip(model.graph.initializer, once.graph.initializer, strict=True):
        same = np.array_equal(numpy_helper.to_array(before), numpy_helper.to_array(after))
        assert same == (before.name not in names)
    assert {numpy_helper.to_array(tensor).dtype.name for tensor in weights_of(model, "x")} == {"int8"}


def test_more_errors_cost_more_and_fp32_more_than_int8(pair: tuple[Subject, Subject], images: Images) -> None:
    """A wrong exponent bit is a far larger change than any of eight bits; of the first artifact there is no change."""
    config = BitErrorConfig(rates=(1e-5, 3e-3), memories=3)
    threat = bit_errors(pair, images.test, config)
    few, many, few_int8, many_int8 = threat.figures
    assert many.interval.value > few.interval.value + 0.2
    assert many.interval.value > many_int8.interval.value
    assert few.changes == ()
    (change,) = many_int8.changes
    assert change.interval.value == pytest.approx(many_int8.interval.value - many.interval.value)
    assert few_int8.changes[0].before == "dense-fp32"


def test_a_graph_without_weights_is_refused() -> None:
    """By its name."""
    node = helper.make_node("Relu", ["x"], ["y"])
    model = helper.make_model(helper.make_graph([node], "g", [], []))
    with pytest.raises(ModelError, match=r"empty\.onnx"):
        weights_of(model, "empty.onnx")


def test_the_interval_of_a_crossed_mean_covers_it() -> None:
    """Draws and images that both matter: at least 93 of 100 intervals hold the truth of 0.1."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        values = 0.1 + 0.1 * generator.standard_normal((5, 1)) + 0.2 * generator.standard_normal((1, 40))
        found = crossed_mean(values + 0.1 * generator.standard_normal((5, 40)))
        held += found.low <= 0.1 <= found.high
    assert held >= 186


def test_where_nothing_differs_the_interval_is_not_empty() -> None:
    """Nothing lost on 50 images does not say that nothing ever is."""
    found = crossed_mean(np.zeros((3, 50)))
    assert found.value == 0
    assert found.low < 0 < found.high < 0.1
    with pytest.raises(ValueError, match="shape"):
        crossed_mean(np.zeros((1, 50)))
