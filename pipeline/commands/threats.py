"""`espalier scan` and `espalier defend`."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devices.errors import EXIT_OK, EXIT_SIGNS, BundleError, DataError, RecipeError, StorageError, shown_lines
from devices.trust.options import trust_of
from pipeline.commands.needs import require_compress

if TYPE_CHECKING:
    from pipeline.recipe import Recipe
    from pipeline.store import Stored
    from pipeline.work import Work

DEFENCE_FILE = "defence.json"
METHODS = ("fine-pruning", "anp", "rnp", "unlearning")
_SCAN_METHODS = ("inversion", "stages")
"""What a recipe that does not say so is scanned by."""


def scan(options: argparse.Namespace) -> int:
    """Look for signs of a backdoor in the networks of a recipe or of a finished run, or print what that found."""
    require_compress()
    from devices.files import write_json
    from pipeline.threats.scan.findings import table_lines

    found = _of_run(options) if options.target.is_dir() else _of_recipe(options)
    if options.json:
        write_json(options.json, {"findings": found})
    print(shown_lines(table_lines(found)))
    return EXIT_SIGNS if any(finding["sign"] for finding in found) else EXIT_OK


def defend(options: argparse.Namespace) -> int:
    """Remove what may carry a backdoor from a recipe's network, and write the network that is left."""
    require_compress()
    from devices.files import write_json
    from devices.stage import no_progress
    from pipeline.model import NetworkArtifact, load_network, load_plan
    from pipeline.steps.defence import judge_defence, parts_of, trigger_of
    from pipeline.threats.remove.defend import DefendConfig, defend, save_defended

    out: Path = options.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StorageError(str(out), "is there already and not empty", "Choose another --out")
    if (options.trigger is None) != (options.target is None):
        raise DataError("--trigger", "and --target belong together", "Give both, or neither")
    recipe = _read_recipe(options.recipe, options.overrides)
    work = _work(recipe, options.device)
    # What is given is looked at before the network is trained.
    clean, judged = parts_of(work.dataset, options.clean_samples, recipe)
    trigger = None
    if options.trigger is not None:
        trigger = trigger_of(options.trigger, options.target, work.dataset, recipe.seed)
    results = _run_part(options, work, lambda name: name == "dense")
    artifact = NetworkArtifact(results["dense"].folder)
    network = load_network(recipe.model, artifact, recipe.seed, recipe.task)
    config = DefendConfig(method=options.method, max_drop=options.max_drop, seed=recipe.seed, threads=recipe.threads)
    found = defend(network, clean, config, no_progress)
    told = judge_defence(network, found.network, judged, trigger)
    save_defended(found, load_plan(artifact), out)
    write_json(out / DEFENCE_FILE, {"removal": found.metrics, "evaluation": told})
    print(shown_lines([*_defence_lines(found.metrics, told, work.dataset.class_names), _use_line(recipe, out)]))
    return EXIT_OK


def count(text: str) -> int:
    """Of samples, from the command line; how many are needed is said by what takes them."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def points(text: str) -> float:
    """Points of accuracy, from the command line."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 100")
    return value


def _of_run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What a run found, or what a scan finds now, where it found nothing or the command says how to scan."""
    from pipeline.release.places import opened_bundle
    from pipeline.run_folder import read_run

    trust = trust_of(options)
    if trust.names:
        with opened_bundle(options.target, "evidence", trust):
            pass
    found: list[dict[str, Any]] = read_run(options.target).get("scans") or []
    anew = options.overrides or options.device is not None or options.sources != Path()
    return _by_own_recipe(options) if anew or not found else found


def _by_own_recipe(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Scan the networks of a run by its own recipe; those that the store holds are not made again."""
    from pipeline.attest.read import read_steps
    from pipeline.attest.repeat import recorded_recipe
    from pipeline.release.places import opened_bundle
    from pipeline.scan_nodes import SCAN_PREFIX

    with opened_bundle(options.target, "evidence", trust_of(options)) as evidence:
        steps = read_steps(evidence)
        recipe = _without_defaults(recorded_recipe(evidence, steps, options.sources, options.overrides), options)
        device = options.device or str(evidence.manifest.get("device"))
    results = _scanned(options, recipe, device)
    for name, stored in results.items():
        # Another scan than the run's is what may be asked for; another network is not.
        if name in steps and steps[name].digest != stored.digest and not name.startswith(SCAN_PREFIX):
            what = f"was made with another '{name}' than comes out here, so a scan of this one says nothing of it"
            raise BundleError(str(options.target), what, "Run its recipe again with [threats] scan = [...]")
    return _findings(results)


def _without_defaults(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """Evidence records every key: no references in it are those of a run that was not scanned, unless asked for."""
    threats = recipe.threats
    if threats.references or any(text.startswith("threats.references") for text in options.overrides):
        return recipe
    said = threats.model_dump(include=threats.model_fields_set - {"references"})
    return recipe.model_copy(update={"threats": type(threats).model_validate(said)})


def _of_recipe(options: argparse.Namespace) -> list[dict[str, Any]]:
    recipe = _read_recipe(options.target, options.overrides)
    return _findings(_scanned(options, recipe, options.device or "cpu"))


def _scanned(options: argparse.Namespace, recipe: Recipe, device: str) -> dict[str, Stored]:
    from pipeline.recipe.full import SCAN_REFERENCES
    from pipeline.scan_nodes import is_scan

    if recipe.task.kind != "classification":
        raise RecipeError("task.kind", f"is '{recipe.task.kind}'", "A scan knows classification alone")
    threats = recipe.threats
    if not threats.scan:
        usual = 0 if recipe.model.comes_trained else SCAN_REFERENCES
        references = threats.references if "references" in threats.model_fields_set else usual
        asked = threats.model_copy(update={"scan": _SCAN_METHODS, "references": references})
        recipe = recipe.model_copy(update={"threats": asked})
    return _run_part(options, _work(recipe, device), is_scan)


def _findings(results: dict[str, Stored]) -> list[dict[str, Any]]:
    from pipeline.scan_nodes import is_scan

    return [finding for name in results if is_scan(name) for finding in results[name].metrics["findings"]]


def _read_recipe(path: Path, overrides: list[str]) -> Recipe:
    from pipeline.recipe import read_recipe

    return read_recipe(path, overrides)


def _work(recipe: Recipe, device: str) -> Work:
    """A recipe's work, before any step of it ran."""
    # Before torch loads its OpenMP, as in `espalier run`.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    from devices.detect import detect_host
    from devices.profile import load_profile
    from pipeline.work import Work

    return Work(recipe, load_profile(device), detect_host(), "espalier scan")


def _run_part(options: argparse.Namespace, work: Work, wanted: Callable[[str], bool]) -> dict[str, Stored]:
    """Run the wanted steps of a recipe and what they need, from the store where they are there."""
    from pipeline.chain import run_chain
    from pipeline.progress import standard_progress
    from pipeline.store import Store

    return dict(run_chain(work, Store(options.store), standard_progress(), wanted).results)


def _defence_lines(removal: dict[str, Any], told: dict[str, Any], classes: Sequence[str]) -> list[str]:
    lines = []
    if "neurons_removed" in removal:
        lines.append(f"{removal['method']}: {removal['neurons_removed']} of {removal['neurons']} neurons removed")
    if "trigger" in removal:
        word = "by" if removal["trigger"] == "warp" else "of"
        found = f"a {removal['trigger']} {word} {removal['trigger_size_px']:.3g} pixels"
        lines.append(
            f"{removal['method']}: against {found} that turns images into class {classes[removal['class']]}, "
            f"found on {removal['trigger_samples']} images"
        )
    lines.append(f"clean accuracy {_change(told['clean_before'], told['clean_after'])}, {told['samples']} other images")
    if told["attack_before"] is not None:
        lines.append(
            f"attack success {_change(told['attack_before'], told['attack_after'])} (nothing was chosen by it)"
        )
    return lines


def _use_line(recipe: Recipe, out: Path) -> str:
    """Where the network that is left lies, and what in a recipe takes it."""
    model = recipe.model
    if model.onnx is not None:
        # The file's own weights stand in model.onnx, so the factory behind it is named instead.
        keys = {"factory": model.factory, **{f"args.{key}": value for key, value in model.args.items()}}
        keys["weights"] = str(out.resolve())
        named = ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in keys.items())
        replaced = "onnx" if model.image_size is None else "onnx and image_size"
        return f"written: {out}. Use it in a copy of the recipe: under [model], in place of {replaced}, {named}"
    where = " and a copy of the recipe without [train]" if recipe.train is not None else ""
    return f"written: {out}. Use it with --set model.weights={out}{where}"


def _change(before: dict[str, float], after: dict[str, float]) -> str:
    return " -> ".join(
        f"{100 * x['value']:.1f} % ({100 * x['low']:.1f} to {100 * x['high']:.1f})" for x in (before, after)
    )
