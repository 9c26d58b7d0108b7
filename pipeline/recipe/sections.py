"""Sections of a recipe, but for pruning, recovery and search, which have files of their own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.recipe.base import Count, Section, Unit
from pipeline.recipe.corruptions import Corruptions

ONNX_FACTORY = "pipeline.onnx_network:from_onnx"


class ModelConfig(Section):
    """The network."""

    factory: str
    """`package.module:callable` or `path/to/file.py:callable`; returns a torch module, logits out."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the factory."""
    onnx: str | None = None
    """ONNX file with the trained network, instead of `factory` and `weights`."""
    image_size: tuple[Count, Count] | None = None
    """[height, width] of an ONNX file that leaves them open, where it is turned into a torch network."""
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
        if self.image_size is not None and self.onnx is None:
            raise ValueError("image_size is of model.onnx; a factory takes what it needs in args")
        return self

    @property
    def comes_trained(self) -> bool:
        """Whether the factory gives an ONNX file's own weights, whatever the seed."""
        return self.onnx is not None or self.factory == ONNX_FACTORY


class DataConfig(Section):
    """The images."""

    factory: str
    """`package.module:callable` or `path/to/file.py:callable`; returns a `pipeline.data.Dataset`."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the factory. One named `path`, or ending in `_path`, is a file or folder."""


class ObjectiveConfig(Section):
    """The loss of training and of recovery after pruning."""

    kind: Literal["plain", "adversarial", "trades", "nfgsm"] = "plain"
    """`plain`: cross-entropy. `adversarial`: cross-entropy on PGD examples (Madry et al. 2018, eq. 2.1). `trades`:
    clean cross-entropy, and `beta` times the divergence of the answers within epsilon (Zhang et al. 2019, eq. 5).
    `nfgsm`: cross-entropy on noise and one step of epsilon, not cut off (de Jorge et al. 2022, algorithm 1)."""
    epsilon: Unit = 0.1
    """Largest change of a pixel (0 to 1) by the adversary."""
    steps: Count = 2
    """Gradient steps of PGD per batch: in training by `adversarial` and `trades`, and wherever images are attacked to
    judge or to recalibrate by."""
    step_size: Unit = 0.08
    """Change of a pixel per step of PGD."""
    beta: Annotated[float, Field(gt=0)] = 6.0
    """Of `trades`: weight of the divergence."""
    noise: Annotated[float, Field(gt=0)] = 2.0
    """Of `nfgsm`: largest noise of a pixel, in epsilons."""

    @property
    def attacked(self) -> bool:
        """Whether there is an adversary in training."""
        return self.kind != "plain"


class ExportConfig(Section):
    """ONNX export."""

    opset: Annotated[int, Field(ge=9)] | None = None
    """ONNX opset; without it, the highest that both exporter and device take."""


class EngineConfig(Section):
    """How engines are built, beyond what the device's profile says."""

    dla_core: Annotated[int, Field(ge=0)] | None = None
    """Core of a Jetson's DLA that FP16 engines run on; the GPU takes the layers that the DLA does not, and the report
    lists them. Engines in other precisions stay on the GPU: the DLA takes no quantized graph."""


class ParityConfig(Section):
    """What a border between two forms of the network may cost."""

    samples: Annotated[int, Field(ge=8)] = 128
    """Training images compared at each border."""
    float_sqnr_db: float = 60.0
    """Export, simplify, and an FP32 engine: signal to noise of the logits, at least."""
    float_agreement: Unit = 0.99
    """The same: share of samples with the same answer, at least."""
    half_sqnr_db: float = 30.0
    """A graph in FP16 or BF16, and its engine: signal to noise of the logits, at least."""
    half_agreement: Unit = 0.97
    int8_sqnr_db: float = 10.0
    """Quantize, to INT8 or FP8: signal to noise of the logits, at least."""
    int8_agreement: Unit = 0.9
    int8_engine_sqnr_db: float = 25.0
    """A quantized engine against its own graph: only rounding may differ."""
    int8_engine_agreement: Unit = 0.97


class MeasureConfig(Section):
    """Latency."""

    duration_s: Annotated[float, Field(gt=0, le=3600)] = 6.0
    """Time for all engines together, at most: 400 rounds are enough, and above 6 s more in proportion, up to 4,000."""
    warmup_s: Annotated[float, Field(gt=0, le=600)] = 0.2
    """Time each engine runs before anything counts."""
    processes: Annotated[int, Field(ge=1, le=100)] = 3
    """Fresh processes per engine that load time and memory are the medians of."""
    tune: bool = False
    """Tune threads, graph rewriting, arena and spinning of each ONNX Runtime engine by measuring, before the build."""
    rebuilds: Annotated[int, Field(ge=2, le=20)] | None = None
    """Builds of the candidate by TensorRT that are compared; without it, none."""
    scenarios: tuple[Literal["single_stream", "multi_stream", "offline", "server"], ...] = ()
    """MLPerf's scenarios that the shipped engine is run in."""
    scenario_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """Time of a scenario, at least; official results take 600."""
    scenario_queries: Count = 100
    """Queries of a scenario, at least; more are run where early stopping needs them."""
    offline_samples: Count = 24_576
    server_target_ms: Annotated[float, Field(gt=0)] = 10.0
    """What 99 % of the server's queries must keep, from their arrival."""
    sustained_s: Annotated[float, Field(ge=3, le=86_400)] | None = None
    """Time that the shipped engine then works back to back, with the device watched."""
    power_mode: Annotated[str, Field(min_length=1)] | None = None
    """Mode that the device should be in, by name. Another is said in the report, and never switched."""

    @model_validator(mode="after")
    def _distinct(self) -> MeasureConfig:
        if len(set(self.scenarios)) != len(self.scenarios):
            raise ValueError("measure.scenarios names a scenario twice")
        return self


AttackKey = Literal["fgsm", "pgd", "apgd_ce", "apgd_dlr", "fab", "square", "autoattack"]
AIMED_AT_CLASSES = ("apgd_dlr", "fab", "autoattack")
_LEVELS = 255


class RobustnessConfig(Section):
    """The attacks that the engines are tried with."""

    attacks: tuple[AttackKey, ...] = ("fgsm", "pgd")
    """`autoattack` is the four of the standard ensemble: apgd_ce, apgd_dlr (targeted), fab (targeted), square.

    Without any, robustness is not proven, and a budget on it refuses.
    """
    norm: Literal["linf", "l2"] = "linf"
    """What `epsilon` is measured in: the largest change of a pixel, or the length of all changes together."""
    epsilon: Annotated[float, Field(gt=0)] = 0.1
    """Largest change, of images of 0 to 1."""
    rounded: bool = True
    """Also keep each adversarial set as a camera of eight bits would deliver it."""
    budget: Literal["standard", "fast"] = "standard"
    """What the keys below are where they are not given: AutoAttack's standard, or what two cores can run."""
    apgd_steps: Count | None = None
    """Gradient steps of apgd_ce, and of apgd_dlr for each class aimed at."""
    fab_steps: Count | None = None
    """Gradient steps of fab for each class aimed at."""
    targets: Count | None = None
    """Likeliest wrong classes that apgd_dlr and fab aim at."""
    square_queries: Annotated[int, Field(ge=2)] | None = None
    """Answers that square asks for, by image."""
    restarts: Count = 1
    """Random starts of apgd_ce, apgd_dlr and fab."""
    pgd_steps: Count = 20
    pgd_step_size: Unit | None = None
    """Change per step; without it 2.5 epsilon / pgd_steps."""
    pgd_restarts: Count = 2
    samples: Count = 1000
    """Test images attacked: the first so many of a seeded shuffle, or all there are."""
    queries: tuple[Literal["square", "hopskipjump"], ...] | None = None
    """Attacks that ask the built engines and see no gradient. Without it Square, where classes are attacked at all."""
    query_budget: Count = 200
    """Images that such an attack asks an engine about, by sample, at most."""
    query_samples: Count = 100
    """The first so many of the samples are attacked by queries."""
    corruptions: Corruptions = ("gaussian_noise", "gaussian_blur")
    """Each at five strengths: names, or `standard`, `edge` or `all` of them. They do not count in the worst case."""
    corruption_samples: Count = 500
    """Test images corrupted: the first so many of those attacked."""

    @model_validator(mode="after")
    def _distinct(self) -> RobustnessConfig:
        for key, names in (("attacks", self.attacks), ("queries", self.queries or ())):
            if len(set(names)) != len(names):
                raise ValueError(f"robustness.{key} names an attack twice")
        twice = {"apgd_ce", "apgd_dlr", "fab", "square"} & set(self.attacks)
        if "autoattack" in self.attacks and twice:
            raise ValueError(f"robustness.attacks names {min(twice)}, which is a part of autoattack: remove one")
        return self

    @model_validator(mode="after")
    def _scale(self) -> RobustnessConfig:
        # At 1 every image may become any other: nobody means that, and 1 of 255 levels is a common slip.
        if self.norm == "linf" and self.epsilon >= 1:
            hint = f"for {self.epsilon:g} of 255 levels write {self.epsilon / _LEVELS:.4g}"
            raise ValueError(f"robustness.epsilon is {self.epsilon:g}, and a pixel goes from 0 to 1: {hint}")
        if self.attacks and self.rounded and self.epsilon < 1 / _LEVELS:
            what = f"robustness.epsilon is {self.epsilon:g}, less than the 1/255 that one byte can change"
            raise ValueError(f"{what}: set robustness.rounded = false")
        return self


class GateConfig(Section):
    """What the shipped engine must reach. Each budget is judged on the bad end of its 95 % interval."""

    max_accuracy_drop: Annotated[float, Field(ge=0, le=100)] | None = None
    """Points of clean accuracy that the shipped engine may lose against the dense baseline, which is FP32 where the
    device has it."""
    min_accuracy: Annotated[float, Field(ge=0, le=100)] | None = None
    """Percent of clean test images that the shipped engine must get right."""
    min_mean_iou: Annotated[float, Field(ge=0, le=100)] | None = None
    """Of segmentation: percent of mean intersection over union on clean test images, at least."""
    min_mean_ap: Annotated[float, Field(ge=0, le=100)] | None = None
    """Of detection: percent of mean average precision (overlap 0.5) on clean test images, at least."""
    max_robust_accuracy_drop: Annotated[float, Field(ge=0, le=100)] | None = None
    """The same of robust accuracy."""
    min_robust_accuracy: Annotated[float, Field(ge=0, le=100)] | None = None
    """Percent of test images that the shipped engine must get right under every attack."""
    max_corruption_error_ratio: Annotated[float, Field(gt=0)] | None = None
    """Mean error of the shipped engine on corrupted images, over that of the dense baseline."""
    max_backdoor_signs: Annotated[int, Field(ge=0)] | None = None
    """Signs of a backdoor that the scans of [threats] may find, over all networks and methods."""
    max_differential_success: Annotated[float, Field(ge=0, le=100)] | None = None
    """Percent of test images that an attack makes the INT8 engine get wrong and its float parent right."""
    max_patch_success: Annotated[float, Field(ge=0, le=100)] | None = None
    """Percent of test images of other classes that a patch turns into its class."""
    max_universal_success: Annotated[float, Field(ge=0, le=100)] | None = None
    """Percent of test images whose answer one perturbation for all of them changes."""
    max_calibration_drop: Annotated[float, Field(ge=0, le=100)] | None = None
    """Points of clean accuracy that a poisoned calibration set may cost, where the parity check lets it pass."""
    max_bit_error_drop: Annotated[float, Field(ge=0, le=100)] | None = None
    """Points of clean accuracy that bit errors in stored weights may cost, at the worst rate of the recipe."""
    max_membership_advantage: Annotated[float, Field(ge=0, le=100)] | None = None
    """Percent of members found less percent of others accused, by the better attack."""
    max_p99_ms: Annotated[float, Field(gt=0)] | None = None
    max_size_bytes: Count | None = None
    """Size of the engine file."""
    min_speedup_dense: Annotated[float, Field(gt=0)] | None = None
    """Median latency of the dense baseline over that of the shipped engine."""
    min_speedup_dense_fp32: Annotated[float, Field(gt=0)] | None = None
    """Median latency of the dense FP32 engine over that of the shipped one."""
    min_speedup_dense_int8: Annotated[float, Field(gt=0)] | None = None
    """Median latency of the dense INT8 engine over that of the shipped one."""
