"""Which criterion protects a robust network best: `make bench-robust-pruning`.

A parent trained against attacks is pruned to a half, a quarter and an eighth of its multiply-accumulates by each
criterion, and recovered with the recipe's objective. Clean and robust accuracy are those of the torch network, attacked
by the recipe's attacks, AutoAttack's four unless others are set. Controls: chance, and the shape that l2 gives, trained
against attacks from new weights with all the epochs of parent and recovery. A seed is another parent, another attack's
start and another order of images. Cells are stored as they are found, so two processes with a fold each can share
the folder, and the same command over all folds then prints the table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from devices.errors import StorageError
from devices.files import digest_value, read_json, write_json
from devices.stage import no_progress
from devices.statistics import Interval
from pipeline.attacks.craft import budget_of
from pipeline.attacks.ensemble import expanded
from pipeline.attacks.judge import judge
from pipeline.attacks.norms import Ball
from pipeline.compute import derived_seed, deterministic
from pipeline.data import Dataset, Split, load_dataset, seeded_choice
from pipeline.model import build_network, load_checkpoint
from pipeline.prune.channels import prune_channels
from pipeline.prune.learned.units import learn_unit_scores
from pipeline.prune.pruning import Pruning
from pipeline.prune.size import count_macs
from pipeline.recipe import FitConfig, Recipe, read_recipe, section_of
from pipeline.recovery.fit import fit
from pipeline.recovery.objective import training_loss
from pipeline.recovery.recalibrate import recalibrate
from pipeline.steps.pruning_inputs import objective_loss
from pipeline.tasks.builtin import Classification
from tests.benchmarks.accelerated import accelerated
from tests.benchmarks.pruning.intervals import accuracy, difference

ROOT = Path(__file__).parent.parent.parent
# `sensitivity` is l2 with widths by the rise of the adversarial loss.
CRITERIA = ("random", "l1", "l2", "taylor", "sensitivity", "learned", "scratch")
REFERENCE = "l2"
TASK = Classification()
_BATCH = 250


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One table."""

    recipe: Recipe
    dataset: Dataset
    channel_step: int
    samples: int

    @property
    def test(self) -> Split:
        """The images that judge, the same for all."""
        chosen = seeded_choice(len(self.dataset.test), self.samples, 0)
        return Split(self.dataset.test.images[chosen], self.dataset.test.labels[chosen])


def parent_of(setting: Setting, seed: int) -> nn.Module:
    """The recipe's network: its weights, or trained with this seed."""
    recipe = setting.recipe
    network = build_network(recipe.model, seed, recipe.task)
    if recipe.model.weights is not None:
        load_checkpoint(network, Path(recipe.model.weights))
    else:
        assert recipe.train is not None
        fit(network, setting.dataset.train, recipe.objective, recipe.train, seed, recipe.threads, no_progress)
    return network.eval()


def pruned(setting: Setting, parent: nn.Module, criterion: str, target: float, seed: int) -> nn.Module:
    """The parent cut to the target by a criterion, with statistics of its own."""
    recipe, train = setting.recipe, setting.dataset.train
    assert recipe.prune is not None
    how = {"criterion": REFERENCE, "scope": criterion} if criterion == "sensitivity" else {"criterion": criterion}
    config = recipe.prune.model_copy(update={"target_macs": target, **how})
    chosen = seeded_choice(len(train), config.criterion_samples, seed)
    parts = np.array_split(chosen, -(-len(chosen) // 64))
    pruning = Pruning(
        network=parent,
        image_NCHW=torch.from_numpy(train.batch(slice(0, 1))),
        channel_step=setting.channel_step,
        batches=tuple((torch.from_numpy(train.batch(part)), torch.from_numpy(train.labels[part])) for part in parts),
        loss=objective_loss(recipe),
        seed=seed,
    )
    with deterministic(seed, recipe.threads, exact=not torch.cuda.is_available()):
        if criterion == "learned":
            scores, _ = learn_unit_scores(config, pruning, train, _loss(recipe), no_progress)
            pruning = replace(pruning, learned=scores)
        network = prune_channels(config, pruning).network
    recalibrate(network, train, recipe.objective, recipe.recalibrate, seed, recipe.threads)
    return network


def _loss(recipe: Recipe) -> Callable[[nn.Module, torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]:
    def loss(network: nn.Module, images: torch.Tensor, targets: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
        noise = None
        if recipe.objective.attacked:
            noise = torch.rand(images.shape, generator=chance).to(images.device)
        return training_loss(network, images, targets, recipe.objective, TASK.loss, noise)[1]

    return loss


def recovered(setting: Setting, network: nn.Module, criterion: str, seed: int) -> nn.Module:
    """Fine-tuned as the recipe says; or, of the control, trained from new weights for all epochs of both."""
    recipe = setting.recipe
    assert recipe.finetune is not None
    config: FitConfig = recipe.finetune
    if criterion == "scratch":
        _forget(network, seed)
        begun = recipe.train or config
        config = begun.model_copy(update={"epochs": begun.epochs + config.epochs})
    fit(network, setting.dataset.train, recipe.objective, config, seed + 1, recipe.threads, no_progress)
    return network


def _forget(network: nn.Module, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()


def judged(setting: Setting, network: nn.Module, seed: int) -> dict[str, str]:
    """Which test images are right, clean and under the attacks, as texts of 0 and 1."""
    asked, split = setting.recipe.robustness, setting.test
    chance, ball = derived_seed(seed, 1), Ball(epsilon=asked.epsilon, norm=asked.norm)
    images = split.batch(slice(0, len(split)))
    shown = accelerated(network)
    # An answer does not depend on its batch, but a GPU's time does.
    batch = _BATCH if shown is network else len(split)
    with deterministic(chance, setting.recipe.threads, exact=shown is network):
        found = judge(shown, images, split.labels, expanded(asked.attacks), ball, budget_of(asked), chance, batch)
    return {"clean": _letters(found.right), "robust": _letters(found.survived)}


def _letters(right: NDArray[np.bool_]) -> str:
    return "".join("01"[int(item)] for item in right)


def cells(setting: Setting, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every network of a fold, parents first; what was judged before comes from its file."""
    image = torch.from_numpy(setting.dataset.train.batch(slice(0, 1)))
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        held: list[nn.Module] = []

        def parent(seed: int = seed, held: list[nn.Module] = held) -> nn.Module:
            if not held:
                held.append(parent_of(setting, seed))
            return held[0]

        def cut(criterion: str, target: float, seed: int = seed) -> nn.Module:
            by = REFERENCE if criterion == "scratch" else criterion
            return recovered(setting, pruned(setting, parent(), by, target, seed), criterion, seed)

        makers: dict[tuple[str, float], Callable[[], nn.Module]] = {("parent", 1.0): parent}
        for target in options.macs:
            for criterion in options.criteria:
                makers[criterion, target] = lambda c=criterion, t=target: cut(c, t)  # type: ignore[misc]
        for (criterion, target), make in makers.items():
            asked = {"recipe": section_of(setting.recipe), "criterion": criterion, "target": target, "seed": seed}
            more = {"samples": setting.samples, "step": setting.channel_step}
            path = options.out / f"{digest_value(asked | more)[:24]}.json"
            if not path.exists():
                network = make()
                write_json(path, judged(setting, network, seed) | {"macs": count_macs(network, image)})
                print(f"{criterion}, {target:g} of the MACs, seed {seed}: done", flush=True)
            yield {"criterion": criterion, "target": target, "seed": seed} | read_json(path, StorageError)


def table(found: list[dict[str, Any]]) -> list[str]:
    """Markdown: accuracies with their intervals, and robust accuracy against the reference's at the same target."""
    rows: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for cell in found:
        rows.setdefault((cell["target"], cell["criterion"]), []).append(cell)
    parent = rows[1.0, "parent"]
    lines = [
        "| MACs | criterion | MACs left | clean, % | robust, % | robust against the parent, points "
        f"| robust against {REFERENCE}, points |",
        "|---|---|---|---|---|---|---|",
    ]
    for (target, criterion), cells_ in rows.items():
        left = np.mean([cell["macs"] for cell in cells_]) / np.mean([cell["macs"] for cell in parent])
        against = [
            _points(difference(_right(other, "robust"), _right(cells_, "robust")))
            if other and other is not cells_
            else ""
            for other in (parent, rows.get((target, REFERENCE)))
        ]
        share = "all" if criterion == "parent" else f"1/{1 / target:g}"
        figures = [_percent(accuracy(_right(cells_, kind))) for kind in ("clean", "robust")]
        lines.append(f"| {share} | {criterion} | {100 * left:.1f} % | {' | '.join([*figures, *against])} |")
    return lines


def _right(cells_: list[dict[str, Any]], kind: str) -> NDArray[np.float64]:
    """(seeds, images): those of all folds side by side."""
    texts: dict[int, str] = {}
    for cell in cells_:
        texts[cell["seed"]] = texts.get(cell["seed"], "") + cell[kind]
    return np.array([[float(letter) for letter in text] for text in texts.values()])


def _percent(interval: Interval) -> str:
    return f"{100 * interval.value:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def _points(interval: Interval) -> str:
    return f"{100 * interval.value:+.1f} ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"


def _settings(options: argparse.Namespace) -> list[Setting]:
    """One for each fold of the digits, or the one of CIFAR-10."""
    overrides = ["robustness.attacks=['autoattack']", f"robustness.budget='{options.budget}'"]
    if options.data:
        options.recipe = ROOT / "recipes" / "cifar10-resnet20.toml"
        overrides += [
            f"data.args.path={json.dumps(options.data)}",
            f"model.weights={json.dumps(options.weights)}",
            *(f"{section}.epsilon={8 / 255}" for section in ("objective", "robustness")),
            f"objective.step_size={4 / 255}",
            "objective.kind='nfgsm'",
            "finetune.epochs=3",
        ]
    folds = [None] if options.data else options.folds
    found = []
    for fold in folds:
        own = [] if fold is None else [f"data.args.fold={fold}"]
        recipe = read_recipe(options.recipe, [*overrides, *own, *options.set])
        dataset = load_dataset(recipe.data, recipe.task)
        samples = min(options.samples, len(dataset.test))
        found.append(Setting(recipe=recipe, dataset=dataset, channel_step=options.channel_step, samples=samples))
    return found


def main() -> None:
    """Judge what is not judged yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "digits.toml")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="of the digits (all five)")
    parser.add_argument("--data", help="archive of CIFAR-10 images, for recipes/cifar10-resnet20.toml")
    parser.add_argument("--weights", help="weights of a robust ResNet-20")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--macs", type=float, nargs="+", default=[0.5, 0.25, 0.125])
    parser.add_argument("--criteria", nargs="+", default=list(CRITERIA), choices=CRITERIA)
    parser.add_argument("--budget", choices=("fast", "standard"), default="fast", help="of the attacks (fast)")
    parser.add_argument("--samples", type=int, default=1000, help="test images that judge, of each fold at most (1000)")
    parser.add_argument("--channel-step", type=int, default=4)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench-robust-pruning")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    settings = _settings(options)
    found = [cell for setting in settings for cell in cells(setting, options)]
    asked = settings[0].recipe.robustness
    print(
        f"\n{settings[0].recipe.name}, {options.seeds} seeds, n = {sum(setting.samples for setting in settings)}, "
        f"epsilon = {asked.epsilon:.4g}, {', '.join(expanded(asked.attacks))}, budget {asked.budget}; "
        f"channels in steps of {options.channel_step}\n"
    )
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
