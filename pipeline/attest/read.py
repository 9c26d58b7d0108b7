"""Statements read back from an evidence bundle that was verified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from devices.bundle import Bundle
from devices.errors import BundleError
from devices.files import digest_value
from pipeline.attest.format import (
    ATTESTATIONS,
    BUILD_TYPE,
    FILES_DIGEST,
    HOST_CLASS,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    VALUE_DIGEST,
    file_of,
)

_RUN_AGAIN = "Run the recipe again with this version"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Something from outside the run that a step used."""

    name: str
    digests: Mapping[str, str]
    """By kind of digest."""
    factory: str | None


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a statement tells of one step."""

    name: str
    stage: str
    files: Mapping[str, str]
    """SHA-256 by path of what came out."""
    inputs: Mapping[str, str]
    """Digest of each step's artifact that it was made of."""
    sources: tuple[Source, ...]
    config: Mapping[str, Any]
    code: str
    libraries: Mapping[str, str | None]
    metrics: str
    """Digest of what it told."""
    values: Mapping[str, Any] | None
    """What it told; None in statements of older versions, which have the digest alone."""
    host_class: str
    seed: int

    @property
    def digest(self) -> str:
        """Of the artifact, as later steps name it."""
        return digest_value(dict(self.files))


def read_steps(evidence: Bundle) -> dict[str, Step]:
    """Every step that the bundle attests, by name. Raises `BundleError` that names the file."""
    steps = {}
    for name in sorted(evidence.digests):
        if name.startswith(f"{ATTESTATIONS}/"):
            step = _read(evidence.read_json(name), str(evidence.folder / name))
            if name != f"{ATTESTATIONS}/{file_of(step.name)}":
                raise BundleError(str(evidence.folder / name), f"is of step {step.name!r:.80}", _RUN_AGAIN)
            steps[step.name] = step
    if not steps:
        raise BundleError(str(evidence.folder), "attests no step: it is of an older version", _RUN_AGAIN)
    return steps


def _read(raw: Any, where: str) -> Step:
    """One statement. Whatever is missing or of another kind in it, somebody or another version wrote it."""
    try:
        definition, details = raw["predicate"]["buildDefinition"], raw["predicate"]["runDetails"]
        types = (raw["_type"], raw["predicateType"], definition["buildType"])
        if types != (STATEMENT_TYPE, PREDICATE_TYPE, BUILD_TYPE):
            raise BundleError(where, f"is of types {types!r:.160}, which this version does not read", _RUN_AGAIN)
        told, internal = definition["externalParameters"], definition["internalParameters"]
        materials = definition["resolvedDependencies"]
        (metrics,) = details["byproducts"]
        steps = {row["name"][len("step ") :]: row["digest"] for row in materials if row["name"].startswith("step ")}
        return Step(
            name=_text(told["step"]),
            stage=_text(told["stage"]),
            files={_text(row["name"]): _text(row["digest"]["sha256"]) for row in raw["subject"]},
            inputs={name: _text(digest[FILES_DIGEST]) for name, digest in steps.items()},
            sources=tuple(_source(row) for row in materials if not row["name"].startswith("step ")),
            config=dict(told["config"]),
            code=_text(internal["code"]),
            libraries={_text(name): version for name, version in internal["libraries"].items()},
            metrics=_text(metrics["digest"][VALUE_DIGEST]),
            values=_values(metrics),
            host_class=_text(details["builder"]["id"]).removeprefix(HOST_CLASS),
            seed=int(told["seed"]),
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as cause:
        raise BundleError(where, f"is not a whole statement ({cause!r:.60})", _RUN_AGAIN) from cause


def _source(row: Any) -> Source:
    factory = row.get("annotations", {}).get("factory")
    digests = {_text(kind): _text(digest) for kind, digest in row["digest"].items()}
    return Source(name=_text(row["name"]), digests=digests, factory=None if factory is None else _text(factory))


def _values(metrics: Any) -> dict[str, Any] | None:
    if "annotations" not in metrics:
        return None
    values = metrics["annotations"]["values"]
    if not isinstance(values, dict):
        raise TypeError(f"{values!r:.40} are no metrics")
    return values


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value
