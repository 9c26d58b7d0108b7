"""The recipe: what is compressed, how, and what the result must reach. TOML in, frozen typed objects out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from devices.errors import RecipeError
from devices.files import canonical_json, parse_toml_value, read_toml
from pipeline.recipe.base import Section
from pipeline.recipe.edge import NEEDS_INT8
from pipeline.recipe.errors import readable
from pipeline.recipe.fit import DistillConfig, FitConfig, RecalibrateConfig
from pipeline.recipe.full import full_suite
from pipeline.recipe.paths import with_absolute_paths
from pipeline.recipe.prune import PruneConfig
from pipeline.recipe.quantize import MixedConfig, QuantizeConfig
from pipeline.recipe.search import SearchConfig
from pipeline.recipe.sections import (
    AIMED_AT_CLASSES,
    ONNX_FACTORY,
    DataConfig,
    EngineConfig,
    ExportConfig,
    GateConfig,
    MeasureConfig,
    ModelConfig,
    ObjectiveConfig,
    ParityConfig,
    RobustnessConfig,
)
from pipeline.recipe.task import TaskConfig
from pipeline.recipe.threats import ThreatsConfig

__all__ = [
    "DataConfig",
    "DistillConfig",
    "EngineConfig",
    "ExportConfig",
    "FitConfig",
    "GateConfig",
    "MeasureConfig",
    "MixedConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "ParityConfig",
    "PruneConfig",
    "QuantizeConfig",
    "RecalibrateConfig",
    "Recipe",
    "RobustnessConfig",
    "SearchConfig",
    "TaskConfig",
    "ThreatsConfig",
    "read_recipe",
    "recipe_of",
    "section_of",
]


class Recipe(Section):
    """One recipe file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """What the run's folder is called after."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of everything random."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 2
    """CPU threads of training and crafting. Fixed, because another count gives other last digits."""
    model: ModelConfig
    data: DataConfig
    task: TaskConfig = TaskConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    train: FitConfig | None = None
    prune: PruneConfig | None = None
    search: SearchConfig | None = None
    finetune: FitConfig | None = None
    distill: DistillConfig | None = None
    recalibrate: RecalibrateConfig = RecalibrateConfig()
    export: ExportConfig = ExportConfig()
    quantize: QuantizeConfig = QuantizeConfig()
    engine: EngineConfig = EngineConfig()
    parity: ParityConfig = ParityConfig()
    measure: MeasureConfig = MeasureConfig()
    robustness: RobustnessConfig = RobustnessConfig()
    threats: ThreatsConfig = ThreatsConfig()
    gate: GateConfig = GateConfig()

    @model_validator(mode="after")
    def _train_or_weights(self) -> Recipe:
        source = next((key for key in ("weights", "onnx") if getattr(self.model, key) is not None), None)
        if source is None and self.train is None:
            raise ValueError("give model.weights or model.onnx, or a [train] section to train the network")
        if source is not None and self.train is not None:
            raise ValueError(f"model.{source} and [train] exclude each other: remove one")
        if self.gate.min_speedup_dense_int8 is not None and self.quantize.precision != "int8":
            raise ValueError("gate.min_speedup_dense_int8 needs quantize.precision = 'int8'")
        if self.finetune is not None and self.prune is None:
            raise ValueError("[finetune] recovers from pruning: add [prune] or remove it")
        if self.distill is not None and self.finetune is None:
            raise ValueError("[distill] is a part of recovery: add [finetune] or remove it")
        if self.search is not None and self.prune is None:
            raise ValueError("[search] looks for widths to prune to: add [prune] with a target, or remove it")
        if self.search is not None and self.prune is not None and self.prune.granularity != "channels":
            raise ValueError("[search] looks for widths of channels: set prune.granularity to 'channels', or remove it")
        if self.search is not None and self.prune is not None and self.prune.criterion == "learned":
            raise ValueError("prune.criterion 'learned' learns at the target's widths: remove [search], or use another")
        return self

    @model_validator(mode="after")
    def _names_a_point(self) -> Recipe:
        if self.search is None or self.prune is None or self.search.choose != "nearest":
            return self
        if self.prune.target in ("keep", "keep_ratio"):
            what = f"and prune.{self.prune.target} is none: set prune.target_macs, or name a trial such as 'trial-0'"
            raise ValueError(f"search.choose 'nearest' needs a budget that trials are within, {what}")
        if self.prune.target == "target_latency_ms" and "latency_ms" not in self.search.objectives:
            what = "add it to search.objectives, or set prune.target_macs"
            raise ValueError(f"search.choose 'nearest' to prune.target_latency_ms needs trials' latency_ms: {what}")
        return self

    @model_validator(mode="after")
    def _references_start_anew(self) -> Recipe:
        # They would be the network itself, with its backdoor.
        if self.threats.references and self.model.comes_trained:
            what = "threats.references trains networks from new weights, and an ONNX file has only its own"
            raise ValueError(f"{what}: set threats.references = 0")
        return self

    @model_validator(mode="after")
    def _fits_the_task(self) -> Recipe:
        if self.threats.scan and self.task.kind != "classification":
            raise ValueError("threats.scan looks for triggers of classes: it needs task.kind = 'classification'")
        if self.threats.edge and self.task.kind != "classification":
            raise ValueError("threats.edge judges classes: it needs task.kind = 'classification'")
        for threat in NEEDS_INT8:
            if threat in self.threats.edge and self.quantize.precision != "int8":
                raise ValueError(f"threats.edge = '{threat}' needs quantize.precision = 'int8'")
        if "bit_errors" in self.threats.edge and self.quantize.precision in ("bf16", "fp8"):
            raise ValueError("threats.edge = 'bit_errors' runs graphs on this CPU, which computes no BF16 or FP8")
        if self.threats.edge_budget.shadows and self.train is None:
            raise ValueError("threats.edge_budget.shadows trains networks as [train] says: add it, or set shadows = 0")
        if self.gate.min_mean_iou is not None and self.task.kind != "segmentation":
            raise ValueError("gate.min_mean_iou needs task.kind = 'segmentation'")
        if self.gate.min_mean_ap is not None and self.task.kind != "detection":
            raise ValueError("gate.min_mean_ap needs task.kind = 'detection'")
        aimed = [name for name in self.robustness.attacks if name in AIMED_AT_CLASSES]
        if aimed and self.task.kind != "classification":
            what = f"robustness.attacks: {aimed[0]} aims at classes, and the task is {self.task.kind}"
            raise ValueError(f"{what}: use fgsm, pgd, apgd_ce or square")
        if self.robustness.queries and self.task.kind != "classification":
            raise ValueError("robustness.queries are guided by classes: they need task.kind = 'classification'")
        if self.distill is not None and (self.task.kind == "detection" or len(self.task.outputs) > 1):
            raise ValueError("[distill] follows one tensor of logits, and this task has several outputs: remove it")
        if self.objective.kind == "trades" and self.task.kind not in ("classification", "segmentation"):
            raise ValueError("objective.kind 'trades' compares logits of classes: use 'adversarial' for this task")
        moved = any(fit is not None and fit.augment == "crop_flip" for fit in (self.train, self.finetune))
        if moved and self.task.kind in ("custom", "detection"):
            what = "boxes" if self.task.kind == "detection" else "the targets of a custom task"
            raise ValueError(f"augment 'crop_flip' moves masks along with the images, and not {what}")
        return self


def read_recipe(path: Path, overrides: Sequence[str] = (), full: bool = False) -> Recipe:
    """Read a recipe and apply `key.path=value` overrides. Raises `RecipeError` that names file and field.

    Paths in the file are relative to the file's folder, paths in overrides to the current folder. `full` sets the full
    robustness suite, in which the overrides go before it.
    """
    values = read_toml(path, RecipeError)
    recipe = recipe_of(values, path, path.parent, overrides)
    if not full:
        return recipe
    whole = full_suite(recipe)
    sections = {name: section_of(getattr(whole, name)) for name in ("robustness", "threats")}
    return recipe_of(values | sections, path, path.parent, overrides)


def recipe_of(values: dict[str, Any], path: Path, base: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that these values are, as they stand in the file `path`; their paths are relative to `base`.

    Raises `RecipeError` as `read_recipe` does.
    """
    raw = with_absolute_paths(values, base)
    for text in overrides:
        _override(raw, text)
    raw = _with_onnx(raw, path)
    try:
        recipe = Recipe.model_validate_json(_as_json(raw), strict=True)
    except ValidationError as cause:
        raise readable(cause, path, Recipe) from cause
    for section in ("model", "data"):
        try:
            canonical_json(getattr(recipe, section).args)
        except ValueError as cause:
            raise RecipeError(f"{path}: {section}.args", "holds a number that is not finite", "Correct it") from cause
    return recipe


def _with_onnx(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """An ONNX file is read by a factory of ours; everything behind it sees a factory and its path."""
    model = raw.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("onnx"), str):
        return raw
    for key in ("factory", "args", "weights"):
        if key in model:
            raise RecipeError(f"{path}: model.{key}", "stands beside model.onnx, which holds all of it", "Remove one")
    size = {"image_size": model["image_size"]} if model.get("image_size") is not None else {}
    return raw | {"model": model | {"factory": ONNX_FACTORY, "args": {"path": model["onnx"], **size}}}


def section_of(recipe: BaseModel) -> dict[str, Any]:
    """A section as JSON values, for digests and manifests."""
    return recipe.model_dump(mode="json")


def _as_json(raw: dict[str, Any]) -> str:
    # Through JSON, so that a TOML list fits a tuple while a text still does not fit a number.
    try:
        return json.dumps(raw, allow_nan=True)
    except TypeError as cause:
        raise RecipeError("recipe", f"holds a value that is neither text, number, list nor table ({cause})") from cause
    except RecursionError as cause:
        raise RecipeError("recipe", "holds tables or lists within one another, too deep", "Correct it") from cause


def _override(raw: dict[str, Any], text: str) -> None:
    key, separator, value_text = text.partition("=")
    names = key.strip().split(".")
    if not separator or not all(names):
        raise RecipeError(f"--set {text}", "is not of the form key.path=value", "Example: --set prune.target_macs=0.5")
    table = raw
    for name in names[:-1]:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise RecipeError(f"--set {text}", f"'{name}' is a value, not a table", "Check the key")
    table[names[-1]] = parse_toml_value(value_text)
    if names[0] in ("model", "data", "task"):
        raw |= with_absolute_paths({names[0]: raw[names[0]]}, Path.cwd(), only=names[-1])
