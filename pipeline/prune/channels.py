"""Pruning of channels, neurons and heads: trace, group, rank, allocate, cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from devices.errors import ModelError, RecipeError
from pipeline.prune.allocate import Damaged, Ranked, Snapping, allocate_to
from pipeline.prune.budget import Budget, macs_budget, parameters_budget, size_budget
from pipeline.prune.criteria.base import CriterionInputs
from pipeline.prune.criteria.select import score_groups
from pipeline.prune.damage import Damage
from pipeline.prune.groups import Group, Grouping, LeftOut, Unit, find_groups, plan_for
from pipeline.prune.latency import allocate_to_latency
from pipeline.prune.network import copy_network
from pipeline.prune.pruning import Change, Pruning
from pipeline.prune.ratio import shares_of, shares_of_study, units_at
from pipeline.prune.replay import apply_plan
from pipeline.prune.schedule import limit_at, share_at
from pipeline.prune.size import count_macs, count_parameters
from pipeline.prune.trace import Trace, trace_network
from pipeline.recipe import PruneConfig

_SAID = 4
_FINEST_STEP = 8
"""No device of a profile works on fewer channels at a time."""


@dataclass(frozen=True)
class Ranking:
    """Groups that may be pruned, with the scores of their units."""

    grouping: Grouping
    ranked: tuple[Ranked, ...]
    fallback: tuple[str, ...]
    """Groups that the criterion does not apply to; l2 ranks them."""
    snapping: Snapping


def rank_groups(config: PruneConfig, pruning: Pruning) -> Ranking:
    """Find, prove and score the groups of the recipe's kinds. Raises `ModelError` when there is none."""
    network, image = pruning.network, pruning.image_NCHW
    grouping = _of_kinds(find_groups(network, trace_network(network, image), image, config.ignore), config)
    if not grouping.groups:
        reasons = sorted({item.reason for item in grouping.left_out})
        raise ModelError("prune", f"nothing in this network can be pruned: {'; '.join(reasons)}", "Remove [prune]")
    inputs = CriterionInputs(network, grouping.groups, pruning.batches, pruning.loss, pruning.seed, pruning.learned)
    scores = score_groups(config.criterion, inputs)
    ranked = tuple(Ranked(group, values) for group, values in zip(grouping.groups, scores.values, strict=True))
    snapping = Snapping(
        channel_step=pruning.channel_step,
        min_channels=config.min_channels,
        dense_widths={group.name: _dense_width(pruning, group) for group in grouping.groups},
    )
    return Ranking(grouping, ranked, scores.fallback, snapping)


def prune_channels(config: PruneConfig, pruning: Pruning) -> Change:
    """Remove the units of least score until this step's share of the target is met.

    A target that cannot be met at the device's step, as of a narrow network, is met at half of it or a quarter: the
    device gains less from such widths, and what is told says at which step it was. Raises `RecipeError` when the
    target cannot be met, `ModelError` when nothing can be pruned.
    """
    ranking = rank_groups(config, pruning)
    left_out = ranking.grouping.left_out
    try:
        removed, told = choose_units(config, pruning, ranking)
    except RecipeError as error:
        # Widths of the recipe's own or of a search are no target that what is left out could be in the way of.
        if pruning.widths or config.target in ("keep", "keep_ratio"):
            raise
        left = "; ".join(f"{item.tensor}: {item.reason}" for item in left_out[:_SAID])
        what = f"{error.what}. Not pruned are {left}" if left else error.what
        raise RecipeError(error.where, what, f"{error.fix}, or ignore less" if config.ignore else error.fix) from error
    plan = plan_for(pruning.network, removed)
    smaller = copy_network(pruning.network)
    apply_plan(smaller, plan)
    gone = {unit.label for unit in removed}
    groups = [
        {
            "name": item.group.name,
            "kind": item.group.kind,
            "width_before": _dense_width(pruning, item.group),
            "width_after": sum(unit.label not in gone for unit in item.group.units),
        }
        for item in ranking.ranked
    ]
    rows = [{"tensor": item.tensor, "channels": item.channels, "reason": item.reason} for item in left_out]
    return Change(plan, smaller, rows, told | {"score_fallback": list(ranking.fallback), "groups": groups})


def _of_kinds(grouping: Grouping, config: PruneConfig) -> Grouping:
    """The groups that the recipe wants pruned."""
    wanted = tuple(group for group in grouping.groups if group.kind in config.kinds)
    rest = [
        LeftOut(group.name, group.width, f"the recipe's prune.kinds leave out {group.kind}")
        for group in grouping.groups
        if group.kind not in config.kinds
    ]
    return Grouping(wanted, (*grouping.left_out, *rest), grouping.trace)


def _dense_width(pruning: Pruning, group: Group) -> int:
    """Width of a group before the first step of the schedule: the tensors that it cuts have shrunk with it."""
    now = dict(pruning.network.named_parameters()) | dict(pruning.network.named_buffers())
    then = dict(pruning.whole.named_parameters()) | dict(pruning.whole.named_buffers())
    slices = group.units[0].slices
    own = [part for part in slices if part.tensor == group.name] or slices
    # The tensor that names it may hold other groups, which have shrunk otherwise.
    alone = [part for part in slices if now[part.tensor].shape[part.dim] == group.width]
    item = (alone or own)[0]
    lengths = (then[item.tensor].shape[item.dim], now[item.tensor].shape[item.dim])
    return round(group.width * lengths[0] / lengths[1])


def choose_units(config: PruneConfig, pruning: Pruning, ranking: Ranking) -> tuple[list[Unit], dict[str, object]]:
    """Units that go in this step, and what is told about the budget.

    At the device's channel step, or the next finer one at which the target can be met. Raises `RecipeError`, of the
    finest, when there is none.
    """
    shares = _end_shares(config, pruning, ranking.ranked)
    budget = budget_of(config, pruning, ranking.grouping.trace) if shares is None else None
    # An engine is built for each try of milliseconds that are measured.
    measured = budget is not None and budget.source == "measured"
    step = pruning.channel_step
    while True:
        finer = replace(ranking, snapping=replace(ranking.snapping, channel_step=step))
        try:
            if shares is not None:
                removed, told = _to_shares(config, pruning, finer, shares)
            else:
                assert budget is not None
                removed, told = _to_budget(config, pruning, finer, budget)
            return removed, told | {"channel_step": step, "device_step": pruning.channel_step}
        except RecipeError:
            if measured or step // 2 < _FINEST_STEP:
                raise
            step //= 2


def _end_shares(config: PruneConfig, pruning: Pruning, ranked: Sequence[Ranked]) -> list[float] | None:
    """Share that each group keeps in the end, where a search or the recipe says so; None where there is a budget."""
    if pruning.widths:
        return shares_of_study(ranked, pruning.widths)
    ratio = config.keep or config.keep_ratio
    return None if ratio is None else shares_of(ranked, ratio)


def _to_shares(
    config: PruneConfig, pruning: Pruning, ranking: Ranking, shares: Sequence[float]
) -> tuple[list[Unit], dict[str, object]]:
    """Units that go in this step where widths are asked for, each group on its way from its dense width to the share
    of it that it is to keep."""
    ranked, snapping = ranking.ranked, ranking.snapping
    gone = share_at(config, pruning.step)
    now = [
        (1 - gone * (1 - end)) * _dense_width(pruning, item.group) / item.group.width
        for item, end in zip(ranked, shares, strict=True)
    ]
    return units_at(ranked, now, snapping), {"share_of_removal": gone}


def _to_budget(
    config: PruneConfig, pruning: Pruning, ranking: Ranking, budget: Budget
) -> tuple[list[Unit], dict[str, object]]:
    """Units that go in this step until its share of the budget is met, and what is told about it."""
    ranked, snapping, trace = ranking.ranked, ranking.snapping, ranking.grouping.trace
    limited = budget.at(limit_at(config, budget, pruning.step))
    told: dict[str, object] = {"limit": limited.limit, "unit": budget.unit, "latency_source": budget.source}
    damage = _damage_without(pruning, ranking) if config.scope == "sensitivity" else None
    if budget.source != "measured":
        removed = allocate_to(ranked, config.scope, limited, snapping, damage)
        return removed, told | {"reached": budget.cost(removed)}
    found = allocate_to_latency(ranked, config.scope, limited, macs_budget(trace, 1.0), snapping, damage)
    probes = [{"macs": int(probe.proxy), "latency_ms": probe.latency_ms} for probe in found.probes]
    return list(found.chosen.removed), told | {"reached": found.chosen.latency_ms, "probes": probes}


def _damage_without(pruning: Pruning, ranking: Ranking) -> Damaged:
    """The damage to the network without some units, each set of them tried once."""
    damage = Damage(pruning.network, pruning.batches, pruning.loss)
    # Few steps are looked at more than twice on the way down; how many nobody knows.
    most = 2 * sum(len(ranking.snapping.choices(item.group)) for item in ranking.ranked)
    known: dict[frozenset[int], float] = {}

    def without(removed: Sequence[Unit]) -> float:
        key = frozenset(unit.label for unit in removed)
        if key not in known:
            smaller = copy_network(pruning.network)
            apply_plan(smaller, plan_for(pruning.network, removed))
            known[key] = damage.of(smaller)
            pruning.progress(min(len(known), most), most, f"{len(known)} networks tried")
        return known[key]

    return without


def budget_of(config: PruneConfig, pruning: Pruning, trace: Trace) -> Budget:
    """The recipe's target, counted on the network that this step begins with; `trace` is of it."""
    network, whole = pruning.network, pruning.whole
    match config.target:
        case "target_macs":
            assert config.target_macs is not None
            return macs_budget(trace, config.target_macs, count_macs(whole, pruning.image_NCHW))
        case "target_parameters":
            assert config.target_parameters is not None
            return parameters_budget(network, config.target_parameters, count_parameters(whole))
        case "target_size_bytes":
            assert config.target_size_bytes is not None
            dense_bytes = size_budget(whole, config.target_size_bytes, pruning.precision).dense
            return replace(size_budget(network, config.target_size_bytes, pruning.precision), dense=dense_bytes)
        case _:
            assert config.target_latency_ms is not None
            assert pruning.latency is not None
            return pruning.latency.budget(config.target_latency_ms, network, whole, pruning.image_NCHW, trace)
