"""`espalier predict` and `espalier devices calibrate`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from devices.errors import EXIT_OK
from pipeline.commands.needs import require_compress


def predict(options: argparse.Namespace) -> int:
    """Say how long an ONNX network should take on a device that is not here."""
    require_compress()
    from devices.files import write_json
    from devices.predict import predict as predict_latency
    from devices.predict import prediction_lines
    from devices.profile import load_profile
    from exporters.layers import layer_costs

    found = predict_latency(layer_costs(options.onnx), load_profile(options.device))
    if options.json:
        write_json(options.json, found.as_dict())
    print("\n".join(prediction_lines(found)))
    return EXIT_OK


def calibrate(options: argparse.Namespace) -> int:
    """Measure layers by channels on this device, and write a profile of the user's own with what they tell."""
    require_compress()
    import tempfile
    from datetime import date

    from devices.agent_calibrate import CalibrateJob
    from devices.calibrate import calibrate as measure
    from devices.calibrate import calibration_lines, write_calibrated
    from devices.detect import detect_host
    from devices.engines.select import require_measurable
    from devices.profile import load_profile
    from devices.profile_files import require_new_profile
    from exporters.probes import make_probes, probe_plan

    out: Path = options.out
    require_new_profile(out)
    profile, host = load_profile(options.device), detect_host()
    require_measurable(profile, host)
    job = CalibrateJob(seconds=options.seconds, precision=options.precision)
    with tempfile.TemporaryDirectory(prefix="espalier-probes-") as probes:
        made = make_probes(probe_plan(profile, options.precision), Path(probes))
        print(f"{len(made)} probes, about {options.seconds:g} s and their builds ...", file=sys.stderr)
        found = measure(profile, host, Path(probes), job)
    print("\n".join(calibration_lines(found)))
    name = out.name.removesuffix(".toml")
    write_calibrated(out, profile, found, name, date.today())
    print(f"written: {out}. Use it with --profile {out}")
    return EXIT_OK
