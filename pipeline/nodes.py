"""The chain as data: which steps a recipe needs, what each depends on, and what decides its result."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pipeline.edge_nodes import edge_nodes, is_edge
from pipeline.engine_plan import graph_of
from pipeline.graph_nodes import ENGINE_PREFIX, graph_nodes
from pipeline.network_nodes import network_nodes
from pipeline.node import DATA, ORT, TENSORRT, TORCH, Node, make_node
from pipeline.queries import craft_section, query_plan
from pipeline.recipe import section_of
from pipeline.results import DECISION, GRAPH_REPLAYS, MEASUREMENTS, PREDICTIONS, REBUILDS, REPLAYS, STARTS
from pipeline.scan_nodes import int8_scan_nodes, is_scan, scan_nodes
from pipeline.steps.build_job import build_job
from pipeline.twin.node import twin_node
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
    needs_torch = (
        not imported or recipe.prune or recipe.robustness.attacks or recipe.threats.scan or recipe.threats.edge
    )
    nodes = network_nodes(work, model, data) if needs_torch else []
    forms = {"dense": None if imported else "dense"}
    if recipe.prune:
        forms["compressed"] = nodes[-1].name
    trained = [node.name for node in nodes if node.stage not in ("search", "learn")]
    nodes += scan_nodes(work, trained, model, data)
    attacked = tuple(dict.fromkeys(("dense", trained[-1]))) if trained else ()
    for form, network in forms.items():
        nodes += graph_nodes(work, form, network, model, data)
    quantized = {node.name for node in nodes if node.stage == "quantize"}
    for form, network in {"dense": trained[0], work.form: trained[-1]}.items() if trained else ():
        nodes += int8_scan_nodes(work, form, network, model, data) if f"quantized {form}" in quantized else []
    twin = twin_node(work, data, task) if attacked else None
    nodes += [twin] if twin else []
    # The twin's own result says whether it may be used; what it is made of is the graph.
    sources = (*attacked, *((twin.name, twin.needs[0]) if twin else ()))
    nodes.append(_craft_node(work, sources, model, data))
    engines = tuple(node.name for node in nodes if node.stage == "build")
    nodes += _figure_nodes(work, engines, task) if work.measured else _ahead_nodes(work, engines, task)
    nodes += _device_nodes(work, engines)
    if recipe.threats.edge:
        networks = {"dense": "dense"} | ({"compressed": trained[-1]} if recipe.prune else {})
        nodes += edge_nodes(work, networks, model, data, engines)
    return (*_exported_first(nodes), *_judge_nodes(work, nodes, data))


def _exported_first(nodes: list[Node]) -> list[Node]:
    """The dense network is exported before anything is pruned: one that cannot be says so before hours of recovery."""
    early = [node for node in nodes if node.name in ("exported dense", "simplified dense")]
    # A network that came as a graph is not exported.
    if not any(node.stage == "export" for node in early):
        return nodes
    rest = [node for node in nodes if node not in early]
    after = 1 + [node.name for node in rest].index("dense")
    return [*rest[:after], *early, *rest[after:]]


def _craft_node(work: Work, networks: tuple[str, ...], model: dict[str, Any], data: dict[str, Any]) -> Node:
    recipe = work.recipe
    config = {
        "model": model,
        "data": data,
        "robustness": craft_section(recipe.robustness),
        "seed": recipe.seed,
        "threads": recipe.threads,
    }
    return make_node("sets", "craft", "craft:craft", networks, config, (*TORCH, "scipy"))


def _figure_nodes(work: Work, engines: tuple[str, ...], task: dict[str, Any]) -> list[Node]:
    """Engines measured and attacked on the device that runs them."""
    recipe = work.recipe
    compared = {"baseline": work.baseline, "candidate": work.candidate, "rivals": list(work.rivals)}
    batches = {"batch_sizes": list(work.profile.measure.batch_sizes)}
    host = {"host": work.device_key}
    config = compared | batches | host | {"measure": section_of(recipe.measure), "seed": recipe.seed}
    measure = make_node(MEASUREMENTS, "measure", "engine:measure", engines, config, (*ORT, *TENSORRT))
    plan = query_plan(recipe)
    queries = {"queries": asdict(plan) if plan else None}
    config = queries | {"host_class": work.engine_class, "task": task, "baseline": work.baseline}
    attack = make_node(REPLAYS, "attack", "engine:attack", (*engines, "sets"), config, (*ORT, *TENSORRT))
    return [measure, attack]


def _ahead_nodes(work: Work, engines: tuple[str, ...], task: dict[str, Any]) -> list[Node]:
    """What can be said of engines that do not run here: a prediction, and what their graphs answer."""
    graphs = {engine: graph_of(engine.removeprefix(ENGINE_PREFIX), work.engines) for engine in engines}
    needs = (*engines, *dict.fromkeys(graphs.values()))
    config: dict[str, Any] = {"graphs": graphs, "profile": asdict(work.profile)}
    predict = make_node(PREDICTIONS, "predict", "ahead:predict", needs, config, ORT)
    config = {"graphs": graphs, "task": task, "baseline": work.baseline, "threads": work.recipe.threads}
    replay = make_node(GRAPH_REPLAYS, "replay", "ahead:replay_graphs", (*needs, "sets"), config, ORT)
    return [predict, replay]


def _device_nodes(work: Work, engines: tuple[str, ...]) -> list[Node]:
    """What ships, by what was measured; rebuilds and starts of TensorRT engines."""
    recipe, runtime = work.recipe, work.profile.engine.runtime
    figures = MEASUREMENTS if work.measured else PREDICTIONS
    config = {
        "candidate": work.candidate,
        "rivals": list(work.rivals),
        "only_if_faster": recipe.quantize.only_if_faster,
    }
    nodes = [make_node(DECISION, "decide", "decide:decide", (figures,), config, ())]
    host = {"host": work.device_key}
    if runtime != "onnxruntime" and recipe.measure.rebuilds is not None:
        graph = graph_of(work.candidate, work.engines)
        job = build_job(work, work.engines.candidate, work.sparse)
        config = host | {"measure": section_of(recipe.measure), "build": job, "seed": recipe.seed}
        config |= {"engine": asdict(work.profile.engine), "hardware": asdict(work.profile.hardware)}
        nodes.append(make_node(REBUILDS, "rebuild", "runtime:rebuild", (graph,), config, TENSORRT))
    if runtime == "tensorrt_rtx" and work.measured:
        nodes.append(make_node(STARTS, "start", "runtime:start", (*engines, DECISION), host, TENSORRT))
    return nodes


def _judge_nodes(work: Work, nodes: list[Node], data: dict[str, Any]) -> list[Node]:
    """From figures to verdict, report and bundles."""
    recipe = work.recipe
    before = tuple(node.name for node in nodes)
    judged = tuple(name for name in before if name in (MEASUREMENTS, PREDICTIONS, REPLAYS, GRAPH_REPLAYS, DECISION))
    config = {"gate": section_of(recipe.gate), "baseline": work.baseline}
    scans = tuple(name for name in before if is_scan(name))
    threats = tuple(name for name in before if is_edge(name))
    gate = make_node("verdict", "gate", "publish:gate", (*judged, *scans, *threats), config, ())
    whole = {"recipe": section_of(recipe), "profile": work.profile.name, "data": data, "host": work.device_key}
    # The page shows what each result was made of.
    needs = {node.name: list(node.needs) for node in (*nodes, gate)}
    written = whole | {"command": work.command, "needs": needs}
    everything = (*before, "verdict")
    bundle = make_node("deploy", "bundle", "publish:deploy", everything, whole, DATA)
    report = make_node("report", "report", "publish:report", everything, written, ("jinja2", "pillow"))
    evidence = make_node("evidence", "evidence", "publish:evidence", (*everything, "deploy", "report"), whole, ())
    return [gate, bundle, report, evidence]
