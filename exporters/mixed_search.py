"""The search behind mixed precision: order layers by harm per cost, keep the fewest, then let go of the dispensable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from devices.errors import ParityError
from exporters.mixed_choice import LayerHarm, Trial
from exporters.mixed_trials import Figures, Trials
from exporters.quantize_layers import Layer

Holds = Callable[[Figures], bool]
# A layer that costs nothing to keep must not divide by zero; it comes first.
_LEAST_COST_SHARE = 1e-3


def measure_harms(
    trials: Trials,
    layers: Sequence[Layer],
    always: frozenset[str],
    alone: bool,
    costs: Mapping[str, float] | None,
) -> tuple[LayerHarm, ...]:
    """Harm of each layer that is not kept anyway, the most per cost first.

    `alone`: of a graph in which it alone is quantized. Otherwise: what the graph with all quantized has more than the
    one with all but this.
    """
    names = frozenset(layer.name for layer in layers)
    whole = _noise(trials.judge(always))
    found = []
    for layer in layers:
        if layer.name in always:
            continue
        figures = trials.judge(names - {layer.name} if alone else always | {layer.name})
        noise = _noise(figures) if alone else whole - _noise(figures)
        found.append(
            LayerHarm(
                layer=layer.name,
                operation=layer.operation,
                noise=noise,
                sqnr_db=figures.parity.sqnr_db,
                score=figures.score,
                cost=1.0 if costs is None else float(costs[layer.name]),
            )
        )
    least = max((harm.cost for harm in found), default=1.0) * _LEAST_COST_SHARE or 1.0
    return tuple(sorted(found, key=lambda harm: (-harm.noise / max(harm.cost, least), harm.layer)))


class Search:
    """Keeps layers until the budget holds. `curve` is what was tried."""

    def __init__(
        self, trials: Trials, harms: Sequence[LayerHarm], always: frozenset[str], holds: Holds, max_trials: int
    ) -> None:
        self._trials, self._always, self._holds, self._max = trials, always, holds, max_trials
        self._order = [harm.layer for harm in harms]
        self._costs = {harm.layer: harm.cost for harm in harms}
        self._tried: dict[frozenset[str], Trial] = {}

    @property
    def curve(self) -> tuple[Trial, ...]:
        """Trials in their order."""
        return tuple(self._tried.values())

    def run(self) -> Trial:
        """The trial to take. Raises `ParityError` when none that quantizes anything meets the budget."""
        if self._first(0).holds:
            return self._first(0)
        low, high = self._bracket()
        while high - low > 1 and len(self._tried) < self._max:
            middle = (low + high) // 2
            low, high = (low, middle) if self._first(middle).holds else (middle, high)
        chosen = self._let_go(frozenset(self._order[:high]))
        if len(chosen.kept) == len(self._order) + len(self._always):
            what = "the budget holds only with every layer in higher precision: nothing would be quantized"
            raise ParityError("mixed precision", what, "Widen it, or keep this precision")
        return chosen

    def _bracket(self) -> tuple[int, int]:
        """Counts of kept layers, the first too few, the second enough."""
        low, high = 0, 1
        while high < len(self._order) and not self._first(high).holds and len(self._tried) < self._max - 1:
            low, high = high, 2 * high
        high = min(high, len(self._order))
        if not self._first(high).holds:
            low, high = high, len(self._order)
        last = self._first(high)
        if not last.holds:
            what = f"the budget is not met with all {len(self._order)} layers in higher precision"
            raise ParityError("mixed precision", f"{what} ({last.sqnr_db:.1f} dB)", "Widen it, or keep this precision")
        return low, high

    def _let_go(self, kept: frozenset[str]) -> Trial:
        """Without layers that the budget does not need after all, the dearest first."""
        for name in sorted(kept, key=lambda name: (-self._costs[name], self._order.index(name))):
            if len(self._tried) >= self._max:
                break
            # One that costs nothing to keep had better stay.
            if self._costs[name] > 0 and self._trial(kept - {name}).holds:
                kept -= {name}
        return self._trial(kept)

    def _first(self, count: int) -> Trial:
        return self._trial(frozenset(self._order[:count]))

    def _trial(self, kept: frozenset[str]) -> Trial:
        if kept not in self._tried:
            figures = self._trials.judge(kept | self._always)
            self._tried[kept] = Trial(
                kept=tuple(sorted(kept | self._always)),
                sqnr_db=figures.parity.sqnr_db,
                agreement=figures.parity.agreement,
                score=figures.score,
                cost=sum(self._costs[name] for name in sorted(kept)),
                holds=self._holds(figures),
            )
        return self._tried[kept]


def _noise(figures: Figures) -> float:
    """Noise over signal."""
    return float(10 ** (-figures.parity.sqnr_db / 10))
