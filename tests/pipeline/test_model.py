"""Networks: what factories may give, what is refused and in which words, and the round trip to disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from devices.errors import ModelError
from pipeline.model import (
    NetworkArtifact,
    NormalizedNetwork,
    build_network,
    check_network,
    load_network,
    load_plan,
    save_network,
)
from pipeline.prune.groups import find_groups, plan_for
from pipeline.prune.replay import apply_plan
from pipeline.prune.trace import trace_network
from pipeline.recipe import ModelConfig

CONFIG = ModelConfig(factory="pipeline.zoo:residual_cnn", args={"channels": 8, "blocks": 1})
FACTORIES = """
import numpy as np, random, torch
from torch import nn

class Extra(nn.Linear):
    def get_extra_state(self):
        return {"calls": 1}
    def set_extra_state(self, state):
        pass

def drawn():
    network = nn.Linear(2, 2)
    network.register_buffer("drawn", torch.tensor([np.random.rand(), random.random()]))
    return network

def raising():
    raise RuntimeError("no such depth")

def nothing():
    return [nn.Linear(1, 1)]

def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))

def extra():
    return Extra(2, 2)

def half():
    return nn.Linear(2, 2).half().train()
"""


@pytest.fixture(scope="module")
def factories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of factories."""
    path = tmp_path_factory.mktemp("user") / "net.py"
    path.write_text(FACTORIES)
    return path


def test_weights_depend_on_the_seed_alone(factories: Path) -> None:
    """Whatever random source the factory draws from; the process's own sources go on as if nothing had been."""
    config = ModelConfig(factory=f"{factories}:drawn")
    torch.manual_seed(3)
    np.random.seed(3)
    first = build_network(config, seed=1).state_dict()
    after = (torch.rand(1).item(), np.random.rand())
    torch.manual_seed(3)
    np.random.seed(3)
    assert (torch.rand(1).item(), np.random.rand()) == after
    second, third = build_network(config, seed=1).state_dict(), build_network(config, seed=2).state_dict()
    for name in ("weight", "drawn"):
        assert torch.equal(first[name], second[name])
        assert not torch.equal(first[name], third[name])


def test_a_network_comes_in_single_precision_and_in_evaluation(factories: Path) -> None:
    network = build_network(ModelConfig(factory=f"{factories}:half"), seed=0)
    assert not network.training
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("raising", "model.factory: the factory raised RuntimeError: no such depth"),
        ("nothing", "model.factory: returned list. It must return a torch.nn.Module"),
        ("lazy", "model.factory: '1.weight' has no shape yet"),
    ],
)
def test_a_factory_that_gives_no_network(factories: Path, name: str, says: str) -> None:
    with pytest.raises(ModelError) as refused:
        build_network(ModelConfig(factory=f"{factories}:{name}"), seed=0)
    assert says in str(refused.value)


def test_a_network_that_keeps_more_than_tensors(factories: Path, tmp_path: Path) -> None:
    network = build_network(ModelConfig(factory=f"{factories}:extra"), seed=0)
    with pytest.raises(ModelError, match=r"^model: keeps '_extra_state', which is not a plain tensor"):
        save_network(network, None, tmp_path)


class Answering(nn.Module):
    """Answers with whatever it was given."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: torch.Tensor) -> Any:
        """The answer, or what it raises."""
        return self.answer(x)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (
            lambda x: x.view(len(x), 3, 64) @ torch.ones(64, 10),
            "returns shape (2, 3, 10) for two images and 10 classes",
        ),
        (lambda x: torch.ones(len(x), 7), "returns shape (2, 7) for two images and 10 classes"),
        (lambda x: torch.ones(1, 10), "returns shape (1, 10) for two images"),
        (lambda x: (x, x), "returns tuple of 2 outputs. It must return a tensor of logits"),
        (lambda x: x.flatten(1) @ torch.ones(4, 10), "does not take images of shape (3, 8, 8): mat1 and mat2 shapes"),
        (lambda x: [][1], "does not take images of shape (3, 8, 8): list index out of range"),
    ],
)
def test_answers_of_another_form_are_refused(answer: Any, says: str) -> None:
    with pytest.raises(ModelError) as refused:
        check_network(Answering(answer), (3, 8, 8), 10)
    assert says in str(refused.value)
    check_network(Answering(lambda x: torch.ones(len(x), 10)), (3, 8, 8), 10)


def test_a_network_for_other_images_is_refused() -> None:
    with pytest.raises(ModelError, match=r"does not take images of shape \(3, 8, 8\): Given groups=1, weight of size"):
        check_network(build_network(CONFIG, 0), (3, 8, 8), 10)


def test_checking_leaves_the_mode_and_the_statistics() -> None:
    network = build_network(CONFIG, 0).train()
    check_network(network, (1, 8, 8), 10)
    assert network.training
    assert network.get_buffer("bn.num_batches_tracked") == 0


def test_normalization_is_part_of_the_network() -> None:
    """As by hand, and away with a count of values that does not fit."""
    args = {"in_channels": 3, "channels": 8, "blocks": 1}
    plain = ModelConfig(factory=CONFIG.factory, args=args)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    network = build_network(plain.model_copy(update={"mean": mean, "std": std}), seed=4)
    assert isinstance(network, NormalizedNetwork)
    images = torch.rand(4, 3, 8, 8)
    by_hand = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        assert torch.equal(network(images), build_network(plain, seed=4)(by_hand))
    assert set(network.state_dict()) == {f"network.{name}" for name in build_network(plain, 0).state_dict()}
    check_network(network, (3, 8, 8), 10)
    with pytest.raises(ModelError, match=r"^model.mean: has 3 values, and images have 1 channels"):
        check_network(network, (1, 8, 8), 10)
    one = build_network(plain.model_copy(update={"mean": (0.5,), "std": (0.2,)}), seed=4)
    with pytest.raises(ModelError, match=r"^model.mean: has 1 values, and images have 3 channels"):
        check_network(one, (3, 8, 8), 10)


ANSWER = """
import sys, numpy as np, torch
from pathlib import Path
from pipeline.model import NetworkArtifact, load_network
from pipeline.recipe import ModelConfig
torch.set_num_threads(1)
config = ModelConfig.model_validate_json(sys.argv[1])
network = load_network(config, NetworkArtifact(Path(sys.argv[2])), seed=int(sys.argv[3]))
images = torch.rand((8, 1, 8, 8), generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    np.save(sys.argv[4], network(images).numpy())
"""


@pytest.mark.parametrize("normalized", [False, True])
def test_a_pruned_network_comes_back_in_another_process(tmp_path: Path, normalized: bool) -> None:
    """Plan and weights alone give equal answers, whatever the seed of the rebuilt network."""
    extra: dict[str, Any] = {"mean": (0.2,), "std": (0.3,)} if normalized else {}
    config = CONFIG.model_copy(update=extra)
    network = build_network(config, seed=6)
    images = torch.rand((8, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    groups = find_groups(network, trace_network(network, images[:1]), images[:1], ()).groups
    plan = plan_for(network, [unit for group in groups for unit in group.units[::3]])
    apply_plan(network, plan)
    artifact = save_network(network, plan, tmp_path)
    assert load_plan(artifact) == plan
    answer = tmp_path / "answer.npy"
    command = [sys.executable, "-W", "error", "-c", ANSWER, config.model_dump_json(), str(tmp_path), "9", str(answer)]
    subprocess.run(command, check=True, timeout=120)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        expected = network(images).numpy()
    torch.set_num_threads(threads)
    assert np.array_equal(np.load(answer), expected)


def test_a_dense_network_has_no_plan_and_a_damaged_plan_is_refused(tmp_path: Path) -> None:
    network = build_network(CONFIG, seed=1)
    artifact = save_network(network, None, tmp_path)
    assert load_plan(artifact) is None
    loaded = load_network(CONFIG, NetworkArtifact(tmp_path), seed=2)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in network.state_dict().items())
    (tmp_path / "plan.json").write_text('{"format": "espalier-plan/1", "cuts": [')
    with pytest.raises(ModelError, match=r"plan.json: cannot be read as JSON"):
        load_network(CONFIG, artifact, seed=2)
    (tmp_path / "plan.json").write_text('{"format": "espalier-plan/3", "cuts": []}')
    with pytest.raises(ModelError, match=r"plan.json: is not a pruning plan of format 'espalier-plan/2'"):
        load_network(CONFIG, artifact, seed=2)


def test_equal_networks_are_saved_as_equal_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        save_network(build_network(CONFIG, seed=1), None, tmp_path / folder)
    assert (tmp_path / "one/weights.safetensors").read_bytes() == (tmp_path / "two/weights.safetensors").read_bytes()
