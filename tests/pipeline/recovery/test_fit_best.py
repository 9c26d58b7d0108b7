"""The weights that training ends with: the average, or the best of all epochs, and what the report says of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.compute import derived_seed
from pipeline.recipe import ObjectiveConfig
from pipeline.recovery.batches import set_aside
from tests.pipeline.recovery.examples import ADVERSARIAL, PLAIN, few, fresh, noisy, same_bits, state, train


def test_it_ends_with_the_average() -> None:
    """Of four steps, by hand from the weights after each, the share of the old rising from a tenth."""
    walked: list[dict[str, torch.Tensor]] = []
    plain = noisy()
    train(plain, progress=lambda *_: walked.append(state(plain)), epochs=1)
    walked.append(state(plain))
    averaged = noisy()
    train(averaged, epochs=1, ema_decay=0.2)
    expected = walked[0]["5.weight"].double()
    for updates, after in enumerate(walked[1:]):
        old = min(0.2, (1 + updates) / (10 + updates))
        expected = old * expected + (1 - old) * after["5.weight"].double()
    assert torch.allclose(averaged.state_dict()["5.weight"].double(), expected, atol=1e-6)
    # Buffers are not averaged.
    assert torch.equal(averaged.state_dict()["1.running_mean"], plain.state_dict()["1.running_mean"])


def test_it_stops_when_nothing_gets_better_and_ends_with_the_best() -> None:
    """At a rate that wrecks the network after a good start of its own."""
    network = noisy()
    train(network, split=few(600), epochs=6)
    report = train(
        network,
        split=few(600),
        seed=1,
        epochs=30,
        learning_rate=3.0,
        patience=3,
        validation_share=0.3,
        checkpoints=None,
    )
    scores = report.validation_accuracy_by_epoch
    assert report.stopped_early
    assert report.epochs_run == len(scores) == len(report.loss_by_epoch) < 30
    assert report.best_epoch == scores.index(max(scores)) + 1 == report.epochs_run - 3


class Tied(nn.Module):
    """One weight by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.body = noisy()
        self.head = nn.Linear(10, 10)
        self.again = self.head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.again(self.head(self.body(images)))
        return logits


def test_the_best_average_of_a_tied_parameter_is_what_it_ends_with() -> None:
    """Of one epoch, which is the best there is: the average that a training without validation ends with."""
    validated, plain = Tied(), Tied()
    plain.load_state_dict(validated.state_dict())
    split = few(200)
    train(validated, split=split, epochs=1, ema_decay=0.8, keep_best=True, validation_share=0.25)
    train(plain, split=set_aside(split, 0.25, 0)[0], epochs=1, ema_decay=0.8)
    assert same_bits(state(validated), state(plain))


@pytest.mark.parametrize("decay", [None, 0.8])
@pytest.mark.parametrize("objective", [PLAIN, ADVERSARIAL], ids=["plain", "adversarial"])
def test_the_best_weights_score_what_the_report_says(objective: ObjectiveConfig, decay: float | None) -> None:
    """Counted again by a metric of the caller's; under an adversary the clean score is noted beside the robust one."""
    shown: list[tuple[int, float]] = []

    def metric(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        score = (outputs.argmax(1) == targets).float().mean()
        shown.append((len(targets), float(score)))
        return score

    network = fresh()
    report = train(network, objective, epochs=3, patience=3, validation_share=0.25, metric=metric, ema_decay=decay)
    scores = [score for _, score in shown]
    beside = scores[::2] if objective.attacked else []
    assert [count for count, _ in shown] == [50] * (3 + len(beside))
    assert report.validation_accuracy_by_epoch == pytest.approx(scores[1::2] if beside else scores)
    assert report.clean_validation_accuracy_by_epoch == pytest.approx(beside)
    order = np.random.default_rng(derived_seed(0, 1)).permutation(200)[:50]
    with torch.no_grad():
        answers = network(torch.from_numpy(few().images[order])).argmax(1).numpy()
    clean = float((answers == few().labels[order]).mean())
    assert report.best_epoch is not None
    told = report.clean_validation_accuracy_by_epoch or report.validation_accuracy_by_epoch
    assert clean == pytest.approx(told[report.best_epoch - 1])
