"""Runs the chain: each step from the store if its result is there, made otherwise; resume comes for free."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from devices.files import digest_value
from devices.stage import Progress
from pipeline.fingerprint import data_fingerprint, model_fingerprint
from pipeline.node import Node
from pipeline.nodes import chain_of
from pipeline.possible import require_possible
from pipeline.source_digest import code_digest, our_module
from pipeline.store import Store, Stored
from pipeline.tasks.fingerprint import task_fingerprint
from pipeline.versions import library_versions
from pipeline.work import Origin, StepInputs, Work

# Steps that pass on the metrics of those before, not their files alone.
_WRITES_METRICS = frozenset({"gate", "bundle", "report", "evidence"})
# Steps that write down how the results before them were made.
_WRITES_KEYS = frozenset({"bundle", "evidence"})
_REPORT_ASSETS = Path(__file__).parent / "report"


class Observer(Protocol):
    """Who watches a run."""

    def started(self, number: int, total: int, node: Node) -> Progress:
        """A step begins; returns whom the step tells how far it is."""

    def waiting(self, node: Node) -> None:
        """Another run is making the same result."""

    def finished(self, number: int, total: int, node: Node, stored: Stored | None) -> None:
        """A step ended; None when it was left out because the gate refused."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    results: Mapping[str, Stored]
    """By node name; `deploy` is absent when the gate refused."""
    wall_s: float
    step_s: float
    """Time inside steps; the rest is the chain's own."""

    @property
    def passed(self) -> bool:
        """Whether the gate passed."""
        return bool(self.results["verdict"].metrics["passed"])


def plan_chain(work: Work, store: Store) -> tuple[Node, ...]:
    """The steps of this recipe on this device. Raises what a missing or wrong input of the recipe raises, and what the
    device's profile says that it cannot do."""
    require_possible(work)
    model = model_fingerprint(work.recipe.model, store.root)
    data = data_fingerprint(work.recipe.data, store.root)
    return chain_of(work, model, data, task_fingerprint(work.recipe.task))


def run_chain(
    work: Work,
    store: Store,
    observer: Observer,
    wanted: Callable[[str], bool] = lambda name: True,  # noqa: ARG005
) -> Outcome:
    """Run every step, or the wanted ones by name and all that they need.

    A step that fails raises its error; what ran before stays stored, and the next run goes on.
    """
    started = time.perf_counter()
    nodes = _with_needs(plan_chain(work, store), wanted)
    results: dict[str, Stored] = {}
    origins: dict[str, Origin] = {}
    step_s = 0.0
    for number, node in enumerate(nodes, start=1):
        if node.name == "deploy" and not results["verdict"].metrics["passed"]:
            observer.finished(number, len(nodes), node, None)
            continue
        # What ships is missing where the gate refused; who needs it does without.
        needed = {name: results[name] for name in node.needs if name in results}
        origins[node.name] = _origin(node, needed)
        key = _key(node, needed, origins[node.name])
        stored = store.find(node.stage, key)
        if stored is None:
            progress = observer.started(number, len(nodes), node)
            stored = store.make(
                node.stage,
                key,
                work.made_on(node.stage, node.config),
                _maker(node, work, needed, progress, store, key, origins),
                lambda node=node: observer.waiting(node),  # type: ignore[misc]
            )
            step_s += stored.seconds if not stored.reused else 0.0
        results[node.name] = stored
        observer.finished(number, len(nodes), node, stored)
    return Outcome(results, time.perf_counter() - started, step_s)


def _with_needs(nodes: tuple[Node, ...], wanted: Callable[[str], bool]) -> tuple[Node, ...]:
    """The wanted nodes and, since each follows what it needs, all before that one of them needs."""
    kept: list[Node] = []
    needed: set[str] = set()
    for node in reversed(nodes):
        if wanted(node.name) or node.name in needed:
            kept.append(node)
            needed.update(node.needs)
    return tuple(reversed(kept))


def stored_steps(work: Work, store: Store) -> Iterator[tuple[Node, Stored | None]]:
    """Each step with its stored result. A step after one that would run is None: its inputs are not known yet."""
    results: dict[str, Stored] = {}
    for node in plan_chain(work, store):
        stored = None
        missing = set(node.needs) - set(results)
        if "verdict" in results and not results["verdict"].metrics["passed"]:
            missing -= {"deploy"}
        if not missing:
            needed = {name: results[name] for name in node.needs if name in results}
            stored = store.find(node.stage, _key(node, needed, _origin(node, needed)))
        if stored:
            results[node.name] = stored
        yield node, stored


def _maker(
    node: Node,
    work: Work,
    needed: Mapping[str, Stored],
    progress: Progress,
    store: Store,
    key: str,
    origins: Mapping[str, Origin],
) -> Any:
    partial, kept = store.partial_folder(node.stage, key), store.kept_folder
    return lambda folder: node.load()(StepInputs(work, needed, folder, progress, node.config, partial, kept, origins))


def _origin(node: Node, results: Mapping[str, Stored]) -> Origin:
    """All that decides a step's artifact; `results` are those that it needs."""
    paths = [our_module(node.step.partition(":")[0])]
    if node.stage == "report":
        paths += [path for path in sorted(_REPORT_ASSETS.iterdir()) if path.suffix in (".html", ".css", ".js")]
    return Origin(
        config=node.config,
        inputs={name: stored.digest for name, stored in results.items()},
        code=code_digest(paths),
        libraries=library_versions(node.libraries),
    )


def _key(node: Node, results: Mapping[str, Stored], origin: Origin) -> str:
    """Digest of all that decides a step's result: its origin, and what it passes on of the results it needs."""
    passed_on = {name: digest_value(stored.metrics) for name, stored in results.items()}
    named = {name: stored.folder.name for name, stored in results.items()}
    return digest_value(
        {
            "node": node.name,
            "config": origin.config,
            "inputs": origin.inputs,
            "metrics": passed_on if node.stage in _WRITES_METRICS else {},
            "keys": named if node.stage in _WRITES_KEYS else {},
            "code": origin.code,
            "libraries": origin.libraries,
        }
    )[:40]
