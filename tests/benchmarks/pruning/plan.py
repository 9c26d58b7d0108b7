"""How much is run: the whole table, or a smoke run of every row."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devices.files import digest_file
from pipeline.model import WEIGHTS_FILE
from tests.benchmarks.pruning.as_fast import AsFastAs
from tests.benchmarks.pruning.ours import Request
from tests.benchmarks.pruning.recover import Job

# Names of the peer's arms, and whether it is configured as its examples do.
PEERS = {"peer as it comes": False, "peer configured": True}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every row is given."""

    out: Path
    """Arrays, networks, engines and `results.json`."""
    peer: Path
    """Python of the environment that has Torch-Pruning."""
    data: Path | None
    """Archive of CIFAR-10 as JPEG."""
    weights: Path | None
    """Weights of ResNet-20."""
    seeds: tuple[int, ...] = (0, 1, 2)
    workers: int = 2
    """Recoveries side by side."""
    channel_step: int
    """Of the profile `cpu`; the peer rounds to it."""
    quick: bool = False
    """The peer's share is searched coarsely."""
    prune: dict[str, Any] = field(default_factory=dict)
    """Settings of `[prune]` for ours, beside the target; what is not set is as it comes."""
    train_images: int | None = None
    test_images: int | None = None
    tune_images: int = 0
    """Of ours as fast as a peer: what is left without blocks is trained on so many, once, before it is compared."""
    epochs: int = 2
    duration_s: float = 20.0
    """Time of an interleaved measurement that is reported."""
    probe_s: float = 2.0
    """Time of a measurement that only guides the pruning to equal latency."""
    question_images: int = 10_000
    """Training images of the question of scope and schedule."""
    question_epochs: int = 4
    folds: int = 5
    """Of the digits, out of five."""
    recovered: tuple[str, ...] = ()
    """Arms of ResNet-20 that are recovered; without any, all of them. Latency is measured of all."""

    def recovers(self, key: str) -> bool:
        """Whether a recovery is wanted, by its key `cifar/recovered/ARM/SEED`."""
        return not self.recovered or key.split("/")[2] in self.recovered

    def peer_settings(self, dense: Path, target_macs: float, tuned: bool) -> dict[str, Any]:
        """What decides the peer's network."""
        return {
            "dense": digest_file(dense / WEIGHTS_FILE),
            "target_macs": target_macs,
            "tuned": tuned,
            "round_to": self.channel_step,
            "quick": self.quick,
            "script": digest_file(Path(__file__).parent / "peer_prune.py"),
        }

    def ours(
        self,
        name: str,
        dense: Path,
        out: Path,
        images: Path | None = None,
        latency: AsFastAs | None = None,
        tuned: Job | None = None,
        **target: Any,
    ) -> Request:
        """Our pruning of a dense network in one shot to this target; what is ranked on images is on these."""
        return Request(
            network=name,
            start=dense,
            dense=dense,
            out=out,
            settings=self.prune | target,
            channel_step=self.channel_step,
            images=images,
            latency=latency,
            tuned=tuned,
        )
