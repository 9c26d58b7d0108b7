"""A network's passes on a GPU, for benchmarks whose attacks are written for the CPU."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.prune.network import copy_network


class Accelerated(nn.Module):
    """Takes and gives tensors on the CPU, with their gradients; the passes in between run on the GPU."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.inner = copy_network(network).to("cuda")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes) of images (N, C, H, W)."""
        found: torch.Tensor = self.inner(images.to("cuda", non_blocking=True)).to("cpu")
        return found


def accelerated(network: nn.Module) -> nn.Module:
    """A copy that runs on the GPU in the digits of FP32, or the network itself where there is none."""
    if not torch.cuda.is_available():
        return network
    # The attacks' thousands of small steps would otherwise climb what 10 bits say.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    return Accelerated(network.eval()).eval()
