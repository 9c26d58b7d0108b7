"""One in-toto statement a step, written: what it was made of, what came out, how, with what."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from devices.errors import ModelError, StorageError
from devices.files import canonical_json, digest_file, digest_value, read_json, write_json
from pipeline.attest.format import (
    ATTESTATIONS,
    BUILD_TYPE,
    FILES_DIGEST,
    FOLDER_DIGEST,
    HOST_CLASS,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    VALUE_DIGEST,
    file_of,
)
from pipeline.fingerprint import files_below
from pipeline.recipe import Recipe, section_of
from pipeline.recipe.paths import portable_recipe
from pipeline.store import RESULT_FILE, Stored
from pipeline.work import Origin, StepInputs


def write_statements(inputs: StepInputs) -> None:
    """Write the statement of every step so far into the step's folder; that of `deploy` is the shipped bundle's.

    Raises `ModelError` when the weights are not those any more that the run began with.
    """
    for name, stored in inputs.results.items():
        statement = _statement(name, stored, inputs.origins[name], inputs)
        write_json(inputs.folder / ATTESTATIONS / file_of(name), statement)


def _statement(name: str, stored: Stored, origin: Origin, inputs: StepInputs) -> dict[str, Any]:
    work = inputs.work
    files: dict[str, str] = read_json(stored.folder / RESULT_FILE, StorageError)["files"]
    stage = stored.folder.parent.name
    parameters = {
        "step": name,
        "stage": stage,
        "recipe": work.recipe.name,
        "device": work.profile.name,
        "seed": work.recipe.seed,
        "config": dict(origin.config),
    }
    made_of = [
        {"name": f"step {needed}", "digest": {FILES_DIGEST: digest}} for needed, digest in sorted(origin.inputs.items())
    ]
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": path, "digest": {"sha256": digest}} for path, digest in sorted(files.items())],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": parameters,
                "internalParameters": {"code": origin.code, "libraries": dict(origin.libraries)},
                "resolvedDependencies": [*made_of, *sources_of(origin, work.recipe)],
            },
            "runDetails": {
                "builder": {"id": f"{HOST_CLASS}{stored.host_class}"},
                "metadata": {"invocationId": stored.folder.name},
                "byproducts": [
                    {
                        "name": "metrics",
                        "digest": {VALUE_DIGEST: digest_value(stored.metrics)},
                        "annotations": {"values": stored.metrics},
                    }
                ],
            },
        },
    }


def sources_of(origin: Origin, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """What comes from outside the run: the network's code and weights, and the images."""
    portable = portable_recipe(section_of(recipe))
    for section in ("model", "data"):
        if section in origin.config:
            value = origin.config[section]
            named = {"factory": portable[section]["factory"]}
            yield {"name": section, "digest": {VALUE_DIGEST: digest_value(value)}, "annotations": named}
    for key, path in (("weights", recipe.model.weights), ("onnx", recipe.model.onnx)):
        if path is not None and "model" in origin.config:
            yield {"name": f"{key} {Path(path).name}", "digest": _digest_of_weights(Path(path), key, origin)}


def _digest_of_weights(path: Path, key: str, origin: Origin) -> dict[str, str]:
    """Of the file, or of a network's folder: that which the step's config tells by its content."""
    files = files_below(path) if path.is_dir() else [path]
    digests = [(str(file.relative_to(path)), digest_file(file)) for file in files]
    told = digest_value(digests)
    if told not in canonical_json(origin.config):
        raise ModelError(f"model.{key}", f"{path} changed while the recipe ran", "Run it again")
    return {FOLDER_DIGEST: told} if path.is_dir() else {"sha256": digests[0][1]}
