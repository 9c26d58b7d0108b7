"""The recipe: what is compressed, how, and what the result must reach. TOML in, frozen typed objects out."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from devices.errors import RecipeError
from devices.files import canonical_json, parse_toml_value, read_toml
from pipeline.recipe_paths import with_absolute_paths

Unit = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ModelConfig(_Section):
    """The network."""

    factory: str
    """`package.module:callable` or `path/to/file.py:callable`; returns a torch module, logits out."""
    args: dict[str, Any] = {}
    """Keyword arguments of the factory."""
    weights: str | None = None
    """Checkpoint (.safetensors, or .pt/.pth of plain tensors). Without it the network is trained."""
    mean: tuple[float, ...] | None = None
    """Mean per channel that the network expects to be taken off its input; becomes part of it."""
    std: tuple[float, ...] | None = None
    """Deviation per channel that the network expects its input divided by; becomes part of it."""

    @model_validator(mode="after")
    def _normalization(self) -> ModelConfig:
        if (self.mean is None) != (self.std is None) or (self.mean and len(self.mean) != len(self.std or ())):
            raise ValueError("mean and std belong together, one value per channel each")
        if self.std and min(self.std) <= 0:
            raise ValueError("std must be above 0")
        return self


class DataConfig(_Section):
    """The images."""

    factory: str
    """`package.module:callable` or `path/to/file.py:callable`; returns a `pipeline.data.Dataset`."""
    args: dict[str, Any] = {}
    """Keyword arguments of the factory. One named `path`, or ending in `_path`, is a file or folder."""


class ObjectiveConfig(_Section):
    """The loss of training and of recovery after pruning."""

    kind: Literal["plain", "adversarial"] = "plain"
    """`plain`: cross-entropy. `adversarial`: cross-entropy on PGD examples (Madry et al. 2018, eq. 2.1)."""
    epsilon: Unit = 0.1
    """Largest change of a pixel (0 to 1) in adversarial training."""
    steps: Count = 2
    """Gradient steps per batch in adversarial training."""
    step_size: Unit = 0.08
    """Change of a pixel per step in adversarial training."""


class FitConfig(_Section):
    """Training, or recovery after pruning."""

    epochs: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: Annotated[int, Field(ge=2)] = 64
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    """Highest rate of a one-cycle schedule (Smith & Topin 2018)."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    augment: Literal["none", "crop_flip"] = "none"
    """`crop_flip`: shifted by up to an eighth of the side, mirrored half the time."""


class PruneConfig(_Section):
    """Removal of channels."""

    target_macs: Annotated[float, Field(gt=0, lt=1)]
    """Share of the multiply-accumulates that may remain."""
    scope: Literal["global", "local"] = "global"
    """`global`: channels of all layers compete. `local`: every layer keeps the same share."""
    min_channels: Count = 1
    """No group of channels falls below this."""
    ignore: tuple[str, ...] = ()
    """Parameters whose channels stay, as globs on their names, such as `stem.*`."""


class ExportConfig(_Section):
    """ONNX export."""

    opset: Annotated[int, Field(ge=9)] | None = None
    """ONNX opset; without it, the highest that both exporter and device take."""


class QuantizeConfig(_Section):
    """Precision of the shipped engine."""

    precision: Literal["int8", "fp32"] = "int8"
    calibration_samples: Count = 256
    """Training images whose ranges set the scales."""


class ParityConfig(_Section):
    """What a border between two forms of the network may cost."""

    samples: Annotated[int, Field(ge=8)] = 128
    """Training images compared at each border."""
    float_sqnr_db: float = 60.0
    """Export, simplify, and an FP32 engine: signal to noise of the logits, at least."""
    float_agreement: Unit = 0.99
    """The same: share of samples with the same answer, at least."""
    int8_sqnr_db: float = 10.0
    """Quantize: signal to noise of the logits, at least."""
    int8_agreement: Unit = 0.9
    int8_engine_sqnr_db: float = 25.0
    """An INT8 engine against its own quantized graph: only rounding may differ."""
    int8_engine_agreement: Unit = 0.97


class MeasureConfig(_Section):
    """Latency."""

    duration_s: Annotated[float, Field(gt=0, le=3600)] = 6.0
    """Time for all engines together."""
    warmup_s: Annotated[float, Field(gt=0, le=600)] = 0.2
    """Time each engine runs before anything counts."""
    processes: Annotated[int, Field(ge=1, le=100)] = 3
    """Fresh processes per engine that load time and memory are the medians of."""


class RobustnessConfig(_Section):
    """The attacks that the engines are tried with."""

    attacks: tuple[Literal["fgsm", "pgd"], ...] = ("fgsm", "pgd")
    """Without any, robustness is not proven, and a budget on it refuses."""

    @model_validator(mode="after")
    def _distinct(self) -> RobustnessConfig:
        if len(set(self.attacks)) != len(self.attacks):
            raise ValueError("robustness.attacks names an attack twice")
        return self

    epsilon: Unit = 0.1
    """Largest change of a pixel, 0 to 1 (Linf)."""
    pgd_steps: Count = 20
    pgd_step_size: Unit = 0.01
    pgd_restarts: Count = 2
    samples: Count = 1000
    """Test images attacked: the first so many of a seeded shuffle, or all there are."""


class GateConfig(_Section):
    """What the shipped engine must reach. Each budget is judged on the bad end of its 95 % interval."""

    max_accuracy_drop: Annotated[float, Field(ge=0, le=100)] | None = None
    """Points of clean accuracy that the shipped engine may lose against dense FP32."""
    min_accuracy: Annotated[float, Field(ge=0, le=100)] | None = None
    """Percent of clean test images that the shipped engine must get right."""
    max_robust_accuracy_drop: Annotated[float, Field(ge=0, le=100)] | None = None
    """Points of robust accuracy that the shipped engine may lose against dense FP32."""
    min_robust_accuracy: Annotated[float, Field(ge=0, le=100)] | None = None
    """Percent of test images that the shipped engine must get right under every attack."""
    max_p99_ms: Annotated[float, Field(gt=0)] | None = None
    max_size_bytes: Count | None = None
    """Size of the engine file."""
    min_speedup_dense_fp32: Annotated[float, Field(gt=0)] | None = None
    """Median latency of the dense FP32 engine over that of the shipped one."""
    min_speedup_dense_int8: Annotated[float, Field(gt=0)] | None = None
    """Median latency of the dense INT8 engine over that of the shipped one."""


class Recipe(_Section):
    """One recipe file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    threads: Annotated[int, Field(ge=1, le=1024)] = 2
    """CPU threads of training and crafting. Fixed, because another count gives other last digits."""
    model: ModelConfig
    data: DataConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    train: FitConfig | None = None
    prune: PruneConfig | None = None
    finetune: FitConfig | None = None
    export: ExportConfig = ExportConfig()
    quantize: QuantizeConfig = QuantizeConfig()
    parity: ParityConfig = ParityConfig()
    measure: MeasureConfig = MeasureConfig()
    robustness: RobustnessConfig = RobustnessConfig()
    gate: GateConfig = GateConfig()

    @model_validator(mode="after")
    def _train_or_weights(self) -> Recipe:
        if self.model.weights is None and self.train is None:
            raise ValueError("give model.weights, or a [train] section to train the network")
        if self.model.weights is not None and self.train is not None:
            raise ValueError("model.weights and [train] exclude each other: remove one")
        if self.gate.min_speedup_dense_int8 is not None and self.quantize.precision != "int8":
            raise ValueError("gate.min_speedup_dense_int8 needs quantize.precision = 'int8'")
        if self.finetune is not None and self.prune is None:
            raise ValueError("[finetune] recovers from pruning: add [prune] or remove it")
        return self


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `key.path=value` overrides. Raises `RecipeError` that names file and field.

    Paths in the file are relative to the file's folder, paths in overrides to the current folder.
    """
    raw = with_absolute_paths(read_toml(path, RecipeError), path.parent)
    for text in overrides:
        _override(raw, text)
    try:
        recipe = Recipe.model_validate_json(_as_json(raw), strict=True)
    except ValidationError as cause:
        raise _readable(cause, path) from cause
    for section in ("model", "data"):
        try:
            canonical_json(getattr(recipe, section).args)
        except ValueError as cause:
            raise RecipeError(f"{path}: {section}.args", "holds a number that is not finite", "Correct it") from cause
    return recipe


def section_of(recipe: BaseModel) -> dict[str, Any]:
    """A section as JSON values, for digests and manifests."""
    return recipe.model_dump(mode="json")


def _as_json(raw: dict[str, Any]) -> str:
    # Through JSON, so that a TOML list fits a tuple while a text still does not fit a number.
    import json

    try:
        return json.dumps(raw, allow_nan=True)
    except TypeError as cause:
        raise RecipeError("recipe", f"holds a value that is neither text, number, list nor table ({cause})") from cause


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
    if names[0] in ("model", "data"):
        raw |= with_absolute_paths({names[0]: raw[names[0]]}, Path.cwd(), only=names[-1])


def _readable(error: ValidationError, path: Path) -> RecipeError:
    """The first problem, in words of the recipe."""
    errors = error.errors(include_url=False)
    # A misspelt key that is required is also missing: the misspelling is what helps.
    first = next((item for item in errors if item["type"] == "extra_forbidden"), errors[0])
    location = [str(part) for part in first["loc"]]
    field = ".".join(location)
    where = f"{path}: {field}" if field else str(path)
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, _known_keys(Recipe), n=1, cutoff=0.5)
        last = difflib.get_close_matches(location[-1], _siblings(location[:-1]), n=1, cutoff=0.5)
        if not last:
            near = [key for key in _known_keys(Recipe) if key.endswith(f".{location[-1]}")] or near
        best = ".".join([*location[:-1], last[0]]) if last else near[0] if near else None
        hint = f"Did you mean '{best}'?" if best else f"Known here: {', '.join(_siblings(location[:-1]))}"
        return RecipeError(where, "is not a key of a recipe", hint)
    if first["type"] == "missing":
        return RecipeError(where, "is missing", "Every recipe needs it; see recipes/digits.toml")
    if first["type"] == "value_error":
        return RecipeError(where, str(first["ctx"]["error"]), "")
    given = first["input"]
    shown = "" if isinstance(given, dict) else f", not {given!r:.60}"
    return RecipeError(where, f"{first['msg'][0].lower()}{first['msg'][1:]}{shown}", "Correct the value")


def _siblings(location: Sequence[str]) -> list[str]:
    model: type[BaseModel] = Recipe
    for part in location:
        field = model.model_fields.get(part)
        nested = _section_class(field.annotation) if field else None
        if nested is None:
            return []
        model = nested
    return list(model.model_fields)


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        nested = _section_class(field.annotation)
        if nested:
            keys += _known_keys(nested, f"{prefix}{name}.")
    return keys


def _section_class(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
