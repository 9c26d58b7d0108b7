"""Networks: built by a factory, loaded from checkpoints, saved as plan and weights without pickle."""

from __future__ import annotations

import pickle  # for the name of its error alone
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from devices.errors import ModelError
from devices.files import read_json, write_atomic, write_json
from pipeline.compute import seeded
from pipeline.factory import call_factory, load_factory
from pipeline.prune.network import first_line, inference
from pipeline.prune.plan import PruningPlan
from pipeline.prune.replay import apply_plan
from pipeline.recipe import ModelConfig, TaskConfig
from pipeline.tasks.select import plain_outputs

WEIGHTS_FILE = "weights.safetensors"
PLAN_FILE = "plan.json"
CLASSIFICATION = TaskConfig()
_SAVE_PLAIN = "Save it again: safetensors.torch.save_file(network.state_dict(), path)"


@dataclass(frozen=True)
class NetworkArtifact:
    """A network on disk: weights, and the plan that shapes the factory's network to fit them."""

    folder: Path


class NormalizedNetwork(nn.Module):
    """A network behind the normalization that it expects, so that everything outside works on pixels 0 to 1."""

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    @property
    def channels(self) -> int:
        """How many values the mean has."""
        return int(cast(torch.Tensor, self.mean).shape[1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network((x - self.mean) / self.std)  # type: ignore[no-any-return, operator]


def build_network(config: ModelConfig, seed: int, task: TaskConfig = CLASSIFICATION) -> nn.Module:
    """The factory's network with its initial weights, which depend on `seed` alone. Raises `ModelError`.

    It returns one tensor, or a tuple of tensors, whatever the factory's own returns: of outputs by name the logits, or
    what a custom task keeps.
    """
    factory = load_factory(config.factory, "model.factory")
    with seeded(seed):
        network = call_factory(factory, config.args, "model.factory", ModelError)
    if not isinstance(network, nn.Module):
        raise ModelError("model.factory", f"returned {type(network).__name__}", "It must return a torch.nn.Module")
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if is_lazy(tensor):
            raise ModelError("model.factory", f"'{name}' has no shape yet", "Give lazy layers their input sizes")
    network.register_forward_hook(plain_outputs(task))
    dense: nn.Module = network.float().eval()
    if config.mean is not None and config.std is not None:
        dense = NormalizedNetwork(dense, config.mean, config.std).eval()
    return dense


def load_checkpoint(network: nn.Module, path: Path) -> None:
    """Load a user's checkpoint into the network in place. Pickled objects are refused. Raises `ModelError`."""
    inner = network.network if isinstance(network, NormalizedNetwork) else network
    assert isinstance(inner, nn.Module)
    _load_state(inner, _read_checkpoint(path), str(path))


def save_network(network: nn.Module, plan: PruningPlan | None, folder: Path) -> NetworkArtifact:
    """Write weights, and the plan if the network was pruned. Raises `ModelError` when it keeps more than tensors."""
    from safetensors.torch import save

    state = {name: tensor.detach().contiguous().clone() for name, tensor in _own_state(network).items()}
    write_atomic(folder / WEIGHTS_FILE, save(state))
    if plan is not None:
        write_json(folder / PLAN_FILE, plan.as_dict())
    return NetworkArtifact(folder)


def load_network(
    config: ModelConfig, artifact: NetworkArtifact, seed: int, task: TaskConfig = CLASSIFICATION
) -> nn.Module:
    """Build the factory's network, replay the plan if there is one, load the weights. Raises `ModelError`."""
    network = build_network(config, seed, task)
    plan = load_plan(artifact)
    if plan is not None:
        apply_plan(network, plan)
    _load_state(network, _read_checkpoint(artifact.folder / WEIGHTS_FILE), str(artifact.folder / WEIGHTS_FILE))
    return network.eval()


def load_plan(artifact: NetworkArtifact) -> PruningPlan | None:
    """The plan of a pruned network; None for a dense one."""
    path = artifact.folder / PLAN_FILE
    return PruningPlan.from_dict(read_json(path, ModelError), str(path)) if path.exists() else None


def check_network(
    network: nn.Module, input_shape: tuple[int, int, int], classes: int, task: TaskConfig = CLASSIFICATION
) -> None:
    """Try the network on two blank images. Raises `ModelError` unless it answers as its task needs.

    That is (2, classes) in classification, (2, classes, h, w) in segmentation, (2, A, classes) and (2, A, 4) in
    detection, and tensors (2, ...) in a custom task.
    """
    channels = input_shape[0]
    if isinstance(network, NormalizedNetwork) and network.channels != channels:
        raise ModelError(
            "model.mean", f"has {network.channels} values, and images have {channels} channels", "Give one per channel"
        )
    try:
        with inference(network):
            outputs = network(torch.zeros(2, *input_shape))
    except ModelError:
        raise
    # A user's network may raise anything.
    except Exception as cause:
        what = f"does not take images of shape {input_shape}: {first_line(cause)}"
        raise ModelError("model", what, "Match model.args to the data") from cause
    if task.kind == "custom":
        _check_custom(outputs)
    elif task.kind == "detection":
        _check_boxes(outputs, classes)
    elif not isinstance(outputs, torch.Tensor):
        several = f" of {len(outputs)} outputs" if isinstance(outputs, tuple) else ""
        raise ModelError(
            "model",
            f"returns {type(outputs).__name__}{several}",
            "It must return a tensor of logits; for anything else set task.kind = 'custom'",
        )
    else:
        _check_logits(outputs, classes, task)


def _check_logits(logits: torch.Tensor, classes: int, task: TaskConfig) -> None:
    dense = task.kind == "segmentation"
    if logits.ndim != (4 if dense else 2) or logits.shape[:2] != (2, classes) or 0 in logits.shape:
        wanted = f"(N, {classes}, h, w)" if dense else f"(N, {classes})"
        raise ModelError(
            "model",
            f"returns shape {tuple(logits.shape)} for two images and {classes} classes",
            f"It must return {wanted}; match model.args and task.kind to the data",
        )


def _check_boxes(outputs: object, classes: int) -> None:
    parts = outputs if isinstance(outputs, tuple) else (outputs,)
    shapes = [tuple(part.shape) if isinstance(part, torch.Tensor) else type(part).__name__ for part in parts]
    anchors = shapes[0][1] if len(shapes[0]) == 3 else None
    if shapes != [(2, anchors, classes), (2, anchors, 4)]:
        raise ModelError(
            "model",
            f"returns {shapes} for two images and {classes} classes",
            f"It must return probabilities (N, A, {classes}) and boxes (N, A, 4); set task.outputs to choose and order",
        )


def _check_custom(outputs: object) -> None:
    parts = outputs if isinstance(outputs, tuple) else (outputs,)
    for part in parts:
        if not isinstance(part, torch.Tensor) or not part.is_floating_point() or part.ndim == 0 or len(part) != 2:
            found = (
                f"shape {tuple(part.shape)}, {part.dtype}" if isinstance(part, torch.Tensor) else type(part).__name__
            )
            raise ModelError(
                "model", f"returns {found} for two images", "It must return tensors of numbers, one row an image"
            )


def _read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise ModelError(str(path), "there is no such file", "Check model.weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings():
            # Its advice on pickle protocols is for the authors of torch.
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as cause:
        raise ModelError(
            str(path), "holds pickled objects or is damaged, and Espalier loads plain tensors only", _SAVE_PLAIN
        ) from cause
    # safetensors and torch raise many kinds of errors on damaged files.
    except Exception as cause:
        raise ModelError(str(path), f"cannot be read as a checkpoint: {first_line(cause)}", _SAVE_PLAIN) from cause
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(map(_is_plain, state.values())):
        raise ModelError(str(path), "is not a state dict of plain tensors", "Save network.state_dict()")
    return state


def _is_plain(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized


def _own_state(network: nn.Module) -> dict[str, torch.Tensor]:
    state = network.state_dict()
    for name, value in state.items():
        if not _is_plain(value):
            raise ModelError("model", f"keeps '{name}', which is not a plain tensor", "Save nothing but tensors in it")
    return state


def _load_state(network: nn.Module, state: dict[str, torch.Tensor], where: str) -> None:
    own = _own_state(network)
    # Old checkpoints lack the counters of BatchNorm; they decide nothing in inference.
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in own]
    if missing or unknown:
        side = f"lacks '{missing[0]}'" if missing else f"has '{unknown[0]}', which the network lacks"
        raise ModelError(where, f"does not fit the network: it {side}", "Match model.factory and model.args to it")
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise ModelError(
                where,
                f"'{name}' has shape {tuple(tensor.shape)}, the network's {tuple(own[name].shape)}",
                "Match model.args to the checkpoint",
            )
        if tensor.is_floating_point() != own[name].is_floating_point():
            raise ModelError(where, f"'{name}' is {tensor.dtype}, the network's {own[name].dtype}", _SAVE_PLAIN)
        # As the network will hold it: a number of 64 bits may be too large for 32.
        if not bool(torch.isfinite(tensor.to(own[name].dtype)).all()):
            raise ModelError(where, f"'{name}' holds values that are not finite", "Use another checkpoint")
    network.load_state_dict(state, strict=False)
