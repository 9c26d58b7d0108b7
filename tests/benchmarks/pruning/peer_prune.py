"""Torch-Pruning on one network, in an environment of its own: `python -m tests.benchmarks.pruning.peer_prune job.json`.

As it comes: `BasePruner` with its defaults, one share for all layers, raised until the target is met, as its script
`reproduce/main.py` does. Configured: widths rounded to our step or half of it, ranked within layers or over isomorphic
groups (Fang et al. 2024); of the four the one that comes nearest to the target. All rank by `GroupMagnitudeImportance`.
"""

from __future__ import annotations

import json
import math
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp  # type: ignore[import-not-found]
from safetensors.torch import load_file, save_file
from torch import nn

from tests.benchmarks.pruning import networks

_LEAST, _MOST, _COARSE, _FINE = 0.2, 0.8, 0.05, 0.01
_FAR = 100.0
Options = dict[str, Any]


class _Peer:
    """One network and one configuration; each trial prunes a fresh copy."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.name: str = job["network"]
        self.tuned: bool = job["tuned"]
        self.state = load_file(Path(job["dense"], "weights.safetensors"))
        self.images = networks.fixed_images(self.name, 1)
        self.shape = networks.SHAPES[self.name]
        self.target = job["target_macs"] * self.macs(self.dense())

    def dense(self) -> nn.Module:
        network = networks.build(self.name)
        network.load_state_dict(self.state)
        return network

    def macs(self, network: nn.Module) -> float:
        return float(tp.utils.count_ops_and_params(network, self.images)[0])

    def pruned(self, ratio: float, options: Options, ignored: tuple[str, ...]) -> nn.Module:
        """Pruned by this share and run once. Raises whatever the peer or the broken network raises."""
        network = self.dense()
        pruner = tp.pruner.BasePruner(
            network,
            self.images,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            ignored_layers=[network.get_submodule(layer) for layer in (self.shape.classifier, *ignored)],
            **options,
        )
        pruner.step()
        with torch.no_grad():
            network(self.images)
        return network

    def search(self, options: Options, ignored: tuple[str, ...], quick: bool) -> tuple[float, float]:
        """The share to prune by, and the multiply-accumulates that it leaves."""
        tried: dict[float, float] = {}
        coarse = _COARSE * (2 if quick else 1)

        def scan(low: float, high: float, step: float) -> float:
            for ratio in (round(low + index * step, 2) for index in range(round((high - low) / step) + 1)):
                tried.setdefault(ratio, self.macs(self.pruned(ratio, options, ignored)))
            return min(tried, key=lambda ratio: self.miss(tried[ratio]))

        best = scan(_LEAST, _MOST, coarse)
        if not quick:
            # Rounding makes what is left jump, and rise again where a layer would lose everything: no bisection.
            best = scan(best - _COARSE, best + _COARSE, _FINE)
        return best, tried[best]

    def miss(self, left: float) -> float:
        """How far from the target; as it comes, what is above the target counts as further than all below."""
        distance = abs(math.log(left / self.target))
        return distance + (_FAR if not self.tuned and left > self.target else 0)

    def configurations(self, step: int) -> list[Options]:
        """What is tried."""
        if not self.tuned:
            return [{}]
        isomorphic = {"global_pruning": True, "isomorphic": True}
        return [kind | {"round_to": width} for width in (step, step // 2) for kind in ({}, isomorphic)]


def _what_runs(peer: _Peer) -> tuple[tuple[str, ...], str | None]:
    """Layers that it must be told to leave alone, and the error that says so."""
    try:
        peer.pruned(0.5, {}, ())
    # The peer raises whatever indexing past a tensor raises; with no layers to leave alone it is raised on.
    except Exception as error:
        if not peer.shape.stream:
            raise
        return peer.shape.stream, f"{type(error).__name__}: {error}".splitlines()[0]
    return (), None


def prune(job: dict[str, Any]) -> dict[str, object]:
    """Prune, write the weights, and say what was done and what it took to run at all."""
    peer = _Peer(job)
    dense = peer.macs(peer.dense())
    ignored, error = _what_runs(peer)
    tried = [
        (options, *peer.search(options, ignored, job["quick"])) for options in peer.configurations(job["round_to"])
    ]
    options, ratio, left = min(tried, key=lambda item: peer.miss(item[2]))
    started = time.perf_counter()
    network = peer.pruned(ratio, options, ignored)
    seconds = time.perf_counter() - started
    out = Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, out / "weights.safetensors")
    with torch.no_grad():
        logits = network(networks.fixed_images(peer.name, 2))
    return {
        "pruning_ratio": ratio,
        "options": options,
        "tried": [{**given, "pruning_ratio": share, "macs_gain": dense / rest} for given, share, rest in tried],
        "ignored": list(ignored),
        "error_without": error,
        "macs_gain_peer_counts": dense / left,
        "prune_s": seconds,
        "logits": logits.tolist(),
        "versions": {"torch": torch.__version__, "torch-pruning": version("torch-pruning")},
    }


def main() -> None:
    """Read the job, write `peer.json` beside the weights."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    job = json.loads(Path(sys.argv[1]).read_text())
    found = prune(job)
    Path(job["out"], "peer.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
