"""What a whole run adds to the small report, in the form in which its stages write it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np

from devices.corruption import corruption_summary
from devices.masking import judge_masking
from devices.robustness import Replay, SetInfo
from devices.statistics import Interval, wilson
from pipeline.threats.edge.record import Change, Figure, Threat
from pipeline.threats.report import threat_report
from pipeline.threats.scan.findings import Finding

# Right answers from all to none: the lightest and the darkest cell of the table.
_RIGHT = {"gaussian_noise": (0.8, 0.7, 0.6, 0.5, 0.4), "fog": (1.0, 0.75, 0.5, 0.25, 0.0)}
_CORRUPTED = 100
_PARITY = {"agreement": 0.998, "samples": 1000, "sqnr_db": 41.0}


def add_queries(report: dict[str, Any], left: dict[str, int]) -> None:
    """Square, asked of 100 images, with how many withstand it on each of these engines."""
    report["query_plan"] = {
        "attacks": ["square"],
        "queries": 1000,
        "samples": 100,
        "epsilon": 0.1,
        "norm": "linf",
        "seed": 0,
    }
    report["twin"] = {"kept": True, "compared_with": "engine", "twin_parity": _PARITY}
    rights = {name: np.arange(100) < count for name, count in left.items()}
    for engine in report["engines"]:
        name = engine["name"]
        parent = f"{name.rpartition('-')[0]}-fp32"
        twin = None if name == parent else (parent, rights[parent])
        masking = judge_masking("square", rights[name], twin, {"pgd_dense": np.arange(100) < 5}).as_dict()
        row = {"method": "square", "samples": 100, "budget": 1000, "epsilon": 0.1, "norm": "linf"}
        share = cast("dict[str, float]", masking["left"])
        row |= share | {"difference": None if name == "dense-fp32" else _interval(-0.02, 0.05)}
        worst = {"label": 3, "classes": 10, "samples": 12, "value": 0.25, "low": 0.05, "high": 0.5}
        engine |= {"queries": [row], "masking": masking, "worst_class": worst}


def add_corruptions(report: dict[str, Any]) -> None:
    """Every engine under two corruptions, each a little worse than the one before it."""
    replays = [_corrupted(index / 50) for index in range(len(report["engines"]))]
    for engine, found in zip(report["engines"], replays, strict=True):
        kept = [row for row in engine["sets"] if row["kind"] != "corruption"]
        none = {"kind": "corruption", "surrogate": None, "epsilon": None}
        rows = [
            none
            | {"name": info.name, "method": info.method, "strength": info.strength}
            | wilson(int(found.scores[info.name].sum()), _CORRUPTED).as_dict()
            for info in found.infos
        ]
        engine |= {"sets": kept + rows, "corruption": corruption_summary(found, replays[0])}


def _corrupted(worse: float) -> Replay:
    infos = tuple(
        SetInfo(name=f"{method}_{strength}", kind="corruption", method=method, strength=strength)
        for method in _RIGHT
        for strength in range(1, 6)
    )
    shares = [share for shares in _RIGHT.values() for share in shares]
    images = np.arange(_CORRUPTED)
    right = [images < _CORRUPTED * (share - (worse if 0 < share < 1 else 0)) for share in shares]
    return Replay({info.name: row for info, row in zip(infos, right, strict=True)}, infos)


def add_threats(report: dict[str, Any]) -> None:
    """Everything that can be tried: evasion, queries, a scan for backdoors, and threats of small devices."""
    attacked = {"of": "engine", "samples": 200, "engines": {engine["name"]: engine for engine in report["engines"]}}
    crafted = {"method": "pgd", "surrogate": "dense", "epsilon": 0.1, "norm": "linf"}
    scan = {"samples": 32, "findings": [_finding("dense", 1.5), _finding("pruned", 4.5)]}
    tried = [threat.as_dict() for threat in (_differential(), _patch(), _bit_errors(), _membership())]
    report["threats"] = threat_report(attacked, "dense-fp32", [crafted], [scan], tried)


def _finding(network: str, value: float) -> dict[str, Any]:
    return Finding(
        method="inversion",
        network=network,
        statistic="how far one class' smallest trigger is below those of the others, in deviations of the others,",
        value=value,
        threshold=3.0,
        false_alarm_rate=0.05,
        assumes="the classes are alike",
        class_name="cat",
        sign=value > 3.0,
        detail={},
    ).as_dict()


def _differential() -> Threat:
    return Threat(
        name="differential",
        tried="Images that INT8 gets wrong and its float parent gets right, by gradients of both",
        budget="ε = 0.1 (Linf), 20 steps",
        figures=(
            Figure(
                artifact="dense-int8",
                setting="clean images",
                measure="right by dense-fp32, wrong by dense-int8",
                interval=Interval(0.01, 0.0, 0.04),
                samples=200,
                role="control",
            ),
        ),
        not_shown=("Comparing INT8 with its parent while it runs would notice such images; nothing here does.",),
    )


def _patch() -> Threat:
    before = Figure(
        artifact="dense-fp32",
        setting="by its own gradients",
        measure="images of other classes answered as class 7",
        interval=Interval(0.2, 0.15, 0.26),
        samples=180,
    )
    change = Change("dense-fp32", Interval(0.05, -0.01, 0.11))
    after = replace(before, artifact="compressed-int8", interval=Interval(0.25, 0.19, 0.32), changes=(change,))
    return Threat(
        name="patch",
        tried="A square to print that makes any image class 7, under shifts to 10 %, sizes to ±15 %, light to ±15 %",
        budget="25 % of the area, 2 steps on 64 images each",
        figures=(before, after),
        not_shown=("Nothing was printed: views are computed.", "One target class and one start were tried."),
    )


def _bit_errors() -> Threat:
    return Threat(
        name="bit_errors",
        tried="Each stored bit of the weights is wrong with the same probability",
        budget="rates 0.003; 2 memories each",
        figures=(
            Figure(
                artifact="compressed-int8",
                setting="rate 0.003, about 12 of 3,872 bits",
                measure="accuracy lost",
                interval=Interval(0.0, -0.066, 0.066),
                samples=200,
                changes=(Change("dense-fp32", Interval(0.0, -0.1, 0.1)), Change("dense-int8", Interval(0.1, 0.0, 0.2))),
            ),
        ),
        not_shown=("Bits that an attacker chooses (Rakin et al. 2019) do far more than random ones.",),
        of="graph",
    )


def _membership() -> Threat:
    return Threat(
        name="membership",
        tried="Whether an image was one of training, by the engine's answer to it",
        budget="40 training images, 40 others, 4 networks",
        figures=(
            Figure(
                artifact="compressed-int8",
                setting="loss at most the mean of training (Yeom)",
                measure="members found, 1 % of others accused",
                interval=Interval(0.0, 0.0, 0.088),
                samples=80,
                role="told",
            ),
        ),
        not_shown=("With few shadow networks LiRA is weak: no advantage found is no proof of privacy.",),
    )


def add_training(report: dict[str, Any]) -> None:
    """Two steps of pruning, fits that watched validation images, and checks of the attacks."""
    report["training"] = [
        {"name": "dense", "accuracy": [0.5, 0.8, 0.7], "clean": [0.6, 0.9, 0.95], "best_epoch": 2},
        {"name": "recovered", "accuracy": [0.9, 0.91], "clean": [], "best_epoch": 2},
    ]
    score = {"samples": 360, "value": 0.9}
    step = {"macs": 5_000_000, "parameters": 600, "score_as_cut": score, "score_before_recovery": score}
    report["steps"] = [
        step | {"name": "pruned 1", "score": score, "epochs": 2},
        step | {"name": "pruned", "score": None, "epochs": 0},
    ]
    falling = {"by_epsilon": {"0.05": 0.9, "0.1": 0.5, "0.2": 0.1}, "by_steps": {"1": 0.9, "10": 0.5, "3": 0.7}}
    told = {"surrogate": "dense", "samples": 40, "clean": 0.975, "unlimited": 0.0, "zero_gradients": 0.25}
    note = "25 % of the gradients are exactly zero: gradients are masked"
    report["sanity"] = [told | falling | {"median_gradient": 0.0822, "notes": [note]}]


def add_device(report: dict[str, Any]) -> None:
    """The board, its telemetry, and what stands beside pure inference of the engine that ships."""
    clock = {"utc": "2026-11-28T03:51:53+00:00", "doubt": None}
    report["board"] = {"name": "kitchen", "notes": ["the board's clock is 53.9 years behind"], "other_device": False}
    slowed = "gpu-throttle-alert slowed the device for 12 % of the time"
    report["telemetry"] = {
        "before": {"power_mode": {"name": "15W", "source": "nvpmodel"}, "jetson_clocks": False, "wall_clock": clock},
        "figures": {"clock.gpu": {"unit": "MHz", "mean": 306.0, "least": 300.0, "most": 612.0}},
        "findings": [{"text": slowed, "is_warning": True}],
        "absent": {"power": "this system shows none"},
    }
    half = {"p50_ms": _interval(0.0624, 0.001)}
    shipped = next(engine for engine in report["engines"] if engine["name"] == report["shipped"])
    shipped["host_costs"] = {
        "copies_share": _interval(0.97, 0.03),
        "inference": half,
        "with_copies": {"p50_ms": _interval(0.1225, 0.01)},
        "preprocess": half,
    }
    shipped["warm_up"] = {"duration_s": 0.0105, "queries": 250, "steady": False}
    shift = {"before_ms": 0.05, "after_ms": 0.06, "at_s": 30.0, "utc": "03:52:23", "is_throttling": True}
    shipped["sustained"] = {
        "queries": 900_000,
        "duration_s": 60.0,
        "p50_ms": 0.05,
        "shifts": [shift | {"clocks": {"clock.gpu": [612.0, 306.0]}, "temperature": {"temperature.gpu": 71.5}}],
    }
    decision = {"verdict": "slower", "asked": "compressed-int8", "reason": "int8 is slower; it is shipped all the same"}
    report["decision"] = decision
    report["notes"] = {"mixed dense": ["dense: 1 of 4 layers stay in higher precision: conv2"]}


def layer_times(report: dict[str, Any], name: str = "example") -> dict[str, Any]:
    """What `espalier-agent layers --json` prints of the engine that ships."""
    layers = [
        {"name": f"conv{index}", "kernel": "Conv", "mean_ms": 0.01 * (index + 1), "share": 0.2 * (index + 1)}
        for index in range(2)
    ]
    told = {"p50_ms": _interval(0.05, 0.01), "layers_ms": 0.03, "overhead_ms": 0.02, "profiler_us": 1.0, "queries": 400}
    shipped = next(engine for engine in report["engines"] if engine["name"] == report["shipped"])
    of = {"name": name, "device": "cpu", "engine": shipped["name"], "size_bytes": shipped["size_bytes"]}
    return of | {"layers": layers} | told


def _interval(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}
