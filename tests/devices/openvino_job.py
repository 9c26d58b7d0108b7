"""What OpenVINO's provider does with an ONNX file, as JSON. Run by an interpreter that has it, from the checkout.

    python -m tests.devices.openvino_job MODEL.onnx IMAGES.npy FOLDER [OPERATOR ...]

The operators are those that may fall back to the CPU.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from devices.detect import detect_host, matches
from devices.engine_files import ENGINE_FILE, read_engine, write_info
from devices.engines.onnxruntime import OnnxRuntimeEngine, build, open_engine
from devices.engines.select import ort_options
from devices.errors import EspalierError
from devices.layer_times import measure_layers
from devices.profile import load_profile


def main() -> None:
    """Build, open, run, bind, look at the nodes; print what came of it."""
    model, images, folder = Path(sys.argv[1]), np.load(sys.argv[2]), Path(sys.argv[3])
    profile, host = load_profile("cpu-openvino"), detect_host()
    profile = replace(profile, session=replace(profile.session, allow_fallback=tuple(sys.argv[4:])))
    try:
        write_info(folder, build(model, folder / ENGINE_FILE, ort_options(profile), host))
    except EspalierError as error:
        print(json.dumps({"kind": type(error).__name__, "where": error.where, "what": error.what, "fix": error.fix}))
        return
    content, info = read_engine(folder)
    engine = open_engine(content, info, host)
    assert isinstance(engine, OnnxRuntimeEngine)
    engine.bind(images)()
    # An engine that only holds the ONNX file is not bound to the processor that it was made on.
    elsewhere = open_engine(content, replace(info, host_class="sparc64-vis"), host)
    layers = measure_layers(content, info, host, 20)
    told = {
        "info": info.as_dict(),
        "matches": matches(profile, host),
        "cpu_matches": matches(load_profile("cpu"), host),
        "answers": engine.run(images).tolist(),
        "elsewhere": elsewhere.run(images).tolist(),
        "is_the_onnx_file": content == model.read_bytes(),
        "providers": sorted({layer.provider for layer in layers.layers}),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
