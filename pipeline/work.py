"""What the steps of one run share: recipe, device, host, and the data set, loaded once when first needed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from devices.detect import Host
from devices.engines.select import runs_here
from devices.profile import Profile
from devices.remote.result import BoardResult
from devices.stage import Progress
from pipeline.engine_plan import EnginePlan, plan_engines, plan_notes
from pipeline.opset import choose_opset
from pipeline.recipe import Recipe

if TYPE_CHECKING:
    from pipeline.data import Dataset
    from pipeline.store import Stored


@dataclass(frozen=True, kw_only=True)
class RunBoard:
    """The board that a run builds and measures on."""

    name: str
    host: Host
    """What it is, as it describes itself."""
    fingerprint: str
    """Changes when measurements have to be taken again."""
    notes: tuple[str, ...]
    """What is to be known of it beside its figures, such as a clock that is years off."""
    run_stage: Callable[..., BoardResult]
    """`devices.remote.board.Board.run_stage`."""
    other_device: bool = False
    """Whether it is not the device of the profile; only when forced."""


@dataclass(frozen=True)
class Work:
    """Inputs of a run. Everything heavy is loaded only when a step that is not stored asks for it."""

    recipe: Recipe
    profile: Profile
    host: Host
    """This machine, which trains, prunes, exports and quantizes."""
    command: str
    """What the user typed, for the report."""
    board: RunBoard | None = None
    """Where engines are built, measured and attacked; None: here."""

    @cached_property
    def dataset(self) -> Dataset:
        """The recipe's images, checked."""
        from pipeline.data import load_dataset

        return load_dataset(self.recipe.data, self.recipe.task)

    @cached_property
    def parity_images(self) -> NDArray[np.float32]:
        """Training images that borders are compared on, (N, C, H, W)."""
        from pipeline.data import seeded_choice

        train = self.dataset.train
        # Not those that set the INT8 scales: on them nothing would be clipped.
        calibration = self.recipe.quantize.calibration_samples
        return train.batch(seeded_choice(len(train), self.recipe.parity.samples, self.recipe.seed, calibration))

    @property
    def run_name(self) -> str:
        """Of the run's folder."""
        name = re.sub(r"[^\w.@-]+", "-", self.board.name) if self.board else self.profile.name
        return f"{self.recipe.name}-{name}"

    @property
    def device_host(self) -> Host:
        """The machine that the engines run on: the board, or this one."""
        return self.board.host if self.board else self.host

    @property
    def device_key(self) -> str:
        """Changes when measurements have to be taken again: of the board, or of this machine."""
        return self.board.fingerprint if self.board else self.host.fingerprint

    @property
    def engine_class(self) -> str:
        """Changes when engines have to be built again. What is installed on a board is in its fingerprint alone."""
        return self.board.fingerprint if self.board else self.host.engine_class

    def made_on(self, stage: str, config: Mapping[str, Any]) -> str:
        """Class of the machine that does a step: what needs the device is done on it, all else here."""
        needed = config.get("host_class") or config.get("host")
        machine = self.device_host if needed and stage not in ("bundle", "report") else self.host
        return machine.engine_class

    @property
    def weight_bits(self) -> int:
        """Bits of a quantized weight: 7 where the engine runs on a CPU that would overflow with 8."""
        return 7 if self.profile.kind == "cpu" and self.device_host.saturates_int8 else 8

    @cached_property
    def opset(self) -> int:
        """ONNX opset of the run. Raises `RecipeError` for one that the device does not take."""
        return choose_opset(self.recipe.export, self.profile, self.recipe.quantize.precision)

    @cached_property
    def engines(self) -> EnginePlan:
        """Which engines are built. Raises `DeviceError` or `RecipeError` for what the device cannot do."""
        return plan_engines(self.recipe.quantize, self.profile, self.opset)

    @property
    def plan_notes(self) -> tuple[str, ...]:
        """What is to be said of them."""
        return plan_notes(self.engines, self.recipe.quantize, self.profile, self.opset)

    @property
    def measured(self) -> bool:
        """Whether engines are run and measured. TensorRT-RTX builds them ahead of time where they cannot be."""
        ahead = self.profile.engine.runtime == "tensorrt_rtx" and not runs_here(self.profile, self.host)
        return self.board is not None or not (ahead or self.graphs_alone)

    @property
    def graphs_alone(self) -> bool:
        """Whether what ships is the graph, of which `trtexec` builds the engine on the board, after the run."""
        return self.profile.engine.served_by == "trtexec"

    @property
    def form(self) -> str:
        """Form of the network that ships."""
        return "compressed" if self.recipe.prune else "dense"

    @property
    def sparse(self) -> bool:
        """Whether the weights of the network that ships are 2:4."""
        return self.recipe.prune is not None and self.recipe.prune.granularity == "2:4"

    @property
    def candidate(self) -> str:
        """Name of the engine that is asked for; what ships is decided by measuring."""
        return f"{self.form}-{self.engines.candidate}"

    @property
    def rivals(self) -> tuple[str, ...]:
        """Names of the engines that ship instead where the candidate is not faster."""
        return tuple(f"{self.form}-{precision}" for precision in self.engines.rivals)

    @property
    def baseline(self) -> str:
        """Name of the engine that all others are compared with."""
        return f"dense-{self.engines.baseline}"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """All that decided a step's artifact."""

    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    """Digest of each artifact that it was made of, by node."""
    code: str
    """Digest of the step's source and of all that it imports."""
    libraries: Mapping[str, str | None]
    """Version by distribution; None where one is not installed."""


@dataclass(frozen=True)
class StepInputs:
    """What a step gets: the run's inputs, results it needs by node name, its folder, and whom to tell how far it is."""

    work: Work
    results: Mapping[str, Stored]
    folder: Path
    progress: Progress
    options: Mapping[str, Any] = field(default_factory=dict)
    """The step's own config, as in its key."""
    partial: Path | None = None
    """Folder that outlives a killed step, for what it can go on from; removed when the step ends well."""
    kept: Path | None = None
    """Folder that runs share, for times of TensorRT's kernels."""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """How the results so far were made, by node."""

    def path(self, node: str) -> Path:
        """Folder of a result that this step needs."""
        return self.results[node].folder
