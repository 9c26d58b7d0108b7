"""A run's results walked back to the weights and images that they came from; the first link that is broken is named."""

from __future__ import annotations

from collections.abc import Mapping

from devices.agent_stage import ENGINE_PREFIX
from devices.bundle import MANIFEST, Bundle
from devices.classifier import ENGINE_INFO_PATH, ENGINE_PATH, ONNX_PATH
from devices.engine_files import ENGINE_FILE, INFO_FILE, PLAN_FILE
from devices.errors import BundleError
from devices.files import canonical_json, digest_value
from pipeline.attest.format import ATTESTATIONS, FOLDER_DIGEST, VALUE_DIGEST, content_digest
from pipeline.attest.read import Source, Step, read_steps
from pipeline.results import DECISION

_PLAN_PATH = ENGINE_PATH.replace(ENGINE_FILE, PLAN_FILE)
_DO_NOT_USE = "Do not use it; fetch it again, or run the recipe again"
_SHOWN = 12
_TOLD = ("torch", "onnx", "onnxsim", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "optuna")
"""Libraries that the tree names; the statements hold all."""
_VERBS = {
    "train": "trained",
    "load": "loaded",
    "search": "searched for",
    "prune": "pruned",
    "finetune": "trained to recover",
    "craft": "attacks crafted",
    "export": "exported",
    "simplify": "simplified",
    "quantize": "quantized",
    "mixed": "layers chosen that stay in higher precision",
    "build": "built",
    "measure": "measured",
    "attack": "attacked",
    "decide": "what ships was decided",
    "gate": "judged",
}


def explain(evidence: Bundle, deploy: Bundle | None) -> list[str]:
    """Check every link, and say in words how the run came about: a tree from what ships to its sources.

    Raises `BundleError` at the first link that does not match, and for evidence that is not whole.
    """
    try:
        return _explained(evidence, deploy)
    # Signed or not, somebody wrote it, and another version may have.
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as cause:
        raise BundleError(str(evidence.folder), f"does not hold a whole run ({cause!r:.60})", _DO_NOT_USE) from cause


def _explained(evidence: Bundle, deploy: Bundle | None) -> list[str]:
    steps = read_steps(evidence)
    _check_links(steps)
    _check_sources(steps)
    _check_metrics(steps)
    _check_evidence(evidence, steps)
    lines = []
    shipped = str(evidence.manifest.get("engine"))
    if deploy is not None:
        _check_deploy(deploy, steps, shipped)
        lines.append(f"deploy: {len(deploy.digests)} files, as attested")
    else:
        refused = not evidence.manifest["verdict"]["passed"]
        lines.append("nothing ships: the gate refused" if refused else "what ships is not here, and was not looked at")
    seen: set[str] = set()
    roots = [name for name in (f"{ENGINE_PREFIX}{shipped}", "verdict") if name in steps]
    for index, name in enumerate(roots):
        lines += _tree(steps, name, "", index == len(roots) - 1, seen)
    links = sum(len(step.inputs) for step in steps.values())
    classes = ", ".join(sorted({step.host_class for step in steps.values()}))
    return [*lines, f"{len(steps)} steps on {classes}, {links} links: all match"]


def _check_links(steps: Mapping[str, Step]) -> None:
    for step in steps.values():
        for needed, digest in step.inputs.items():
            if needed not in steps:
                raise _broken(f"{step.name} <- {needed}", f"no statement tells how '{needed}' was made")
            if steps[needed].digest != digest:
                found = (
                    f"'{step.name}' was made of {digest[:_SHOWN]}, and '{needed}' made {steps[needed].digest[:_SHOWN]}"
                )
                raise _broken(f"{step.name} <- {needed}", found)


def _check_sources(steps: Mapping[str, Step]) -> None:
    """What a statement says of its sources is what its config says of them."""
    for step in steps.values():
        for source in step.sources:
            value = source.digests.get(VALUE_DIGEST)
            if value is not None:
                holds = value == digest_value(step.config.get(source.name))
            elif folder := source.digests.get(FOLDER_DIGEST):
                holds = folder in canonical_json(dict(step.config))
            else:
                holds = content_digest(source.digests.get("sha256", "")) in canonical_json(dict(step.config))
            if not holds:
                raise _broken(f"{step.name} <- {source.name}", "the step was configured with another one")


def _check_metrics(steps: Mapping[str, Step]) -> None:
    """The metrics that a statement carries are those of its digest. Older statements carry the digest alone."""
    for step in steps.values():
        if step.values is not None and digest_value(step.values) != step.metrics:
            raise _broken(f"{step.name}: metrics", "their values do not match the digest over them")


def _check_evidence(evidence: Bundle, steps: Mapping[str, Step]) -> None:
    """The files of the bundle are those that its steps made."""
    made = {digest for step in steps.values() for digest in step.files.values()}
    for name, digest in evidence.digests.items():
        if not name.startswith(f"{ATTESTATIONS}/") and digest not in made:
            raise _broken(f"evidence/{name}", "no step made this file")
    _check_manifest(evidence, steps)
    for key, name in (("verdict", "verdict"), ("decision", DECISION)):
        if digest_value(evidence.manifest.get(key)) != steps[name].metrics:
            raise _broken(f"evidence/manifest.json: {key}", f"is not what step '{name}' told")


def _check_deploy(deploy: Bundle, steps: Mapping[str, Step], shipped: str) -> None:
    """The bundle is the attested one, and its engine and graph are what their steps made."""
    attested = dict(steps["deploy"].files) if "deploy" in steps else {}
    found = {**deploy.digests, MANIFEST: deploy.manifest_digest}
    wrong = sorted(name for name in set(found) | set(attested) if found.get(name) != attested.get(name))
    if wrong:
        raise _broken(f"deploy/{wrong[0]}", "is not the file that was attested")
    _check_manifest(deploy, steps)
    engine = steps.get(f"{ENGINE_PREFIX}{shipped}")
    if engine is None:
        raise _broken(f"deploy <- {shipped}", "no statement tells how this engine was built")
    for path, name in ((ENGINE_PATH, ENGINE_FILE), (_PLAN_PATH, PLAN_FILE), (ENGINE_INFO_PATH, INFO_FILE)):
        if path in found and found[path] != engine.files.get(name):
            raise _broken(f"deploy/{path} <- {engine.name}", "the step built another engine")
    if not any(found.get(ONNX_PATH) in steps[name].files.values() for name in engine.inputs):
        raise _broken(f"deploy/{ONNX_PATH} <- {engine.name}", "the engine was built of another graph")


def _check_manifest(bundle: Bundle, steps: Mapping[str, Step]) -> None:
    told = bundle.manifest.get("stages")
    for name, link in told.items() if isinstance(told, dict) else ():
        if name not in steps or not isinstance(link, dict) or link.get("digest") != steps[name].digest:
            raise _broken(f"{bundle.folder.name}/manifest.json: stages.{name}", "is not what was attested")


def _tree(steps: Mapping[str, Step], name: str, indent: str, last: bool, seen: set[str]) -> list[str]:
    step = steps[name]
    branch, below = ("└─ ", "   ") if last else ("├─ ", "│  ")
    if name in seen:
        return [f"{indent}{branch}{name}: as above"]
    seen.add(name)
    known = [f"{library} {version}" for library, version in step.libraries.items() if version and library in _TOLD]
    by = f" with {', '.join(known)}" if known else ""
    lines = [f"{indent}{branch}{name}: {_VERBS.get(step.stage, step.stage)}{by} [{step.digest[:_SHOWN]}]"]
    sources = step.sources if not step.inputs else ()
    rows: list[Source | str] = [*sources, *step.inputs]
    for index, row in enumerate(rows):
        at_end = index == len(rows) - 1
        if isinstance(row, str):
            lines += _tree(steps, row, indent + below, at_end, seen)
        else:
            lines.append(f"{indent}{below}{'└─ ' if at_end else '├─ '}{_source_text(row, step)}")
    return lines


def _source_text(source: Source, step: Step) -> str:
    kind, digest = next(iter(source.digests.items()))
    by = f" from {source.factory}" if source.factory else ""
    trained = f", trained with seed {step.seed}" if source.name == "model" and "train" in step.config else ""
    return f"source: {source.name}{by}{trained}, {kind} {digest if kind == 'sha256' else digest[:_SHOWN]}"


def _broken(link: str, what: str) -> BundleError:
    return BundleError(link, f"this link is broken: {what}", _DO_NOT_USE)
