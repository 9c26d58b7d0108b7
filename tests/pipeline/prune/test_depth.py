"""The order in which blocks go, what a score is, and where removal stops."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from devices.errors import ModelError, RecipeError
from pipeline.prune.blocks import find_blocks, skip_blocks
from pipeline.prune.budget import Budget, latency_budget
from pipeline.prune.depth import BlockRemoval, choose_blocks, rank_blocks
from pipeline.zoo import residual_cnn
from tests.pipeline.prune.networks import Headed, build, images
from tests.pipeline.prune.test_blocks import BATCHES, Side, made, transformer


def cross_entropy(network: nn.Module, batch: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The usual loss."""
    return functional.cross_entropy(network(batch), targets)


def scaled(scales: tuple[float, ...]) -> nn.Module:
    """A network whose blocks add so much."""
    network = residual_cnn(3, 8, len(scales), 5)
    network = made(network)
    with torch.no_grad():
        for block, scale in zip(network.blocks, scales, strict=True):  # type: ignore[arg-type]
            block.bn2.weight.fill_(scale)
    return network


def anew(network: nn.Module, *blocks: str) -> nn.Module:
    """A copy without blocks, with the statistics that its BatchNorm layers have of these images."""
    smaller = copy.deepcopy(network)
    skip_blocks(smaller, blocks)
    for norm in (item for item in smaller.modules() if isinstance(item, nn.BatchNorm2d)):
        norm.reset_running_stats()
        norm.momentum = None
    smaller.train()
    with torch.no_grad():
        for batch, _ in BATCHES:
            smaller(batch)
    return smaller.eval()


def test_blocks_that_add_least_go_first() -> None:
    network = scaled((1.0, 0.01, 3.0, 0.1))
    ranked = rank_blocks(network, tuple(f"blocks.{index}" for index in range(4)), BATCHES)
    assert [item.name for item in ranked[:2]] == ["blocks.1", "blocks.3"]
    assert {item.name for item in ranked[2:]} == {"blocks.0", "blocks.2"}
    assert 0 < ranked[0].score < 1e-3 < 10 * ranked[1].score < ranked[2].score


def test_what_is_compared_is_trained_first_and_the_network_given_stays() -> None:
    network = scaled((1.0, 0.01, 3.0, 0.1))
    before = copy.deepcopy(network.state_dict())
    trained: list[nn.Module] = []

    def tune(smaller: nn.Module) -> None:
        """Learns to do without the first block, which answers most."""
        trained.append(smaller)
        with torch.no_grad():
            if "blocks.0.bn2.weight" in dict(smaller.named_parameters()):
                smaller.get_parameter("blocks.0.bn2.weight").zero_()

    names = tuple(f"blocks.{index}" for index in range(4))
    told: list[tuple[int, int]] = []
    removal = BlockRemoval(network, names, BATCHES, None, tune, lambda done, total, _: told.append((done, total)))
    first = removal.next()
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (first.name, first.score) == ("blocks.0", 0.0)
    assert removal.next().name == "blocks.1"
    # The whole one, then all that were tried; each a copy of its own.
    assert len(trained) == 1 + 4 + 3
    assert len(set(map(id, [network, *trained]))) == 1 + len(trained)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_score_is_the_change_of_the_output_over_its_power() -> None:
    network = scaled((1.0, 0.5))
    ranked = rank_blocks(network, ("blocks.0", "blocks.1"), BATCHES)
    assert {item.name for item in ranked} == {"blocks.0", "blocks.1"}
    x = torch.cat([batch for batch, _ in BATCHES])
    for count, item in enumerate(ranked, start=1):
        smaller, whole = anew(network, *(other.name for other in ranked[:count])), anew(network)
        with torch.no_grad():
            expected = (smaller(x) - whole(x)).pow(2).sum() / whole(x).pow(2).sum()
        assert item.score == pytest.approx(float(expected), rel=1e-4)


def test_with_a_loss_the_score_is_its_rise() -> None:
    """Over images, not batches: the second has half as many. A rise may be a fall."""
    network = scaled((1.0, 0.5))
    ranked = rank_blocks(network, ("blocks.0", "blocks.1"), BATCHES, cross_entropy)
    x, labels = (torch.cat([pair[index] for pair in BATCHES]) for index in range(2))
    smaller, whole = anew(network, ranked[0].name), anew(network)
    with torch.no_grad():
        rise = cross_entropy(smaller, x, labels) - cross_entropy(whole, x, labels)
    assert ranked[0].score == pytest.approx(float(rise), rel=1e-3, abs=1e-6)


class Undoing(Headed):
    """Two blocks that undo each other: alone each costs much, together they cost nothing."""

    def __init__(self) -> None:
        super().__init__(3)
        self.layers = nn.Sequential(*(Side(nn.Sequential(nn.Conv2d(3, 3, 1, bias=False))) for _ in range(3)))
        with torch.no_grad():
            for layer, scale in zip(self.layers, (1.0, -0.5, 0.3), strict=True):
                layer.body[0].weight.copy_(scale * torch.eye(3).view(3, 3, 1, 1))

    def body(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return y


class Shifting(Headed):
    """A block that adds a constant, which the BatchNorm behind it takes off again, and one that adds a little."""

    def __init__(self) -> None:
        super().__init__(3)
        self.layers = nn.Sequential(*(Side(nn.Sequential(nn.Conv2d(3, 3, 1))) for _ in range(2)))
        self.norm = nn.BatchNorm2d(3)
        with torch.no_grad():
            for layer, scale, shift in zip(self.layers, (0.0, 0.3), (5.0, 0.0), strict=True):
                layer.body[0].weight.copy_(scale * torch.eye(3).flip(0).view(3, 3, 1, 1))
                layer.body[0].bias.fill_(shift)

    def body(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(self.layers(x))
        return y


def test_a_block_that_only_shifts_the_statistics_goes_first() -> None:
    """What recovery mends by measuring BatchNorm anew costs nothing, however far the output moves without it."""
    network = anew(Shifting())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    ranked = rank_blocks(network, ("layers.0", "layers.1"), BATCHES)
    assert ranked[0].name == "layers.0"
    assert ranked[0].score < 1e-6 < ranked[1].score
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_scores_are_taken_anew_after_each_removal() -> None:
    """Doubling and halving: once one of them is gone, the other follows for less than it cost alone."""
    network = Undoing().eval()
    names = ("layers.0", "layers.1", "layers.2")
    assert find_blocks(network, images(1)).names == names
    alone = {name: rank_blocks(network, (name,), BATCHES)[0].score for name in names}
    ranked = rank_blocks(network, names, BATCHES)
    assert ranked[0].name == "layers.2"
    last = ranked[-1]
    assert last.name in ("layers.0", "layers.1")
    assert last.score < 0.5 * alone[last.name]


def in_ms(limit: float, dense: float) -> Budget:
    """What a network may cost; what it costs is told beside it."""
    return latency_budget(limit, dense, lambda _: dense, "measured")


def test_blocks_go_until_the_cost_is_met_and_no_further() -> None:
    network = scaled((1.0, 0.01, 3.0, 0.1))
    names = tuple(f"blocks.{index}" for index in range(4))
    asked = []

    def cost(gone: tuple[str, ...]) -> float:
        asked.append(gone)
        return 10.0 - 2 * len(gone)

    chosen = choose_blocks(network, names, BATCHES, cost, in_ms(6.0, 10.0))
    assert [item.name for item in chosen] == ["blocks.1", "blocks.3"]
    # The whole, what each saves alone, and what is left after each choice.
    assert asked == [(), *((name,) for name in names), ("blocks.1",), ("blocks.1", "blocks.3")]
    assert choose_blocks(network, names, (), cost, in_ms(10.0, 10.0)) == ()


def test_a_block_is_priced_by_what_it_saves() -> None:
    """The last is missed a little more than the second, and saves fifty times as much; one that saves nothing stays."""
    network = scaled((1.0, 0.02, 0.01, 0.05))
    saves = {"blocks.0": 1.0, "blocks.1": 0.1, "blocks.2": 0.0, "blocks.3": 5.0}
    names = tuple(saves)

    def cost(gone: tuple[str, ...]) -> float:
        return 10.0 - sum(saves[name] for name in gone)

    by_score = [item.name for item in rank_blocks(network, names, BATCHES)]
    assert by_score == ["blocks.2", "blocks.1", "blocks.3", "blocks.0"]
    for limit, wanted in ((6.0, ["blocks.3"]), (4.95, ["blocks.3", "blocks.1"])):
        chosen = choose_blocks(network, names, BATCHES, cost, in_ms(limit, 10.0))
        assert [item.name for item in chosen] == wanted


def test_a_cost_that_cannot_be_met_names_the_nearest() -> None:
    """As the recipe states it: of a share the nearest share."""
    network, names = scaled((1.0, 0.5)), ("blocks.0", "blocks.1")
    with pytest.raises(RecipeError) as said:
        choose_blocks(network, names, BATCHES, lambda gone: 9.0 - len(gone), in_ms(6.5, 9.0))
    assert said.value.where == "prune.target_latency_ms"
    without = "cannot be met by removing blocks: without all 2 that can go"
    assert f"6.5 {without}, 7 ms (measured) remain. Set it to 7 or more" in str(said.value)
    share = Budget(key="prune.target_macs", unit="MACs", dense=9.0, limit=6.0, cost=lambda _: 9.0, share=0.7)
    with pytest.raises(RecipeError) as said:
        choose_blocks(network, names, BATCHES, lambda gone: 9.0 - len(gone), share)
    assert f"prune.target_macs: 0.7 {without}, 0.778 of the MACs remain. Set it to 0.778 or more" in str(said.value)


def test_ranking_without_images_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"^prune\.criterion_samples: smaller networks are compared"):
        rank_blocks(build("residual"), ("blocks.0",), ())


def test_what_fails_on_the_images_is_named() -> None:
    with pytest.raises(ModelError, match=r"does not run on training images: .*no_such_thing"):
        rank_blocks(build("residual"), ("blocks.0",), BATCHES, lambda network, x, _: network(x).no_such_thing())
    with pytest.raises(ModelError, match=r"does not run on training images without 1\.layers\.0: .*self_attn"):
        rank_blocks(transformer(post=True), ("1.layers.0",), BATCHES)
