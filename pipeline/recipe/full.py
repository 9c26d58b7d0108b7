"""The full robustness suite: all that a recipe's task and precision allow, at the budgets of the papers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from pipeline.recipe.corruptions import SETS
from pipeline.recipe.edge import NEEDS_INT8, EdgeThreat
from pipeline.recipe.threats import ScanMethod

if TYPE_CHECKING:
    from pipeline.recipe import Recipe

_CLASSIFIER: dict[str, Any] = {"attacks": ("fgsm", "pgd", "autoattack"), "queries": ("square", "hopskipjump")}
_OTHER: dict[str, Any] = {"attacks": ("fgsm", "pgd", "apgd_ce", "square"), "queries": ()}
_QUERIES = 1000
SCAN_REFERENCES = 4
"""Reference networks of a scan that the recipe says nothing of."""
_SHADOWS = 8
_BYTE = 1 / 255


def full_suite(recipe: Recipe) -> Recipe:
    """The recipe with every attack, query, corruption, scan and threat that it allows; whom they meet and what counts
    as success stay as they are: norm, epsilon, samples, targets and steps of the threats.

    The ensemble has AutoAttack's standard budget. Scans, queries and threats of small devices are of classifiers.
    Reference networks are trained where a factory makes them anew, shadow networks where [train] says how.
    """
    classifier, asked, threats = recipe.task.kind == "classification", recipe.robustness, recipe.threats
    robustness = {
        **(_CLASSIFIER if classifier else _OTHER),
        "budget": "standard",
        **dict.fromkeys(("apgd_steps", "fab_steps", "targets", "square_queries")),
        "rounded": asked.epsilon >= _BYTE,
        "query_budget": max(asked.query_budget, _QUERIES),
        "corruptions": SETS["all"],
    }
    looked: dict[str, Any] = {}
    if classifier:
        shadows = max(threats.edge_budget.shadows, _SHADOWS) if recipe.train is not None else 0
        looked = {
            "scan": get_args(ScanMethod),
            "references": 0 if recipe.model.comes_trained else max(threats.references, SCAN_REFERENCES),
            "edge": tuple(name for name in get_args(EdgeThreat) if _is_there(name, recipe.quantize.precision)),
            "edge_budget": threats.edge_budget.model_copy(update={"shadows": shadows}),
        }
    return recipe.model_copy(
        update={
            "robustness": asked.model_copy(update=robustness),
            "threats": threats.model_copy(update=looked),
        }
    )


def _is_there(threat: str, precision: str) -> bool:
    if threat in NEEDS_INT8:
        return precision == "int8"
    # Its graphs run on this CPU, which computes no BF16 or FP8.
    return threat != "bit_errors" or precision not in ("bf16", "fp8")
