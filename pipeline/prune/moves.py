"""Operations that move or make values and compute none."""

from __future__ import annotations

# How values lie in memory may differ between widths, and with it how PyTorch moves them.
MOVES = frozenset(
    [
        "view",
        "_unsafe_view",
        "reshape",
        "_reshape_alias",
        "clone",
        "contiguous",
        "expand",
        "as_strided",
        "t",
        "transpose",
        "permute",
        "unsqueeze",
        "squeeze",
        "detach",
        "alias",
        "slice",
        "select",
        "copy",
        "empty_like",
        "new_empty",
        "new_zeros",
        "new_ones",
        "new_full",
        "empty",
        "zeros",
        "ones",
        "full",
        "arange",
        "lift_fresh",
        "_to_copy",
        "zeros_like",
        "ones_like",
        "full_like",
        "scalar_tensor",
        "empty_strided",
        "new_empty_strided",
    ]
)
