"""One training under way: all that changes from step to step, and how it is kept and taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from devices.errors import EspalierError, ModelError
from devices.memory_fault import memory_fault
from pipeline.compute import derived_seed
from pipeline.data import Split
from pipeline.prune.network import first_line, inference
from pipeline.recipe import FitConfig, ObjectiveConfig
from pipeline.recovery.batches import crop_flip, draw_moves
from pipeline.recovery.checkpoints import Saved
from pipeline.recovery.distill import Distillation
from pipeline.recovery.machine import Machine
from pipeline.recovery.objective import Loss, Metric, adversarial, training_loss
from pipeline.recovery.rates import rate_at
from pipeline.recovery.weights import Average, Holes, all_tensors, copies, copy_into
from pipeline.tasks.builtin import Classification

LOWER = "Lower learning_rate"
_VALIDATION_NOISE = 2


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What is minimized, and what validation watches: of classification without another."""

    loss: Loss = Classification().loss
    metric: Metric = Classification().metric
    ignore_label: int = 255
    """Comes in where a mask (N, H, W) is shifted."""


CLASSIFYING = Aim()


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is learned: images, what is minimized on them, and how."""

    train: Split
    validation: Split | None
    objective: ObjectiveConfig
    config: FitConfig
    seed: int
    aim: Aim

    @property
    def watches_robust(self) -> bool:
        """Whether validation images are attacked."""
        return self.objective.attacked or self.config.watch == "robust"


class Training:
    """A network, its optimizer and what follows them. Everything here changes in place."""

    def __init__(
        self, network: nn.Module, task: Task, machine: Machine, holes: Holes, distillation: Distillation | None
    ) -> None:
        self.network = network
        self._task = task
        self._machine = machine
        self._holes = holes
        self._distillation = distillation
        maps = list(distillation.maps.parameters()) if distillation else []
        self._trained = [item for item in (*network.parameters(), *maps) if item.requires_grad]
        config = task.config
        self._optimizer = torch.optim.SGD(
            self._trained, lr=config.learning_rate, momentum=0.9, weight_decay=config.weight_decay, nesterov=True
        )
        self._average = Average(network, config.ema_decay) if config.ema_decay else None
        self._best: dict[str, torch.Tensor] = {}
        self.best_epoch: int | None = None
        self.losses: list[float] = []
        self.accuracies: list[float] = []
        self.clean_accuracies: list[float] = []

    def step(
        self, chosen: NDArray[np.int64], generator: torch.Generator, step: int, steps: int, moment: str
    ) -> torch.Tensor:
        """One update on these samples, the `step`-th from 0 of `steps`. Returns their mean loss.

        Raises `ModelError` that names the moment when the network fails or the loss is not finite.
        """
        images, targets, noise, weight = self._batch(chosen, generator)
        self._optimizer.zero_grad(set_to_none=True)
        mean = self._backward(images, targets, noise, weight, moment)
        # In all processes at once, so that none waits for one that has stopped.
        mean = self._machine.sum_gradients(mean, self._trained)
        if not bool(torch.isfinite(mean)):
            raise ModelError("training", f"the loss is {float(mean)} in {moment}", LOWER)
        config = self._task.config
        rate, momentum = rate_at(config.schedule, config.learning_rate, step, steps)
        for group in self._optimizer.param_groups:
            group["lr"], group["momentum"] = rate, momentum
        try:
            self._optimizer.step()
        # The rate itself is no number of 32 bits.
        except RuntimeError as cause:
            raise ModelError("training", f"the update fails in {moment}: {first_line(cause)}", LOWER) from cause
        self._holes.close()
        if self._average:
            self._average.update(step)
        return mean

    def validate(self, epoch: int) -> None:
        """Score the weights that would be kept on the validation images, and keep them if none were better.

        Where an adversary is watched, on adversarial images: clean accuracy, which is noted beside, keeps rising while
        the robust one falls (Rice et al. 2020).
        """
        split = self._task.validation
        assert split is not None
        generator = torch.Generator().manual_seed(derived_seed(self._task.seed, _VALIDATION_NOISE))
        scored = torch.zeros(3, dtype=torch.float64)
        with self._average.in_place() if self._average else nullcontext(), inference(self.network):
            for start in range(0, len(split), self._task.config.batch_size):
                chosen = np.arange(start, min(start + self._task.config.batch_size, len(split)))
                scored += self._score(split, chosen, generator)
        total, clean, count = self._machine.sum(scored.float().to(self._machine.device)).tolist()
        self.accuracies.append(total / count)
        if self._task.watches_robust:
            self.clean_accuracies.append(clean / count)
        if self.best_epoch is None or self.accuracies[-1] > max(self.accuracies[:-1]):
            self.best_epoch = epoch
            # In place, so that every name of a tied parameter has the average.
            with self._average.in_place() if self._average else nullcontext():
                self._best = copies(all_tensors(self.network))

    def end(self) -> None:
        """Give the network the weights that it ends with: the best, else the average, else those it has."""
        self._optimizer.zero_grad(set_to_none=True)
        if self._best:
            copy_into(self.network, self._best)
        elif self._average:
            copy_into(self.network, self._average.values)
        self.network.eval()

    def snapshot(self, epoch: int) -> Saved:
        """All that the rest of the training depends on; random states are those of the epoch's number."""
        persistent = set(self.network.state_dict())
        tensors = all_tensors(self.network)
        momenta = {
            f"momentum.{index}": self._optimizer.state[item]["momentum_buffer"]
            for index, item in enumerate(self._trained)
            if self._optimizer.state[item].get("momentum_buffer") is not None
        }
        training = {
            **momenta,
            **_prefixed("buffer", {name: tensor for name, tensor in tensors.items() if name not in persistent}),
            **_prefixed("average", self._average.values if self._average else {}),
            **_prefixed("best", self._best),
            **_prefixed("map", self._distillation.maps.state_dict() if self._distillation else {}),
        }
        weights = {name: tensor for name, tensor in tensors.items() if name in persistent}
        history = {
            "losses": self.losses,
            "accuracies": self.accuracies,
            "clean_accuracies": self.clean_accuracies,
            "best_epoch": self.best_epoch,
        }
        return Saved(epoch, copies(weights), copies(training), history)

    def restore(self, saved: Saved) -> None:
        """Go back to where a snapshot was taken."""
        copy_into(self.network, saved.weights)
        copy_into(self.network, _without_prefix("buffer", saved.training))
        for index, value in _without_prefix("momentum", saved.training).items():
            parameter = self._trained[int(index)]
            self._optimizer.state[parameter]["momentum_buffer"] = value.to(parameter.device)
        if self._average:
            for name, value in _without_prefix("average", saved.training).items():
                self._average.values[name].copy_(value)
        if self._distillation:
            self._distillation.maps.load_state_dict(dict(_without_prefix("map", saved.training)))
        self._best = dict(_without_prefix("best", saved.training))
        self.losses = list(saved.history["losses"])
        self.accuracies = list(saved.history["accuracies"])
        self.clean_accuracies = list(saved.history["clean_accuracies"])
        self.best_epoch = saved.history["best_epoch"]

    def _batch(
        self, chosen: NDArray[np.int64], generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, float]:
        """This process's share of a batch: images, targets, start of an attack, and the share.

        Random numbers are drawn for the whole batch, so that they do not depend on the number of processes.
        """
        split, device = self._task.train, self._machine.device
        part = self._machine.share(len(chosen))
        own = chosen[part]
        images, targets = torch.from_numpy(split.batch(own)), torch.from_numpy(split.labels[own])
        if self._task.config.augment == "crop_flip":
            height, width = images.shape[2:]
            moves = draw_moves(len(chosen), height, width, generator)
            images, targets = crop_flip(images, targets, moves[part], self._task.aim.ignore_label)
        noise = None
        if self._task.objective.attacked:
            noise = torch.rand((len(chosen), *images.shape[1:]), generator=generator)[part].to(device)
        return images.to(device), targets.to(device), noise, len(own) / len(chosen)

    def _backward(
        self, images: torch.Tensor, targets: torch.Tensor, noise: torch.Tensor | None, weight: float, moment: str
    ) -> torch.Tensor:
        """Mean loss of this share times its weight, its gradients in the parameters."""
        try:
            with self._machine.precision():
                objective, hard = self._task.objective, self._task.aim.loss
                outputs, loss = training_loss(self.network, images, targets, objective, hard, noise)
                if self._distillation:
                    loss = self._distillation.loss(outputs, loss, images, targets)
            loss = loss if weight == 1 else loss * weight
            loss.backward()  # type: ignore[no-untyped-call]
        except EspalierError:
            raise
        # A user's network or loss may raise anything, and behave otherwise in training than in inference.
        except Exception as cause:
            raise memory_fault(cause) or ModelError(
                "training",
                f"the network fails in {moment}: {first_line(cause)}",
                "It must return logits in training too",
            ) from cause
        return loss.detach()

    def _score(self, split: Split, chosen: NDArray[np.int64], generator: torch.Generator) -> torch.Tensor:
        """Of this process's share of a batch: sum of the scores, of those on clean images, and how many they are."""
        noise = torch.rand((len(chosen), *split.images.shape[1:]), generator=generator)
        part = self._machine.share(len(chosen))
        own, device = chosen[part], self._machine.device
        if not len(own):
            return torch.zeros(3, dtype=torch.float64)
        images, targets = torch.from_numpy(split.batch(own)), torch.from_numpy(split.labels[own])
        images, targets, noise = images.to(device), targets.to(device), noise[part].to(device)
        try:
            with self._machine.precision():
                clean = score = float(self._task.aim.metric(self.network(images.clone()), targets))
                if self._task.watches_robust:
                    with torch.enable_grad():
                        images = adversarial(
                            self.network, images, targets, self._task.objective, self._task.aim.loss, noise
                        )
                    score = float(self._task.aim.metric(self.network(images), targets))
        except EspalierError:
            raise
        # A user's network or metric may raise anything.
        except Exception as cause:
            raise memory_fault(cause) or ModelError(
                "training", f"the validation fails: {first_line(cause)}", "Mend the metric, or set no validation"
            ) from cause
        return torch.tensor([score * len(own), clean * len(own), len(own)], dtype=torch.float64)


def _prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _without_prefix(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}
