"""`espalier predict` and `espalier devices calibrate`."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from devices.errors import EXIT_OK, DeviceError, ModelError, shown_lines
from pipeline.commands.boards import named_board, require_agent, say
from pipeline.commands.needs import require_compress

if TYPE_CHECKING:
    from devices.agent_calibrate import CalibrateJob
    from devices.calibrate import Calibration
    from devices.fleet import BoardConfig
    from devices.profile import Profile


def predict(options: argparse.Namespace) -> int:
    """Say how long an ONNX network should take on a device that is not here."""
    require_compress()
    from devices.files import write_json
    from devices.predict import predict as predict_latency
    from devices.predict import prediction_lines
    from devices.profile import load_profile
    from exporters.layers import layer_costs

    profile = load_profile(options.device)
    found = predict_latency(layer_costs(options.onnx), profile)
    if options.json:
        write_json(options.json, found.as_dict())
    print(shown_lines([*prediction_lines(found), *_parser_lines(options.onnx, profile)]))
    return EXIT_OK


def _parser_lines(onnx: Path, profile: Profile) -> list[str]:
    """Whether TensorRT takes the network, where the device has it: its parser needs no GPU."""
    from devices.engines.tensorrt_process import check_parses, parse_lines

    runtime = profile.engine.runtime
    if runtime == "onnxruntime":
        return []
    said = ""
    # The full library's parser may want a GPU, which that of TensorRT-RTX does not.
    for module in dict.fromkeys((runtime if find_spec(runtime) else "tensorrt_rtx", "tensorrt_rtx")):
        try:
            return parse_lines(check_parses(onnx, module))
        except (DeviceError, ModelError) as error:
            said = said or f"whether TensorRT takes it was not tried: {error.what}. {error.fix}"
    return [said]


def calibrate(options: argparse.Namespace) -> int:
    """Measure layers by channels, here or on a board, and write a profile of the user's own with what they tell."""
    require_compress()
    import tempfile
    from datetime import date

    from devices.agent_calibrate import CalibrateJob
    from devices.calibrate import calibration_lines, write_calibrated
    from devices.profile import load_profile
    from devices.profile_files import require_new_profile
    from exporters.probes import make_probes, probe_plan

    out: Path = options.out
    require_new_profile(out)
    named = named_board(options)
    if named:
        require_agent(named[1])
    profile = named[1] if named else load_profile(options.device or "cpu")
    job = CalibrateJob(seconds=options.seconds, precision=options.precision)
    with tempfile.TemporaryDirectory(prefix="espalier-probes-") as probes:
        made = make_probes(probe_plan(profile, options.precision), Path(probes))
        print(f"{len(made)} probes, about {options.seconds:g} s and their builds ...", file=sys.stderr)
        found = _on_board(options, *named, job, Path(probes)) if named else _here(profile, job, Path(probes))
    print(shown_lines(calibration_lines(found)))
    name = out.name.removesuffix(".toml")
    write_calibrated(out, profile, found, name, date.today())
    print(f"written: {out}. Use it with --profile {out}")
    return EXIT_OK


def _here(profile: Profile, job: CalibrateJob, probes: Path) -> Calibration:
    from devices.calibrate import calibrate as measure
    from devices.detect import detect_host
    from devices.engines.select import require_measurable

    host = detect_host()
    require_measurable(profile, host)
    return measure(profile, host, probes, job)


def _on_board(
    options: argparse.Namespace, config: BoardConfig, profile: Profile, job: CalibrateJob, probes: Path
) -> Calibration:
    import tempfile

    from devices.calibrate import calibration_of
    from devices.progress import terminal_progress
    from devices.remote.board import Board
    from devices.remote.lines import result_lines

    with tempfile.TemporaryDirectory(prefix="espalier-") as out, Board(config, profile, options.force, say) as board:
        progress = terminal_progress("espalier")
        result = board.run_stage("calibrate", job, {"probes": probes}, Path(out), progress, job.seconds)
    print(shown_lines(result_lines(config.name, profile, result)))
    return calibration_of(result.metrics, probes)
