"""What a border may cost, by the precision behind it."""

from __future__ import annotations

from devices.profile import Precision
from exporters.parity import Agreement, ParityLimits
from pipeline.recipe import ParityConfig
from pipeline.tasks.select import task_of
from pipeline.work import StepInputs


def graph_limits(config: ParityConfig, precision: Precision) -> ParityLimits:
    """Of a graph that was brought to this precision."""
    if precision == "fp32":
        return ParityLimits(min_sqnr_db=config.float_sqnr_db, min_agreement=config.float_agreement)
    if precision in ("fp16", "bf16"):
        return ParityLimits(min_sqnr_db=config.half_sqnr_db, min_agreement=config.half_agreement)
    return ParityLimits(min_sqnr_db=config.int8_sqnr_db, min_agreement=config.int8_agreement)


def rounding_limits(config: ParityConfig, precision: Precision) -> ParityLimits:
    """Of an engine against its own graph, or a graph whose rest went to FP16: only rounding may differ."""
    if precision in ("int8", "fp8"):
        return ParityLimits(min_sqnr_db=config.int8_engine_sqnr_db, min_agreement=config.int8_engine_agreement)
    return graph_limits(config, precision)


def agreement_of(inputs: StepInputs) -> Agreement | None:
    """How far the answers of two forms agree, by the recipe's task."""
    return task_of(inputs.work.recipe.task).agreement
