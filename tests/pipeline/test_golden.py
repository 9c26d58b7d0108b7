"""A pruned network that an earlier version wrote comes back under this one, whatever changed since."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from pipeline.model import NetworkArtifact, load_network, load_plan
from tests.pipeline.golden.make import CONFIG, MASKED, SKIPPED

FOLDER = Path(__file__).with_name("golden")


def test_it_answers_as_it_did_when_it_was_written() -> None:
    """Under another version of torch or safetensors too; the seed of the rebuilt network does not matter."""
    network = load_network(CONFIG, NetworkArtifact(FOLDER), seed=99)
    with np.load(FOLDER / "answers.npz") as stored:
        with torch.no_grad():
            answers = network(torch.from_numpy(stored["images_NCHW"])).numpy()
        assert np.abs(stored["answers"]).max() > 0.1
        assert np.abs(answers - stored["answers"]).max() < 1e-6
    widths = {name: tuple(tensor.shape) for name, tensor in network.named_parameters()}
    assert widths["stem.weight"] == (4, 1, 3, 3)
    assert network.get_submodule("attention").heads == 2
    assert not any(name.startswith(SKIPPED) for name in widths)
    assert int((network.get_parameter(MASKED) == 0).sum()) == network.get_parameter(MASKED).numel() // 2


def test_its_plan_is_written_as_it_was() -> None:
    plan = load_plan(NetworkArtifact(FOLDER))
    assert plan is not None
    assert plan.as_dict() == json.loads((FOLDER / "plan.json").read_text())
    assert plan.masked == (MASKED,)
