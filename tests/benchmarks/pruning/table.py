"""The table, from what is stored; figures that were asked for stand beside what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.statistics import Interval
from tests.benchmarks.pruning import cifar, digits, questions, resnet50
from tests.benchmarks.pruning.intervals import accuracy, difference, unpack
from tests.benchmarks.pruning.plan import PEERS
from tests.benchmarks.pruning.results import Results

Stages = ("pruned", "recalibrated", "recovered")
_EQUAL = 0.99
Bits = NDArray[np.float64]


def show(results: Results) -> None:
    """Print every section that has results."""
    if results.under("cifar/latency"):
        _cifar(results)
    if results.under("resnet50/latency"):
        _resnet50(results)
    if results.under("digits/recovered/"):
        _digits(results)
    if results.under("questions/recovered/"):
        _questions(results)


def _cifar(results: Results) -> None:
    macs, latency = results.under("cifar/macs")[""], results.under("cifar/latency")[""]
    print("\nResNet-20, CIFAR-10 as JPEG. FP32, batch 1, one thread, interleaved; percent right on all test images")
    _peer_notes(results.under("cifar/pruned/"))
    recovered = results.under("cifar/recovered/")
    known = [*PEERS, *cifar.HALVES, *map(cifar.equal, PEERS), cifar.DISTILLED]
    names = [name for name in known if any(key.startswith(f"{name}/") for key in recovered)]
    dense = unpack(recovered["dense/0"]["pruned"], recovered["dense/0"]["test_images"])[None]
    count = dense.shape[1]
    seeds = len(_bits(recovered, names[0], "recovered"))
    print(f"  dense: {_percent(accuracy(dense))}, p50 {latency['dense']['p50_ms']['value']:.4f} ms, ", end="")
    print(f"the same engine twice {_times(latency['again']['gain'])}; n = {count}, {seeds} seeds")
    _gains(macs, latency)
    print(f"  {'accuracy':44} {'pruned':24} {'recalibrated':24} recovered")
    for name in names:
        found = [_percent(accuracy(_bits(recovered, name, stage))) for stage in Stages]
        print(f"  {name:44} {found[0]:24} {found[1]:24} {found[2]}")
    peer_ratio = f"peer as it comes {_ratio(macs, latency, 'peer as it comes'):.2f}"
    for name in cifar.HALVES:
        _target(f"latency gain / MAC gain, {name}", _ratio(macs, latency, name), ">=", 0.9, peer_ratio)
    comparisons: list[tuple[str, str, float | None]] = [
        (peer, cifar.equal(peer), asked) for peer, asked in zip(PEERS, (2.0, 0.5), strict=True)
    ]
    comparisons.append((cifar.CONFIGURED, cifar.DISTILLED, None))
    for peer_name, name, asked in comparisons:
        if not {peer_name, name} <= set(names):
            continue
        start = cifar.equal(cifar.CONFIGURED) if name == cifar.DISTILLED else name
        times = latency[peer_name]["p50_ms"]["value"] / latency[start]["p50_ms"]["value"]
        above = difference(_bits(recovered, peer_name, "recovered"), _bits(recovered, name, "recovered"))
        # Within 1 % counts as equal; a slower network has more to be right with.
        what = f"{name}: points above it" + ("" if times >= _EQUAL else ", but SLOWER, so it does not count")
        counted = asked if times >= _EQUAL else None
        _target(what, 100 * above.value, ">=", counted, f"{_points(above)}; {times:.3f} times as fast")


def _resnet50(results: Results) -> None:
    macs, latency = results.under("resnet50/macs")[""], results.under("resnet50/latency")[""]
    print("\nResNet-50 shape, random weights, 224x224. Batch 1, one thread, interleaved")
    _peer_notes(results.under("resnet50/pruned/"))
    print(f"  dense: p50 {latency['dense']['p50_ms']['value']:.2f} ms, ", end="")
    print(f"the same engine twice {_times(latency['again']['gain'])}")
    _gains(macs, latency)
    ours = _ratio(macs, latency, resnet50.HALF_MACS)
    peers = ", ".join(f"{name} {_ratio(macs, latency, name):.2f}" for name in PEERS)
    _target("latency gain / MAC gain at half the MACs", ours, ">=", 0.95, peers)
    small, dense_int8 = (latency[name + resnet50.INT8]["gain"] for name in (resnet50.HALF_CHANNELS, "dense"))
    _target("half the channels + INT8 against dense FP32", small["value"], ">=", 11, _times(small))
    _target("half the channels + INT8 against dense INT8", small["value"] / dense_int8["value"], ">=", 3.5, "")
    print("  (the INT8 figures were set on AVX-512 VNNI)")


def _digits(results: Results) -> None:
    recovered = results.under("digits/recovered/")
    macs = results.under("digits/macs/")
    dense = _pooled(results.under("digits/dense/"), "", "recovered")
    print(f"\nDigits, folds pooled, n = {dense.shape[1]}, {len(dense)} seeds; percent right")
    print(f"  {'dense':44} {_percent(accuracy(dense))}")
    for name in (*PEERS, digits.OURS):
        found = _pooled(recovered, f"{name}/", "recovered")
        gain = min(case["dense"] / case[name] for case in macs.values())
        lost = difference(dense, found)
        print(f"  {name:44} {_percent(accuracy(found)):24} MACs {gain:.2f}x fewer at least")
        print(f"  {'':44} against dense, points: {_points(lost)}")
        if name == digits.OURS:
            _target("points lost at a quarter of the MACs", -100 * lost.value, "<=", 0.5, _points(lost))


def _questions(results: Results) -> None:
    recovered, pruned = results.under("questions/recovered/"), results.under("questions/pruned/")
    last = {name: f"/{settings.get('steps', 1)}" for name, settings in questions.ARMS.items()}
    bits = {name: _bits(recovered, name, "recovered", step) for name, step in last.items()}
    first = next(iter(bits.values()))
    print(f"\nScope and schedule, ResNet-20 on CIFAR-10, n = {first.shape[1]}, {len(first)} seeds; percent right")
    for name, found in bits.items():
        ends = [item for key, item in pruned.items() if key.startswith(f"{name}/") and key.endswith(last[name])]
        shares = [item["macs_after"] / item["macs_before"] for item in ends]
        print(f"  {name:44} {_percent(accuracy(found)):24} {np.mean(shares):.3f} of the MACs")
    pairs = [("local, one shot", "global, one shot"), ("random, one shot", "local, one shot")]
    pairs += [("global, one shot", "global, linear"), ("global, one shot", "global, polynomial")]
    for before, after in pairs:
        shown = difference(bits[before], bits[after])
        verdict = "no difference shown" if shown.low <= 0 <= shown.high else "differs"
        print(f"  {f'{after} against {before}':60} {_points(shown)} points: {verdict}")


def _peer_notes(pruned: Mapping[str, Any]) -> None:
    for name in PEERS:
        found = pruned[name]
        version = found["versions"]["torch-pruning"]
        options = ", ".join(f"{key}={value}" for key, value in found["options"].items()) or "defaults"
        print(f"  {name}: torch-pruning {version}, pruning_ratio={found['pruning_ratio']}, {options}")
        if found["error_without"]:
            print(f"    stops with {found['error_without']!r}; runs with {len(found['ignored'])} layers ignored:")
            print(f"    {', '.join(found['ignored'])}")
        for tried in found["tried"][:8] if len(found["tried"]) > 1 else []:
            given = ", ".join(f"{key}={value}" for key, value in tried.items() if key != "macs_gain")
            print(f"    tried {given}: {tried['macs_gain']:.2f}x fewer MACs")


def _gains(macs: Mapping[str, int], latency: Mapping[str, Any]) -> None:
    print(f"  {'':44} {'MAC gain':>8}  {'latency gain':24} {'ratio':>5}  p50 ms")
    for name, found in latency.items():
        if name in ("dense", "again"):
            continue
        gain = f"{macs['dense'] / macs[name]:8.3f}" if name in macs else f"{'':8}"
        ratio = f"{_ratio(macs, latency, name):5.2f}" if name in macs else f"{'':5}"
        print(f"  {name:44} {gain}  {_times(found['gain']):24} {ratio}  {found['p50_ms']['value']:.4f}")


def _ratio(macs: Mapping[str, int], latency: Mapping[str, Any], name: str) -> float:
    return float(latency[name]["gain"]["value"] * macs[name] / macs["dense"])


def _bits(recovered: Mapping[str, Any], name: str, stage: str, rest: str = "") -> Bits:
    """Rightly answered, (seeds, images), seeds ascending."""
    seeds = sorted({int(key.removeprefix(f"{name}/").split("/")[0]) for key in recovered if key.startswith(f"{name}/")})
    found = [recovered[f"{name}/{seed}{rest}"] for seed in seeds]
    return np.stack([unpack(item[stage], item["test_images"]) for item in found])


def _pooled(found: Mapping[str, Any], prefix: str, stage: str) -> Bits:
    """(seeds, images of all folds) of keys `prefix` + fold/seed."""
    cases = [tuple(map(int, key.removeprefix(prefix).split("/"))) for key in found if key.startswith(prefix)]
    folds, seeds = sorted({fold for fold, _ in cases}), sorted({seed for _, seed in cases})

    def row(seed: int) -> Sequence[Bits]:
        items = [found[f"{prefix}{fold}/{seed}"] for fold in folds]
        return [unpack(item[stage], item["test_images"]) for item in items]

    return np.stack([np.concatenate(row(seed)) for seed in seeds])


def _target(what: str, found: float, sign: str, asked: float | None, beside: str) -> None:
    met = "" if asked is None else "met" if (found >= asked if sign == ">=" else found <= asked) else "MISSED"
    wanted = "" if asked is None else f"{sign} {asked:g}"
    print(f"  > {what}: {found:.3f}  {wanted}  {met}  ({beside})")


def _percent(interval: Interval) -> str:
    return f"{100 * interval.value:.2f} ({100 * interval.low:.2f} to {100 * interval.high:.2f})"


def _points(interval: Interval) -> str:
    return f"{100 * interval.value:+.2f} ({100 * interval.low:+.2f} to {100 * interval.high:+.2f})"


def _times(gain: Mapping[str, float]) -> str:
    return f"{gain['value']:.3f} ({gain['low']:.3f} to {gain['high']:.3f})"
