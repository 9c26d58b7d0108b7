"""`python -m tests.benchmarks.pruning [rows]`: run what is not stored yet and print the table.

Rows: `cifar` (ResNet-20 at half the MACs and at the peer's latency), `resnet50` (latency alone), `digits`, and
`questions` (scope and schedule, on a subset); without a name the first three. `table` prints what is stored.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from devices.errors import EspalierError
from devices.files import parse_toml_value
from devices.profile import load_profile
from tests.benchmarks.pruning import cifar, digits, questions, resnet50, table
from tests.benchmarks.pruning.plan import Plan
from tests.benchmarks.pruning.results import Results

_ROWS = {"cifar": cifar.run, "resnet50": resnet50.run, "digits": digits.run, "questions": questions.run}
_PEER = Path(".venv-peer", "bin", "python")
_NEED_DATA = ("cifar", "questions")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-pruning", description=__doc__)
    parser.add_argument("rows", nargs="*", choices=(*_ROWS, "table"), default=["cifar", "resnet50", "digits"])
    parser.add_argument("--peer", type=Path, default=_PEER, help="Python of an environment with torch-pruning")
    parser.add_argument("--data", type=Path, help="CIFAR-10 as a tar archive of class folders of JPEG files")
    parser.add_argument("--weights", type=Path, help="ResNet-20 trained on it, safetensors")
    parser.add_argument("--out", type=Path, default=Path("runs", "bench-pruning"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="recoveries side by side, one thread each")
    parser.add_argument("--step", type=int, help="channel step, of ours and of the peer; the cpu profile's without it")
    parser.add_argument("--train-images", type=int, help="of questions: train on so many images (10,000)")
    parser.add_argument("--arm", action="append", default=[], help="of cifar: recover this arm, not all of them")
    parser.add_argument(
        "--tune", type=int, default=0, metavar="IMAGES", help="tune_samples of ours as fast as a peer (0)"
    )
    parser.add_argument("--prune", action="append", default=[], metavar="KEY=VALUE", help="setting of [prune] for ours")
    parser.add_argument("--quick", action="store_true", help="a smoke run: few images, one epoch, short timings")
    options = parser.parse_args()
    for row in options.rows:
        if row in _NEED_DATA and not (options.data and options.weights):
            parser.error(f"row '{row}' needs --data and --weights")
    if options.rows != ["table"] and not options.peer.exists():
        parser.error(f"there is no {options.peer}: make it with `make bench-pruning`, or name it with --peer")
    return options


def _plan(options: argparse.Namespace) -> Plan:
    settings = dict(text.split("=", 1) for text in options.prune)
    plan = Plan(
        out=options.out.resolve() / ("quick" if options.quick else "full"),
        # Not resolved: the link is what makes it a virtual environment's.
        peer=options.peer.absolute(),
        data=options.data and options.data.resolve(),
        weights=options.weights and options.weights.resolve(),
        seeds=tuple(range(options.seeds)),
        workers=options.workers,
        channel_step=options.step or load_profile("cpu").pruning.channel_step,
        recovered=tuple(options.arm),
        tune_images=options.tune,
        prune={key: parse_toml_value(value) for key, value in settings.items()},
    )
    if options.train_images:
        plan = replace(plan, question_images=options.train_images)
    if not options.quick:
        return plan
    return replace(
        plan,
        quick=True,
        seeds=plan.seeds[:1],
        train_images=256,
        test_images=200,
        epochs=1,
        duration_s=1.0,
        probe_s=0.3,
        question_images=256,
        folds=1,
    )


def main() -> None:
    """Run the rows that are asked for, then print the table."""
    options = _arguments()
    plan = _plan(options)
    results = Results(plan.out / "results.json")
    try:
        for row in options.rows:
            if row != "table":
                _ROWS[row](plan, results)
    except EspalierError as error:
        raise SystemExit(str(error)) from error
    table.show(results)


if __name__ == "__main__":
    main()
