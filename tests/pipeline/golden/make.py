"""How the files of this folder were made: `python -m tests.pipeline.golden.make FOLDER`.

They are of torch 2.13 and safetensors 0.8. What was written then must come back for ever, so they stay as they are: a
new format gets a folder of its own beside them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from pipeline.model import build_network, save_network
from pipeline.prune.blocks import skip_blocks
from pipeline.prune.criteria.base import CriterionInputs
from pipeline.prune.groups import find_groups, plan_for
from pipeline.prune.masks import apply_masks, mask_weights
from pipeline.prune.plan import PruningPlan, compose_plans
from pipeline.prune.replay import apply_plan
from pipeline.prune.trace import trace_network
from pipeline.recipe import ModelConfig

CONFIG = ModelConfig(factory=f"{Path(__file__).with_name('network.py')}:build")
SKIPPED, MASKED = "blocks.1", "hidden.weight"


def make(folder: Path) -> None:
    """Write plan, weights, images and answers."""
    network = build_network(CONFIG, seed=5)
    images = torch.rand((4, 1, 8, 8), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        network.train()(torch.rand((64, 1, 8, 8), generator=torch.Generator().manual_seed(6)))
    network.eval()
    first = PruningPlan(blocks=(SKIPPED,))
    skip_blocks(network, first.blocks)
    groups = find_groups(network, trace_network(network, images[:1]), images[:1], ()).groups
    assert {group.kind for group in groups} == {"channels", "neurons", "heads"}
    second = plan_for(network, [unit for group in groups for unit in group.units[1::2]])
    apply_plan(network, second)
    ignore = tuple(name for name, tensor in network.named_parameters() if tensor.ndim > 1 and name != MASKED)
    masks = mask_weights(CriterionInputs(network, (), (), None, 0, None), 0.5, "l1", "local", ignore)
    network = apply_masks(network, masks)
    plan = compose_plans(compose_plans(first, second), PruningPlan(masked=tuple(masks.keep)))
    assert plan.numbers
    save_network(network, plan, folder)
    with torch.no_grad():
        answers = network(images)
    np.savez(folder / "answers.npz", images_NCHW=images.numpy(), answers=answers.numpy())


if __name__ == "__main__":
    make(Path(sys.argv[1]))
