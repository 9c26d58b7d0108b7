"""A small report to make pages of, and what may stand in one: a picture, a budget, a hostile name."""

from __future__ import annotations

from typing import Any

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)
HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'{{ 7*7 }}</style></title></svg>"
TITLES = {
    "dense-fp32": "dense, FP32",
    "dense-int8": "dense, INT8",
    "compressed-fp32": "compressed, FP32",
    "compressed-int8": "compressed, INT8",
}


def example_report(
    names: tuple[str, ...] = tuple(TITLES), attacked: bool = True, layers: int = 3, shipped: str | None = None
) -> dict[str, Any]:
    """A small report with the engines `names`; the last one ships unless told otherwise."""
    pruned = any(name.startswith("compressed") for name in names)
    shipped = shipped or names[-1]
    return {
        "format": "espalier-report/1",
        "name": "example",
        "device": {"name": "cpu", "title": "a processor"},
        "shipped": shipped,
        "verdict": {
            "passed": True,
            "budgets": [budget("min_accuracy", "clean accuracy", 90.0, "%", 97.5, 94.25, 99.5)],
        },
        "engines": [_engine(name, attacked, 2.0 / (index + 1)) for index, name in enumerate(names)],
        "speedups": [
            {"engine": name, "than": "dense-fp32"} | _interval(index + 1.5, 0.25)
            for index, name in enumerate(names[1:])
        ],
        "same_engine_twice": {"engine": names[0]} | _interval(1.01, 0.02),
        "conditions": {"threads": 1, "pinned_cpus": [1], "governor": None, "load_average_before": 1.25, "openings": 10},
        "latency_histogram": {
            "edges_ms": [0.4, 0.8, 1.6, 3.2],
            "engines": {name: {"counts": [5, 80, 10], "beyond": 5} for name in names},
        },
        "samples": 200,
        "epsilon": 0.1,
        "surrogates": [{"set": "pgd_dense", "surrogate": "dense", "accuracy": 0.615}] if attacked else [],
        "layers": [{"name": f"layer{index}", "before": 64, "after": 48} for index in range(layers)] if pruned else [],
        "left_out": [{"tensor": "head.weight", "channels": 10, "reason": "it is the network's output"}]
        if pruned
        else [],
        "pruning": {
            "macs_before": 9_000_000,
            "macs_after": 3_000_000,
            "parameters_before": 1000,
            "parameters_after": 400,
            "channel_step": 16,
        }
        if pruned
        else None,
        "parity": [
            {"step": "exported", "border": "torch to ONNX", "sqnr_db": db, "max_abs_diff": 3.8e-6, "agreement": 1.0}
            | {"samples": 128}
            for db in (134.0, 200.0)
        ],
        "images": [
            {"set": "pgd_dense", "label": "cat", "held": held, "clean": PIXEL, "adversarial": PIXEL, "change": PIXEL}
            for held in (False, True)
        ]
        if attacked
        else [],
        "stages": [{"name": "dense", "stage": "train", "seconds": 30.66, "digest": "6b3f052afb70889a" * 4}],
        "environment": {"host": _host(), "versions": {"torch": "2.13.0"}},
        "commands": [{"figure": "everything", "command": "espalier run RECIPE --device cpu"}],
        "recipe": _recipe(),
    }


def _interval(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def budget(name: str, text: str, limit: float, unit: str, *figure: float | None, met: bool = True) -> dict[str, Any]:
    """A budget; `figure` is its value, low and high end."""
    found = dict(zip(("value", "low", "high"), figure, strict=True))
    return {"name": name, "text": text, "limit": limit, "unit": unit, "met": met} | found


def _engine(name: str, attacked: bool, time_ms: float) -> dict[str, Any]:
    none = {"surrogate": None, "epsilon": None, "strength": None}
    sets: list[dict[str, Any]] = [{"name": "clean", "kind": "clean", "method": "clean"} | none | _interval(0.975, 0.02)]
    if attacked:
        crafted = {"surrogate": "dense", "epsilon": 0.1, "strength": None}
        sets.append({"name": "pgd_dense", "kind": "adversarial", "method": "pgd"} | crafted | _interval(0.725, 0.06))
    for strength in range(1, 6):
        made = {"name": f"gaussian_noise_{strength}", "kind": "corruption", "method": "gaussian_noise"}
        sets.append(made | none | {"strength": strength} | _interval(0.9 - 0.1 * strength, 0.05))
    robust = _interval(0.705, 0.06) | {"difference": _interval(-0.015, 0.03)}
    return {
        "name": name,
        "title": TITLES.get(name, name),
        "macs": 9_000_000,
        "parameters": 1000,
        "latency": {f"p{rank}_ms": _interval(time_ms * (1 + rank / 100), 0.1) for rank in (50, 90, 99)}
        | {"max_ms": 9.75, "queries": 1200, "rounds": 400},
        "throughput": [{"batch": batch, "images_per_s": 1000.0 * batch / time_ms} for batch in (1, 8)],
        "footprint": {
            "load_ms": 5.25,
            "first_query_ms": 0.75,
            "peak_memory_bytes": 68_000_000,
            "engine_memory_bytes": 11_000_000,
        },
        "size_bytes": 36_031,
        "clean": _interval(0.975, 0.02) | {"difference": _interval(0.0, 0.01)},
        "robust": robust if attacked else None,
        "sets": sets,
    }


def _host() -> dict[str, Any]:
    known = {
        "machine": "x86_64",
        "system": "Linux 6.1",
        "cpu_model": "AMD EPYC",
        "cpu_isa": "avx2",
        "cpu_has_vnni": False,
    }
    more: dict[str, Any] = {"cpus": 2, "memory_bytes": None, "device_tree_model": None, "gpus": [], "python": "3.11.7"}
    return known | more | {"runtimes": {"onnxruntime": "1.20.0"}}


def _recipe() -> dict[str, Any]:
    parity = {
        "float_sqnr_db": 60.0,
        "float_agreement": 0.99,
        "int8_sqnr_db": 8.0,
        "int8_agreement": 0.9,
        "int8_engine_sqnr_db": 25.0,
        "int8_engine_agreement": 0.97,
        "samples": 128,
    }
    robustness = {"attacks": ["pgd"], "pgd_steps": 20, "pgd_step_size": 0.01, "pgd_restarts": 2}
    return {"name": "example", "seed": 0, "train": None, "parity": parity, "robustness": robustness}
