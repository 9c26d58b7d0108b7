"""Where a fit runs: one process on a CPU or GPU, or one of several that share each batch, by Lightning Fabric."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import nn

from devices.errors import DeviceError
from pipeline.recipe import FitConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric


Accelerator = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Placement:
    """Hardware, number format and processes of a fit, with every `auto` decided for this host."""

    accelerator: Accelerator
    precision: Literal["fp32", "bf16"]
    devices: int


def place(config: FitConfig) -> Placement:
    """Decide where a fit runs on this host. Raises `DeviceError` when it lacks what the recipe asks for.

    `auto` takes GPUs where there is one for each process, and bf16 on GPUs that compute in it.
    """
    accelerator = accelerator_of(config.accelerator, config.devices)
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if accelerator == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return Placement(accelerator, precision, config.devices)


def accelerator_of(asked: Literal["cpu", "cuda", "auto"], devices: int = 1) -> Accelerator:
    """Where so many processes train; `auto` takes GPUs where there are as many. Raises `DeviceError` without them."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "cuda" and gpus < devices:
        what = f"devices = {devices} on accelerator 'cuda', and PyTorch sees {gpus} here"
        raise DeviceError("training", what, "Lower devices, or set accelerator = 'cpu'")
    if asked == "auto":
        return "cuda" if gpus >= devices else "cpu"
    return asked


def open_machine(placement: Placement) -> Machine:
    """The hardware as this process has it. Raises `DeviceError` without Fabric, or outside of a launcher.

    One process in fp32 needs no Fabric. Several must have been started together, by `pipeline.recovery.launch`,
    `torchrun` or `fabric run`.
    """
    if placement.devices == 1 and placement.precision == "fp32":
        return Machine(placement)
    if placement.devices > 1 and os.environ.get("WORLD_SIZE") != str(placement.devices):
        raise DeviceError(
            "training",
            f"devices = {placement.devices}, and {os.environ.get('WORLD_SIZE', '1')} process was started",
            f"Start it with torchrun --nproc-per-node {placement.devices}",
        )
    require_fabric(placement)
    return Machine(placement, _fabric(placement))


def require_fabric(placement: Placement) -> None:
    """Raises `DeviceError` when Lightning Fabric is not installed."""
    try:
        import lightning_fabric  # noqa: F401
    except ImportError as cause:
        raise DeviceError(
            "training",
            f"devices = {placement.devices} in {placement.precision} needs Lightning Fabric ({cause})",
            "Install it: pip install lightning-fabric, or set devices = 1 and precision = 'fp32'",
        ) from cause


def _fabric(placement: Placement) -> Fabric:
    from lightning_fabric import Fabric

    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if placement.devices > 1 else 1
    log = logging.getLogger("lightning_fabric")
    level = log.level
    # It says on standard error what the report says.
    log.setLevel(logging.WARNING)
    try:
        fabric = Fabric(
            accelerator=placement.accelerator,
            devices=local,
            num_nodes=placement.devices // local,
            strategy="ddp" if placement.devices > 1 else "auto",
            precision="bf16-mixed" if placement.precision == "bf16" else "32-true",
        )
        # `fabric run` sets this, and Fabric has joined the processes by itself then.
        if os.environ.get("LT_CLI_USED") != "1":
            fabric.launch()
    finally:
        log.setLevel(level)
    return fabric


class Machine:
    """One process of a fit. Fabric chooses its device, opens mixed precision and carries sums between processes.

    Gradients are summed here and not by DistributedDataParallel, which fails on parameters that get none (a block that
    pruning skips) and weighs unequal shares of a batch alike.
    """

    def __init__(self, placement: Placement, fabric: Fabric | None = None) -> None:
        self.placement = placement
        self._fabric = fabric
        self.rank = fabric.global_rank if fabric else 0
        self.world = fabric.world_size if fabric else 1
        self.device = fabric.device if fabric else torch.device(placement.accelerator)

    def precision(self) -> AbstractContextManager[object]:
        """Forward passes in here run in the placement's number format."""
        return self._fabric.autocast() if self._fabric else nullcontext()

    def share(self, count: int) -> slice:
        """This process's part of a batch; parts differ by one image at most."""
        each, more = divmod(count, self.world)
        start = self.rank * each + min(self.rank, more)
        return slice(start, start + each + (self.rank < more))

    def sum(self, numbers: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, the same on each."""
        if self._fabric is None or self.world == 1:
            return numbers
        return cast(torch.Tensor, self._fabric.all_reduce(numbers, reduce_op="sum"))

    @torch.no_grad()
    def sum_gradients(self, loss: torch.Tensor, parameters: Sequence[nn.Parameter]) -> torch.Tensor:
        """Sum gradients in place over all processes, and a loss, which is returned: one message for all.

        A parameter that gets a gradient in no process keeps none.
        """
        if self.world == 1:
            return loss
        given = torch.tensor([float(parameter.grad is not None) for parameter in parameters], device=loss.device)
        gradients = [torch.zeros_like(item) if item.grad is None else item.grad for item in parameters]
        flat = torch.cat([loss.reshape(1).float(), given, *(gradient.reshape(-1).float() for gradient in gradients)])
        sizes = [1, len(given), *(item.numel() for item in gradients)]
        total, counts, *sums = torch.split(self.sum(flat), sizes)
        for parameter, count, summed in zip(parameters, counts.tolist(), sums, strict=True):
            parameter.grad = summed.view_as(parameter).to(parameter.dtype) if count else None
        return total.reshape(())

    @torch.no_grad()
    def average_buffers(self, network: nn.Module) -> None:
        """Give every process the mean of what each has in floating-point buffers, such as running statistics.

        On CPUs BatchNorm normalizes by the share of one process, as PyTorch synchronizes it on GPUs only.
        """
        if self.world > 1:
            for buffer in network.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.sum(buffer.clone()) / self.world)

    @contextmanager
    def holding(self, *networks: nn.Module) -> Iterator[None]:
        """The networks lie on this process's device, and on the CPU afterwards; BatchNorm is synchronized on GPUs."""
        for network in networks:
            network.to(self.device)
        replaced = _synchronize(networks[0]) if self.world > 1 and self.device.type == "cuda" else []
        try:
            yield
        finally:
            for parent, name, norm in replaced:
                setattr(parent, name, norm)
            if self.device.type != "cpu":
                for network in networks:
                    network.to("cpu")


def _synchronize(network: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Put SyncBatchNorm, sharing its tensors, in the place of BatchNorm. Returns parents, names and what was there."""
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, nn.SyncBatchNorm):
                setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))  # type: ignore[no-untyped-call]
                replaced.append((parent, name, child))
    return replaced
