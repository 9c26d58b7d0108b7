"""A small real search: digits, and a network of three groups. Run as a module, it searches into a folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from devices.stage import Progress, StageResult, no_progress
from pipeline.data import Split
from pipeline.datasets.digits import digits
from pipeline.model import build_network, save_network
from pipeline.prune.allocate import Ranked, Snapping
from pipeline.prune.criteria.base import CriterionInputs
from pipeline.prune.criteria.select import score_groups
from pipeline.prune.groups import Group, Unit, find_groups
from pipeline.prune.macs import macs_counter
from pipeline.prune.trace import trace_network
from pipeline.recipe import ModelConfig, ObjectiveConfig, RecalibrateConfig, SearchConfig, TaskConfig
from pipeline.search.stage import SearchArtifact, SearchInputs, search_widths

MODEL = ModelConfig(factory="pipeline.zoo:residual_cnn", args={"channels": 8})
SLOW = ModelConfig(factory=f"{Path(__file__).parent / 'slow_network.py'}:slow_cnn", args={"seconds": 0.2})
CONFIG = SearchConfig(trials=14, population=6, validation_samples=60)
STUDY = "study.json"


def made_up(*widths: int) -> list[Ranked]:
    """Groups of these widths without a network, the last unit the least important."""
    groups = [Group(f"layer{g}.weight", tuple(Unit(100 * g + u, ()) for u in range(w))) for g, w in enumerate(widths)]
    return [Ranked(group, np.arange(group.width, 0, -1, dtype=np.float64)) for group in groups]


def training_images() -> Split:
    """120 digits."""
    train = digits().train
    return Split(train.images[:120], train.labels[:120])


def search_inputs(
    folder: Path,
    model: ModelConfig = MODEL,
    measures: Mapping[str, Callable[[Sequence[Unit]], float]] | None = None,
    seed: int = 0,
) -> SearchInputs:
    """Everything that a search of the small network needs."""
    network = build_network(model, seed=1)
    image = torch.from_numpy(digits().train.batch(slice(0, 1)))
    trace = trace_network(network, image)
    grouping = find_groups(network, trace, image, ())
    groups = grouping.groups
    scores = score_groups("l2", CriterionInputs(network, groups)).values
    return SearchInputs(
        model=model,
        artifact=save_network(network, None, folder / "dense"),
        network=network,
        ranked=[Ranked(group, values) for group, values in zip(groups, scores, strict=True)],
        snapping=Snapping(channel_step=1),
        macs_without=macs_counter(grouping.trace),
        train=training_images(),
        task=TaskConfig(),
        objective=ObjectiveConfig(),
        recalibrate=RecalibrateConfig(samples=40),
        seed=seed,
        precision="int8",
        measures=measures or {},
    )


def run_search(
    folder: Path,
    config: SearchConfig = CONFIG,
    inputs: SearchInputs | None = None,
    progress: Progress = no_progress,
) -> StageResult[SearchArtifact]:
    """Search into `folder`, with the journal beside the study."""
    return search_widths(config, inputs or search_inputs(folder), folder, folder / "journal.jsonl", progress)


def session_of(leader: int) -> dict[int, str]:
    """Names of the processes of a session, by id; of those that have ended, none."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                name, _, rest = (entry / "stat").read_text().rpartition(")")
                state, _, _, session = rest.split()[:4]
                if int(session) == leader and state != "Z":
                    found[int(entry.name)] = name.partition("(")[2]
    return found


def _say(done: int, total: int, text: str) -> None:
    print(done, total, text, flush=True)
    # Time for a kill.
    time.sleep(0.2)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_search(Path(sys.argv[1]), progress=_say)
