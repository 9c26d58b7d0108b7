"""What the choice of mixed precision was, as data: each layer's harm, each trial, the layers that stay."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class LayerHarm:
    """What quantizing one layer does."""

    layer: str
    operation: str
    noise: float
    """Harm: noise over signal of the outputs that this layer brings in. Below zero where others make up for it."""
    sqnr_db: float
    """Signal to noise of the graph that was measured: with this layer alone quantized, or all but this."""
    score: float | None
    """Score of that graph."""
    cost: float
    """Of keeping it: multiply-accumulates, in the unit of the given costs, or 1."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One graph that was tried."""

    kept: tuple[str, ...]
    """Layers in higher precision."""
    sqnr_db: float
    agreement: float | None
    score: float | None
    cost: float
    """Sum over the layers that are kept."""
    holds: bool
    """The budget holds."""


@dataclass(frozen=True, kw_only=True)
class MixedChoice:
    """Layers that stay in higher precision, and why."""

    kept: tuple[str, ...]
    """In the graph's order."""
    harms: tuple[LayerHarm, ...]
    """In the order in which layers are kept: the most harm per cost first."""
    curve: tuple[Trial, ...]
    """In the order tried; the first keeps nothing more than was asked for."""
    chosen: Trial
    reference_score: float | None
    """Of the network before quantization."""
    sensitivity: str
    judged_on: int
    """Images that harm and budget were judged on."""

    def as_dict(self) -> dict[str, object]:
        """For JSON, and for a digest: equal choices give equal text."""
        return asdict(self)


def mixed_lines(choice: MixedChoice) -> list[str]:
    """The choice in lines of text: what stays, what it gives, and the table of harms."""
    total = len({*(harm.layer for harm in choice.harms), *choice.kept})
    lines = [f"{len(choice.kept)} of {total} layers stay in higher precision: {', '.join(choice.kept) or 'none'}"]
    for label, trial in (("all quantized", choice.curve[0]), ("chosen", choice.chosen)):
        lines.append(f"{label}: {_figures(trial, choice.reference_score)}")
    lines.append(f"{'harm':>9}  {'cost':>8}  {'dB':>6}  layer")
    for harm in choice.harms:
        mark = "kept" if harm.layer in choice.kept else ""
        figures = f"{harm.noise:9.2e}  {harm.cost:8.4g}  {harm.sqnr_db:6.1f}"
        lines.append(f"{figures}  {harm.layer} ({harm.operation}) {mark}".rstrip())
    return lines


def _figures(trial: Trial, reference_score: float | None) -> str:
    parts = [f"{trial.sqnr_db:.1f} dB"]
    if trial.agreement is not None:
        parts.append(f"{100 * trial.agreement:.1f} % same answers")
    if trial.score is not None and reference_score is not None:
        parts.append(f"score {trial.score:.4f} of {reference_score:.4f}")
    return ", ".join(parts)
