"""A plan of queries on an engine: judged outside, refused of what answers at random."""

from __future__ import annotations

import numpy as np

from devices.clipping import clip_linf
from devices.queries.evaluate import query_engine
from devices.queries.plan import QueryPlan
from devices.queries.square import SquareConfig, square
from tests.devices.queries.linear import Array, linear_case


def plan(epsilon: float, **more: object) -> QueryPlan:
    values = {"attacks": ("square", "hopskipjump"), "queries": 300, "samples": 8, "epsilon": epsilon, **more}
    return QueryPlan(**values)  # type: ignore[arg-type]


def test_both_attacks_are_judged_on_the_first_samples() -> None:
    model, images, labels = linear_case()
    margin = model.margins(images, "linf")
    epsilon = float(np.median(margin[:8]) * 1.5)
    told: list[tuple[float, str]] = []
    found = query_engine(
        model, images, labels, plan(epsilon), lambda done, total, text: told.append((done / total, text))
    )
    assert told == sorted(told, key=lambda row: row[0])
    assert 0 < told[0][0] < told[-1][0] <= 1
    assert len({share for share, text in told if text == "hopskipjump"}) > 2
    assert [attack.method for attack in found.attacks] == ["square", "hopskipjump"]
    assert (found.samples, found.steady) == (8, 1.0)
    for attack in found.attacks:
        assert attack.right.shape == attack.queries.shape == (8,)
        assert attack.right[margin[:8] > epsilon].all()
        assert attack.queries.max() <= 300
    crafted = square(model, images[:8], labels[:8], SquareConfig(epsilon=epsilon, queries=300))
    right = model(clip_linf(crafted.images_NCHW, images[:8], epsilon)).argmax(axis=1) == labels[:8]
    assert found.attacks[0].right.tolist() == right.tolist()


def test_what_is_wrong_when_clean_is_wrong() -> None:
    model, images, labels = linear_case()
    labels[1] = 1 - labels[1]
    found = query_engine(model, images, labels, plan(1e-6))
    for attack in found.attacks:
        assert attack.right.tolist() == [index != 1 for index in range(8)]
        assert attack.queries[1] == 1


def test_an_engine_that_answers_at_random_is_not_scored() -> None:
    _, images, labels = linear_case()
    rng = np.random.default_rng(0)

    def dice(batch: Array) -> Array:
        return rng.random((len(batch), 2), dtype=np.float32)

    found = query_engine(dice, images, labels, plan(0.1))
    assert found.attacks == ()
    assert found.steady < 0.99
    assert found.samples == 8
