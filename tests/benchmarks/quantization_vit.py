"""A small vision transformer of random weights as ONNX, by the environment that has transformers: `... OUT.onnx`."""

from __future__ import annotations

import sys

import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

_OPSET = 20


class _Logits(nn.Module):
    """The network with one array for an answer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x).logits  # type: ignore[no-any-return]


def main() -> None:
    """Write the network."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=192,
        image_size=32,
        patch_size=4,
        num_labels=10,
        attn_implementation="eager",
    )
    network = _Logits(ViTForImageClassification(config)).eval()
    shapes = ({0: torch.export.Dim("batch")},)
    images = torch.rand(2, 3, 32, 32)
    program = torch.onnx.export(
        network,
        (images,),
        dynamo=True,
        opset_version=_OPSET,
        dynamic_shapes=shapes,
        input_names=["image"],
        output_names=["logits"],
    )
    assert program is not None
    program.save(sys.argv[1])


if __name__ == "__main__":
    main()
