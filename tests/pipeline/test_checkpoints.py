"""Checkpoints: what is loaded, what is refused and in which words, and that no pickle is ever run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from devices.errors import ModelError
from pipeline.model import NormalizedNetwork, build_network, load_checkpoint
from pipeline.recipe import ModelConfig

CONFIG = ModelConfig(factory="pipeline.zoo:residual_cnn", args={"channels": 8, "blocks": 1})


def state() -> dict[str, torch.Tensor]:
    """Weights that fit `CONFIG`."""
    return dict(build_network(CONFIG, seed=5).state_dict())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("normalized", [False, True])
def test_a_sound_checkpoint_is_loaded(tmp_path: Path, suffix: str, normalized: bool) -> None:
    """With or without BatchNorm's counters, under `state_dict` or not; names are those of the factory's own network."""
    path, given = tmp_path / f"weights{suffix}", state()
    for name in [name for name in given if name.endswith("num_batches_tracked")]:
        del given[name]
    if suffix == ".pt":
        torch.save({"epoch": 3, "state_dict": given}, path)
    else:
        save_file(given, path)
    extra = {"mean": (0.5,), "std": (0.5,)} if normalized else {}
    network = build_network(CONFIG.model_copy(update=extra), seed=0)
    load_checkpoint(network, path)
    inner = network.network if isinstance(network, NormalizedNetwork) else network
    assert isinstance(inner, nn.Module)
    assert all(torch.equal(inner.state_dict()[name], tensor) for name, tensor in given.items())


def changed(**tensors: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """`state` with other tensors by name, `__` for a dot; None takes one away."""
    result = state()
    for name, tensor in tensors.items():
        key = name.replace("__", ".")
        if tensor is None:
            del result[key]
        else:
            result[key] = tensor
    return result


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (changed(bn__bias=None), "does not fit the network: it lacks 'bn.bias'"),
        (changed(head__bias=torch.ones(1)), "does not fit the network: it has 'head.bias', which the network lacks"),
        (changed(bn__bias=torch.ones(9)), "'bn.bias' has shape (9,), the network's (8,)"),
        (changed(bn__bias=torch.full((8,), torch.nan)), "'bn.bias' holds values that are not finite"),
        (changed(bn__bias=torch.full((8,), 1e300, dtype=torch.float64)), "'bn.bias' holds values that are not finite"),
        (changed(bn__bias=torch.ones(8, dtype=torch.uint8)), "'bn.bias' is torch.uint8, the network's torch.float32"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path, content: dict[str, torch.Tensor], says: str) -> None:
    network = build_network(CONFIG, seed=0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for path, save in ((tmp_path / "a.safetensors", save_file), (tmp_path / "a.pth", torch.save)):
        save(content, path)
        with pytest.raises(ModelError) as refused:
            load_checkpoint(network, path)
        assert str(refused.value).startswith(f"{path}: ")
        assert says in str(refused.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"model": {}, "epoch": 1}, "is not a state dict of plain tensors"),
        ([torch.ones(1)], "is not a state dict of plain tensors"),
        (torch.ones(3), "is not a state dict of plain tensors"),
        ({"a": torch.ones(3).to_sparse()}, "is not a state dict of plain tensors"),
        ({1: torch.ones(3)}, "lacks 'stem.weight'"),
        (nn.Linear(1, 1), "plain tensors only"),
    ],
    ids=["other names", "list", "tensor", "sparse", "numbers for names", "a module"],
)
def test_a_checkpoint_of_other_things_is_refused(tmp_path: Path, content: object, says: str) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(ModelError, match=says):
        load_checkpoint(build_network(CONFIG, seed=0), path)


class Evil:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    owned = tmp_path / "owned"
    torch.save({"stem.weight": Evil(owned)}, tmp_path / "new.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Evil(owned)))
    for name in ("new.pt", "old.pt"):
        with pytest.raises(ModelError, match="holds pickled objects or is damaged, and Espalier loads plain tensors"):
            load_checkpoint(build_network(CONFIG, seed=0), tmp_path / name)
    assert not owned.exists()
    # The trap does work.
    pickle.loads((tmp_path / "old.pt").read_bytes())  # noqa: S301
    assert owned.exists()


def test_a_missing_or_damaged_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere.pt: there is no such file. Check model.weights"):
        load_checkpoint(build_network(CONFIG, seed=0), tmp_path / "nowhere.pt")
    for suffix, save in ((".safetensors", save_file), (".pt", torch.save)):
        path = tmp_path / f"whole{suffix}"
        save(state(), path)
        content = path.read_bytes()
        for cut in (0, 5, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:cut])
            with pytest.raises(ModelError, match=str(path)):
                load_checkpoint(build_network(CONFIG, seed=0), path)
        path.write_text("not a checkpoint\n")
        with pytest.raises(ModelError, match=str(path)):
            load_checkpoint(build_network(CONFIG, seed=0), path)
