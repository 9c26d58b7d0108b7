"""Which function makes the module of which operator."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.onnx_network import functions, layers, moves, regroup, windows
from pipeline.onnx_network.site import Built, Site

Builder = Callable[[Site], Built]

BUILDERS: dict[str, Builder] = {
    **dict.fromkeys(functions.VALUE_BY_VALUE, functions.build_value_by_value),
    **dict.fromkeys(functions.REDUCTIONS, functions.build_reduction),
    **dict.fromkeys(functions.FOLDED, functions.build_folded),
    **dict.fromkeys(functions.ACTIVATIONS, functions.build_activation),
    "ArgMax": functions.build_argmax,
    "AveragePool": windows.build_average_pool,
    "BatchNormalization": layers.build_batch_norm,
    "Cast": functions.build_cast,
    "Clip": functions.build_clip,
    "Concat": moves.build_concat,
    "ConstantOfShape": moves.build_filled,
    "Conv": layers.build_convolution,
    "ConvTranspose": layers.build_transposed_convolution,
    "DepthToSpace": moves.build_depth_to_space,
    "Dropout": functions.build_dropout,
    "Einsum": functions.build_einsum,
    "Expand": moves.build_expand,
    "Flatten": regroup.build_reshape,
    "Gather": moves.build_gather,
    "Gemm": layers.build_gemm,
    "GlobalAveragePool": windows.build_global_average_pool,
    "GlobalMaxPool": windows.build_global_max_pool,
    "GroupNormalization": layers.build_group_norm,
    "HardSigmoid": functions.build_hard_sigmoid,
    "InstanceNormalization": layers.build_instance_norm,
    "LayerNormalization": layers.build_layer_norm,
    "LogSoftmax": functions.build_softmax,
    "MatMul": layers.build_matmul,
    "MaxPool": windows.build_max_pool,
    "PRelu": layers.build_prelu,
    "Pad": moves.build_pad,
    "Reshape": regroup.build_reshape,
    "Resize": windows.build_resize,
    "Slice": moves.build_slice,
    "Softmax": functions.build_softmax,
    "SpaceToDepth": moves.build_space_to_depth,
    "Split": moves.build_split,
    "Squeeze": moves.build_squeeze,
    "Swish": functions.build_swish,
    "Tile": moves.build_expand,
    "Transpose": moves.build_transpose,
    "Unsqueeze": moves.build_unsqueeze,
    "Upsample": windows.build_resize,
}
