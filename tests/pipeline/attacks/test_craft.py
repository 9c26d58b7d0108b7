"""Sets are read back by the devices, kept as bytes too, and reproducible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from devices.clipping import clip_to_ball
from devices.errors import BundleError, RecipeError
from devices.files import read_json
from devices.robustness import INDEX_FILE, read_sets
from devices.stage import no_progress
from pipeline.attacks.craft import budget_of, craft_sets
from pipeline.attacks.ensemble import FAST, STANDARD
from pipeline.corruptions.select import STRENGTHS
from pipeline.datasets.digits import digits
from pipeline.recipe import RobustnessConfig
from pipeline.tasks.builtin import Segmentation
from pipeline.zoo import residual_cnn
from tests.pipeline.attacks.parts import ROUNDING, trained

CONFIG = RobustnessConfig(epsilon=0.1, pgd_steps=3, pgd_step_size=0.05, pgd_restarts=1)


def craft(folder: Path, config: RobustnessConfig = CONFIG, seed: int = 0) -> tuple[Any, Any]:
    """Sets as a device reads them, and the stage's metrics."""
    test = digits().test
    with torch.random.fork_rng(devices=[]):
        other = residual_cnn(channels=8, blocks=1).eval()
    surrogates = {"dense": trained(), "compressed": other}
    result = craft_sets(config, surrogates, test.images[:150], test.labels[:150], seed, 1, folder, no_progress)
    index = folder / INDEX_FILE
    return read_sets(read_json(index, BundleError), lambda name: (folder / name).read_bytes(), "sets"), result.metrics


def test_sets_are_read_back_by_the_device(tmp_path: Path) -> None:
    """More than a batch of images: clean, one of each attack and network, and five strengths of each corruption."""
    sets, metrics = craft(tmp_path)
    names = [info.name for info in sets.infos]
    attacks = [
        f"{attack}_{network}{form}"
        for network in ("dense", "compressed")
        for attack in ("fgsm", "pgd")
        for form in ("", "_uint8")
    ]
    corruptions = [f"{method}_{strength}" for method in ("gaussian_noise", "gaussian_blur") for strength in STRENGTHS]
    assert names == ["clean", *attacks, *corruptions]
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.npy" for name in names} | {"sets.json", "labels.npy"}
    clean = sets.images["clean"]
    assert np.array_equal(clean, digits().test.images[:150])
    assert np.array_equal(sets.labels, digits().test.labels[:150])
    for info in sets.infos:
        images = sets.images[info.name]
        assert images.min() >= 0
        assert images.max() <= (255 if info.kind == "corruption" else 1)
        if info.kind == "adversarial":
            # The device clips again, and moves nothing.
            again = clip_to_ball(images, clean, info.epsilon, info.norm, info.rounded)
            assert np.abs(again - images).max() <= ROUNDING
            assert info.rounded == info.name.endswith("_uint8")
            assert not info.rounded or np.array_equal(images, np.round(images * 255).astype(np.float32) / 255)
            with torch.no_grad():
                network = trained() if info.surrogate == "dense" else None
                if network:
                    right = (network(torch.from_numpy(images)).argmax(1).numpy() == sets.labels).mean()
                    assert metrics[f"{info.name}_surrogate_accuracy"] == pytest.approx(right, abs=1e-9)
    assert metrics["pgd_dense_surrogate_accuracy"] < 0.9
    assert metrics["samples"] == 150


def test_equal_seeds_give_equal_files(tmp_path: Path) -> None:
    for folder, seed in (("one", 0), ("two", 0), ("three", 1)):
        torch.manual_seed(len(folder))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(9)
            craft(tmp_path / folder, seed=seed)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
        seeded = path.stem.startswith(("pgd", "gaussian_noise"))
        assert (path.read_bytes() != (tmp_path / "three" / path.name).read_bytes()) == seeded


def test_without_attacks_there_are_still_corruptions(tmp_path: Path) -> None:
    sets, metrics = craft(tmp_path, CONFIG.model_copy(update={"attacks": ()}))
    assert {info.kind for info in sets.infos} == {"clean", "corruption"}
    assert metrics == {"samples": 150}


def test_every_attack_makes_its_sets_in_either_norm(tmp_path: Path) -> None:
    """Attacked to the last step: as many or fewer right as under one step, and inside the ball of the norm."""
    for norm, epsilon in (("linf", 0.1), ("l2", 0.8)):
        config = RobustnessConfig(
            attacks=("fgsm", "autoattack"),
            norm=norm,
            epsilon=epsilon,
            budget="fast",
            apgd_steps=6,
            fab_steps=6,
            targets=2,
            square_queries=40,
            rounded=norm == "l2",
        )
        folder = tmp_path / norm
        folder.mkdir()
        images, labels = digits().test.images[:40], digits().test.labels[:40]
        told: list[tuple[float, str]] = []
        metrics = craft_sets(
            config,
            {"dense": trained()},
            images,
            labels,
            0,
            1,
            folder,
            lambda done, total, text, told=told: told.append((done / total, text)),
        ).metrics
        assert [share for share, _ in told] == sorted(share for share, _ in told)
        assert (told[0], told[-1]) == ((0, "fgsm on dense"), (1, "corruptions"))
        # Each class aimed at is a run of its own.
        assert len({share for share, text in told if text == "apgd_dlr on dense"}) > 1
        index = read_json(folder / INDEX_FILE, BundleError)
        sets = read_sets(index, lambda name, folder=folder: (folder / name).read_bytes(), "sets")
        found = [info for info in sets.infos if info.kind == "adversarial"]
        methods = ["fgsm", "apgd_ce", "apgd_dlr", "fab", "square"]
        assert [info.method for info in found if not info.rounded] == methods
        assert [info.method for info in found if info.rounded] == (methods if norm == "l2" else [])
        for info in found:
            assert (info.norm, info.epsilon) == (norm, epsilon)
            again = clip_to_ball(sets.images[info.name], images, epsilon, info.norm, info.rounded)
            assert np.abs(again - sets.images[info.name]).max() <= 2 * ROUNDING
            if info.method.startswith("apgd"):
                assert metrics[f"{info.name}_surrogate_accuracy"] <= metrics["fgsm_dense_surrogate_accuracy"]


def test_a_budget_is_the_named_one_with_what_the_recipe_says() -> None:
    assert budget_of(RobustnessConfig()).apgd_steps == STANDARD.apgd_steps == 100
    assert (STANDARD.fab_steps, STANDARD.targets, STANDARD.square_queries, STANDARD.restarts) == (100, 9, 5000, 1)
    asked = budget_of(RobustnessConfig(budget="fast", targets=5, restarts=2, pgd_steps=7))
    assert (asked.apgd_steps, asked.targets, asked.restarts, asked.pgd_steps) == (FAST.apgd_steps, 5, 2, 7)


def test_what_cannot_be_attacked_so_is_said(tmp_path: Path) -> None:
    images, masks = digits().test.images[:4], np.zeros((4, 8, 8), np.int64)
    config = CONFIG.model_copy(update={"attacks": ("fab",)})
    with pytest.raises(RecipeError, match=r"^robustness.attacks: fab: aims at classes, and the task is segmentation"):
        craft_sets(
            config, {"dense": torch.nn.Conv2d(1, 3, 1)}, images, masks, 0, 1, tmp_path, no_progress, Segmentation()
        )
    wide = CONFIG.model_copy(update={"norm": "l2", "epsilon": 8.0})
    # Queries are asked of the engines later, in the same ball.
    for attacks in (("pgd",), ()):
        asked = wide.model_copy(update={"attacks": attacks, "queries": ("square",)})
        with pytest.raises(
            RecipeError, match=r"^robustness.epsilon: is 8, and no two images.*Images are 0 to 1, not 0 to 2"
        ):
            craft_sets(asked, {"dense": trained()}, images, masks[:, 0, 0], 0, 1, tmp_path, no_progress)
