"""Rules of single operations: channels before and after, and what each rule refuses to follow.

Each case is a function between two convolutions of six channels; `kept` says whether the first can still be pruned.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.prune.groups import Unit, find_groups, plan_for
from pipeline.prune.macs import macs_counter
from pipeline.prune.replay import apply_plan
from pipeline.prune.size import count_macs
from pipeline.prune.trace import trace_network
from tests.pipeline.prune.networks import images

Body = Callable[[torch.Tensor], torch.Tensor]


class Between(nn.Module):
    """A convolution, a function, and a layer that reads as many channels as the function gives."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.body = body
        with torch.no_grad():
            shape = body(functional.relu(self.first(images(1)))).shape
        self.last = nn.Conv2d(shape[1], 5, 1) if len(shape) == 4 else nn.Linear(shape[-1], 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 5)."""
        y: torch.Tensor = self.last(self.body(functional.relu(self.first(x))))
        return y.mean(dim=(2, 3)) if y.ndim == 4 else y


FOLLOWED: dict[str, Body] = {
    "square root of a square": lambda x: (x * x + 1).sqrt() - 1,
    "one minus": lambda x: 1 - x,
    "in place": lambda x: x.add_(1).mul_(2).relu_(),
    "clamp": lambda x: x.clamp(0, 1).clamp_min(0.5),
    "to another type and back": lambda x: x.double().float(),
    "maximum of two views": lambda x: torch.maximum(x, x * 0.5),
    "broadcast over pixels": lambda x: x + x.mean(dim=(2, 3), keepdim=True),
    "broadcast by expand": lambda x: x + x.mean(dim=(2, 3), keepdim=True).expand(-1, -1, 8, 8),
    "flattened pixels": lambda x: x.flatten(1),
    "flattened and split again": lambda x: x.flatten(1).view(-1, x.shape[1], 8, 8),
    "channels last and back": lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "a dimension put in and out": lambda x: x.unsqueeze(2).squeeze(2),
    "squeeze of everything short": lambda x: functional.adaptive_avg_pool2d(x, 1).squeeze(),
    "repeated along pixels": lambda x: torch.cat([x, x], dim=3),
    "joined to itself": lambda x: torch.cat([x, x * 2], dim=1),
    "joined to the empty vector": lambda x: torch.cat([x, torch.zeros(0)], dim=1),
    "joined to a constant": lambda x: torch.cat([torch.ones(len(x), 2, 8, 8), x], dim=1),
    "padded around pixels": lambda x: functional.pad(x, (1, 2, 0, 1)),
    "padded channels": lambda x: functional.pad(x, (0, 0, 0, 0, 1, 2)),
    "cropped pixels": lambda x: x[:, :, 1:7, ::2],
    "all of a slice": lambda x: x[:, 0:],
    "reflected at the edges": lambda x: functional.pad(x, (1, 1, 1, 1), mode="reflect"),
    "max pooling": lambda x: functional.max_pool2d(x, 3, 2, padding=1),
    "max pooling to a size": lambda x: functional.adaptive_max_pool2d(x, 3),
    "average to a size": lambda x: functional.adaptive_avg_pool2d(x, (3, 2)),
    "larger": lambda x: functional.interpolate(x, scale_factor=2.0),
    "larger and smooth": lambda x: functional.interpolate(x, size=(9, 9), mode="bilinear"),
    "largest pixel": lambda x: x.amax(dim=(2, 3)),
    "sum by rows": lambda x: x.sum(2).sum(dim=-1),
    "transposed to tokens": lambda x: x.flatten(2).transpose(1, 2).mean(dim=1),
    "dropout": lambda x: functional.dropout2d(functional.dropout(x, training=False), training=False),
    "backwards": lambda x: x.flip(1),
    "stacked and added": lambda x: torch.stack([x, x * 2], 1).sum(1),
    "repeated in a row": lambda x: x.repeat(1, 2, 1, 1),
    "rolled pixels": lambda x: x.roll((1, 2), (2, 3)),
    "where it is large": lambda x: torch.where(x > 0.1, x, x * 0.5).masked_fill(x > 2, 0.0),
    "sampled on a grid": lambda x: functional.grid_sample(
        x, torch.zeros(len(x), 4, 4, 2), align_corners=False, padding_mode="border"
    ),
    "to windows and back": lambda x: functional.fold(functional.unfold(x, 2, stride=2), (8, 8), 2, stride=2),
    "channels of three dimensions": lambda x: functional.avg_pool3d(x.unsqueeze(2), (1, 2, 2)).squeeze(2),
    "length of pixels": lambda x: functional.normalize(x.flatten(2), dim=2).flatten(1),
    "squared by a product": lambda x: torch.einsum("nchw,nchw->nc", x, x),
    "spread and largest": lambda x: torch.cat([x.var((2, 3)), x.flatten(2).max(2).values], 1),
    "normalized per channel": lambda x: functional.batch_norm(x, None, None, training=True),
}
PINNED: dict[str, tuple[Body, str]] = {
    "sum over channels": (lambda x: x.sum(1, keepdim=True), "no other layer reads it"),
    "sorted": (lambda x: x.sort(dim=1).values, "operation 'sort' is not followed"),
    "one channel": (lambda x: x[:, 3].unsqueeze(1), "single indices of it are taken"),
    "some channels": (lambda x: x[:, 1:4], "it is sliced at fixed positions"),
    "added to a constant": (
        lambda x: x + torch.ones(6, 1, 1) if x.shape[1] == 6 else x,
        "it meets a tensor that cannot shrink",
    ),
    "channels into pixels": (lambda x: x.view(-1, 2, 3, 8, 8)[:, :, 0], "single indices of it are taken"),
    "cut by padding": (lambda x: functional.pad(x, (0, 0, 0, 0, -1, 0)), "operation 'constant_pad_nd' is not followed"),
    "channels pooled": (
        lambda x: functional.max_pool2d(x.permute(0, 2, 1, 3), 2).permute(0, 2, 1, 3),
        "it is pooled over",
    ),
    "squeezed in place": (
        lambda x: functional.adaptive_avg_pool2d(x, 1).squeeze_(3).squeeze_(2),
        "operation 'squeeze' is not followed",
    ),
    "channels by channels": (
        lambda x: torch.bmm(x.flatten(2), x.flatten(2).transpose(1, 2)).flatten(1),
        "two prunable dimensions are merged by a reshape",
    ),
    "layer normalization without a scale": (
        lambda x: functional.layer_norm(x.mean(dim=(2, 3)), (6,)),
        "the network does not run without it: Given normalized_shape=[6]",
    ),
    "added to a product of matrices": (
        lambda x: torch.addmm(x.mean((2, 3)), torch.ones(len(x), 4), torch.ones(4, 6)),
        "it is added to a product of matrices",
    ),
    "written into a constant": (
        lambda x: torch.zeros(len(x), 6, 8, 8).copy_(x),
        "it meets a tensor that cannot shrink",
    ),
    "halves of a written length": (
        lambda x: x[:, :3],
        "weight of size [5, 2, 1, 1], expected input[2, 3, 8, 8]",
    ),
    "rolled": (lambda x: x.roll(1, 1), "it is rolled by a fixed number"),
    "looked up": (lambda x: x[:, torch.tensor([0, 2])], "single indices of it are taken"),
    "looked up by a mask": (lambda x: x[x > -1].view(x.shape), "operation 'index' is not followed"),
    "windows of channels": (lambda x: x.unfold(1, 2, 2).sum(-1), "it is cut into windows"),
    "seen as other numbers": (lambda x: x.view(torch.int16).float().sum((2, 3)), "to (2, 6, 8, 16) is not followed"),
}


# Units of the first convolution, and whether removing one is zeroing it.
COUPLED: dict[str, tuple[Body, int, bool]] = {
    "mean of everything": (lambda x: x * x.mean(), 6, False),
    "softmax": (lambda x: x.softmax(1), 6, False),
    "largest of channels": (lambda x: x * x.amax(1, keepdim=True), 6, False),
    "length of channels": (lambda x: functional.normalize(x, dim=1), 6, True),
    "halves": (lambda x: x.chunk(2, dim=1)[0], 3, True),
    "half of what there is": (lambda x: x[:, : x.shape[1] // 2], 3, True),
    "gated": (lambda x: functional.glu(x, 1), 3, True),
    "shuffled": (lambda x: functional.channel_shuffle(x, 2), 3, True),
    "group normalization": (lambda x: functional.group_norm(x, 2), 3, False),
    "one group of a normalization": (lambda x: functional.group_norm(x, 1), 6, False),
    "added to itself in groups": (lambda x: x.view(len(x), 2, -1, 8, 8).sum(1), 3, True),
}


@pytest.mark.parametrize("case", COUPLED)
def test_channels_go_in_groups_or_change_what_is_averaged(case: str) -> None:
    body, units, exact = COUPLED[case]
    network = Between(body).eval()
    trace = trace_network(network, images(1))
    groups = find_groups(network, trace, images(1), ()).groups
    (group,) = (group for group in groups if group.name == "first.weight")
    assert (group.width, group.exact) == (units, exact)
    gone = [group.units[1]]
    smaller = Between(body).eval()
    smaller.load_state_dict(network.state_dict())
    apply_plan(smaller, plan_for(network, gone))
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        answered = smaller(images(4))
        for item in gone[0].slices:
            parameters[item.tensor].select(item.dim, item.index).zero_()
        expected = network(images(4))
    assert answered.shape == (4, 5)
    assert torch.allclose(answered, expected, atol=1e-5) or not exact
    assert count_macs(smaller, images(1)) == macs_counter(trace)(gone)


@pytest.mark.parametrize("case", FOLLOWED)
def test_channels_are_followed_through(case: str) -> None:
    """The first convolution can be pruned, and without a channel the rest runs as if it had given zeros."""
    network = Between(FOLLOWED[case]).eval()
    trace = trace_network(network, images(1))
    groups = find_groups(network, trace, images(1), ()).groups
    (group,) = (group for group in groups if group.name == "first.weight")
    assert group.width == 6
    gone = [group.units[1], group.units[4]]
    plan = plan_for(network, gone)
    expected = silenced(network, gone)
    apply_plan(network, plan)
    with torch.no_grad():
        assert torch.allclose(network(images(4)), expected, atol=1e-5)
    assert count_macs(network, images(1)) == macs_counter(trace)(gone)


def silenced(network: Between, gone: list[Unit]) -> torch.Tensor:
    """Answers when the last layer does not read these units."""
    kept = network.last.weight.detach().clone()
    with torch.no_grad():
        for unit in gone:
            for item in unit.slices:
                if item.tensor == "last.weight":
                    network.last.weight.select(item.dim, item.index).zero_()
        answers: torch.Tensor = network(images(4))
        network.last.weight.copy_(kept)
    return answers


@pytest.mark.parametrize("case", PINNED)
def test_channels_stay_and_the_reason_is_given(case: str) -> None:
    body, reason = PINNED[case]
    network = Between(body).eval()
    found = find_groups(network, trace_network(network, images(1)), images(1), ())
    assert not found.groups
    reasons = {item.reason for item in found.left_out if item.tensor == "first.weight"}
    assert any(reason in given for given in reasons), reasons


def test_attention_is_counted_in_one_piece_and_in_many() -> None:
    """Scores and weighted values: 2 x heads x positions^2 x depth, whichever kernel runs."""

    def fused(x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).view(-1, 2, 3, 64).transpose(2, 3)
        return functional.scaled_dot_product_attention(tokens, tokens, tokens).flatten(1)

    def plain(x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).view(-1, 2, 3, 64).transpose(2, 3)
        return ((tokens @ tokens.transpose(2, 3)).softmax(3) @ tokens).flatten(1)

    counts = {count_macs(Between(body).eval(), images(1)) for body in (fused, plain)}
    assert counts == {6 * 27 * 64 + 2 * 2 * 64 * 64 * 3 + 384 * 5}
