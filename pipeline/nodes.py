"""The chain as data: which steps a recipe needs, what each depends on, and what decides its result."""

from __future__ import annotations

from typing import Any

from pipeline.network_nodes import network_nodes
from pipeline.node import DATA, ONNX, ORT, TORCH, Node, make_node
from pipeline.opset import choose_opset
from pipeline.recipe import Recipe, section_of
from pipeline.work import Work


def chain_of(work: Work, model: dict[str, Any], data: dict[str, Any], task: dict[str, Any]) -> tuple[Node, ...]:
    """Every step of the run, in an order in which each follows what it needs.

    `model`, `data` and `task` are the fingerprints of the recipe's sections of these names.
    """
    # What a network answers, and how answers are scored and compared, is part of the network wherever it goes.
    model = model | {"task": task}
    recipe = work.recipe
    # The file itself, unless a normalization comes before it.
    imported = recipe.model.onnx is not None and recipe.model.mean is None
    needs_torch = not imported or recipe.prune or recipe.robustness.attacks
    nodes = network_nodes(work, model, data) if needs_torch else []
    forms = {"dense": None if imported else "dense"}
    if recipe.prune:
        forms["compressed"] = nodes[-1].name
    attacked = tuple(dict.fromkeys(("dense", nodes[-1].name))) if nodes else ()
    for form, network in forms.items():
        nodes += _convert_nodes(work, form, network, model, data)
    nodes.append(_craft_node(work, attacked, model, data))
    return (*nodes, *_judge_nodes(work, nodes, data, task))


def _convert_nodes(
    work: Work, form: str, network: str | None, model: dict[str, Any], data: dict[str, Any]
) -> list[Node]:
    """From the torch network of that name to engines; without one, from the recipe's ONNX file."""
    recipe = work.recipe
    shared = {"data": data, "parity": _parity(recipe), "seed": recipe.seed, "threads": recipe.threads}
    sparse = form == "compressed" and recipe.prune is not None and recipe.prune.granularity == "2:4"
    shared |= {"task": model["task"], "two_of_four": sparse}
    opset = choose_opset(recipe.export, work.profile)
    written = shared | {"model": model, "opset": opset}
    if network is None:
        exported = make_node(f"imported {form}", "import", "take_in:take_in", (), written, ONNX)
    else:
        exported = make_node(f"exported {form}", "export", "convert:export", (network,), written, ONNX)
    simplified = make_node(
        f"simplified {form}", "simplify", "convert:simplify", (exported.name,), shared, (*ONNX, "onnxsim")
    )
    nodes = [exported, simplified, _build_node(work, f"{form}-fp32", simplified.name, shared)]
    if recipe.quantize.precision == "int8":
        config = shared | {
            "quantize": section_of(recipe.quantize),
            "activations": work.profile.engine.int8_activations,
            "weight_bits": work.weight_bits,
        }
        quantized = make_node(f"quantized {form}", "quantize", "convert:quantize", (simplified.name,), config, ONNX)
        nodes += [quantized, _build_node(work, f"{form}-int8", quantized.name, shared)]
    return nodes


def _parity(recipe: Recipe) -> dict[str, Any]:
    """What borders are held to; the images are those after the ones of the calibration."""
    return section_of(recipe.parity) | {"after": recipe.quantize.calibration_samples}


def _build_node(work: Work, engine: str, source: str, shared: dict[str, Any]) -> Node:
    options = {"provider": work.profile.engine.provider, "threads": work.profile.engine.threads}
    config = shared | {"engine": options, "host_class": work.host.engine_class}
    return make_node(f"engine {engine}", "build", "convert:build", (source,), config, ORT)


def _craft_node(work: Work, networks: tuple[str, ...], model: dict[str, Any], data: dict[str, Any]) -> Node:
    recipe = work.recipe
    config = {
        "model": model,
        "data": data,
        "robustness": section_of(recipe.robustness),
        "seed": recipe.seed,
        "threads": recipe.threads,
    }
    return make_node("sets", "craft", "craft:craft", networks, config, (*TORCH, "scipy"))


def _judge_nodes(work: Work, nodes: list[Node], data: dict[str, Any], task: dict[str, Any]) -> list[Node]:
    recipe = work.recipe
    engines = [node.name for node in nodes if node.stage == "build"]
    shipped = {"shipped": work.shipped}
    batches = {"batch_sizes": list(work.profile.measure.batch_sizes)}
    host = {"host": work.host.fingerprint}
    runtime = ORT
    measure_config = shipped | batches | host | {"measure": section_of(recipe.measure), "seed": recipe.seed}
    measure = make_node("measurements", "measure", "engine:measure", tuple(engines), measure_config, runtime)
    attack_config = {"host_class": work.host.engine_class, "task": task}
    attack = make_node("replays", "attack", "engine:attack", (*engines, "sets"), attack_config, runtime)
    judged = ("measurements", "replays")
    gate_config = shipped | {"gate": section_of(recipe.gate)}
    gate = make_node("verdict", "gate", "publish:gate", judged, gate_config, ())
    whole = {"recipe": section_of(recipe), "profile": work.profile.name, "data": data} | host
    written = whole | {"command": work.command}
    everything = (*(node.name for node in nodes), *judged, "verdict")
    bundle = make_node("deploy", "bundle", "publish:deploy", everything, whole, DATA)
    report = make_node("report", "report", "publish:report", everything, written, ("jinja2", "pillow"))
    evidence = make_node("evidence", "evidence", "publish:evidence", (*everything, "report"), whole, ())
    return [measure, attack, gate, bundle, report, evidence]
