"""What a board at the other end of ssh costs: `python -m tests.benchmarks.board`.

A real sshd on loopback; its keys, configuration and cache are its own. Figures: size of the agent's file, time of
`detect` by it, and a bundle of 25 MB from the first connection to the first figure, each step by itself.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from devices.bench_job import BenchJob
from devices.bundle import write_manifest
from devices.classifier import ENGINE_INFO_PATH, ENGINE_PATH, LABELS_PATH, ONNX_PATH, PREPROCESS_PATH
from devices.detect import detect_host
from devices.engine_files import write_info
from devices.engines import onnxruntime
from devices.files import write_json
from devices.fleet import BoardConfig
from devices.profile import load_profile
from devices.remote.board import Board
from devices.trust.store import UNSIGNED
from devices.zipapp import agent_zipapp, write_agent
from tests.devices.remote.sshd import start_server, stop_server

BUNDLE_BYTES = 25_000_000
SIDE = 64
WIDTH = 128


def build_onnx(path: Path, size_bytes: int) -> None:
    """A convolutional network (N, 3, 64, 64) to (N, 10) of about so many bytes."""
    rng = np.random.default_rng(0)
    count = max(size_bytes // (WIDTH * WIDTH * 9 * 4), 1)
    shapes = [(WIDTH, 3, 3, 3), *[(WIDTH, WIDTH, 3, 3)] * count]
    weights = [
        numpy_helper.from_array((rng.standard_normal(shape) * 0.02).astype(np.float32), f"w{index}")
        for index, shape in enumerate(shapes)
    ]
    nodes, last = [], "image"
    for index in range(len(shapes)):
        # Half the size four times over, so that a query takes tens of ms and not seconds.
        stride = 2 if index < 4 else 1
        nodes += [
            helper.make_node("Conv", [last, f"w{index}"], [f"c{index}"], strides=[stride] * 2, pads=[1] * 4),
            helper.make_node("Relu", [f"c{index}"], [f"r{index}"]),
        ]
        last = f"r{index}"
    head = numpy_helper.from_array((rng.standard_normal((WIDTH, 10)) * 0.1).astype(np.float32), "head")
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])
    graph = helper.make_graph(nodes, "board", [image], [logits], [*weights, head])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def build_bundle(folder: Path) -> int:
    """A deploy bundle of about 25 MB; returns its size in bytes."""
    (folder / ENGINE_PATH).parent.mkdir(parents=True)
    build_onnx(folder / ONNX_PATH, BUNDLE_BYTES // 2)
    options = onnxruntime.OrtOptions(provider="CPUExecutionProvider", threads=1)
    write_info(folder / "engine", onnxruntime.build(folder / ONNX_PATH, folder / ENGINE_PATH, options, detect_host()))
    assert (folder / ENGINE_INFO_PATH).is_file()
    write_json(folder / PREPROCESS_PATH, {"channels": 3, "height": SIDE, "width": SIDE})
    write_json(folder / LABELS_PATH, [str(index) for index in range(10)])
    write_manifest(folder, "deploy", {"name": "board", "device": "cpu"})
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def seconds(call: Callable[[], object]) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def spread(values: list[float]) -> str:
    """Median, least and most, in s."""
    return f"{np.median(values):.3f} s ({min(values):.3f} to {max(values):.3f}, n = {len(values)})"


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--python", default=sys.executable, help="the board's interpreter (this one)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="time to measure latency (1)")
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="espalier-board-"))
    server = start_server(base)
    try:
        write_agent(base / "agent.pyz")
        print(
            f"agent          {len(agent_zipapp())} bytes, made in {seconds(agent_zipapp):.3f} s (must: 1,000,000 bytes)"
        )
        command = [options.python, str(base / "agent.pyz"), "detect"]
        detects = [
            seconds(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(options.repeats)
        ]
        starts = [
            seconds(lambda: subprocess.run([options.python, "-c", ""], check=True)) for _ in range(options.repeats)
        ]
        print(f"detect         {spread(detects)}; the interpreter alone {spread(starts)} (must: 0.3 s)")
        size_bytes = build_bundle(base / "deploy")
        print(f"bundle         {size_bytes} bytes")
        config = BoardConfig(
            name="loopback",
            host="board",
            device="cpu",
            python=options.python,
            cache=str(base / "cache"),
            ssh_options=server.ssh_options,
        )
        job = BenchJob(seconds=options.seconds, trust=UNSIGNED)
        firsts, connects, nexts = [], [], []
        for _ in range(options.repeats):
            shutil.rmtree(base / "cache", ignore_errors=True)
            with Board(config, load_profile("cpu")) as board:
                connects.append(seconds(board.detect))
            shutil.rmtree(base / "cache")
            with Board(config, load_profile("cpu")) as board:
                bench = partial(board.bench, base / "deploy", base / "out", job)
                firsts.append(seconds(bench))
                nexts.append(seconds(bench))
        print(f"first connect  {spread(connects)}, with the agent sent and started, and `detect`")
        print(f"first figure   {spread(firsts)}, measuring {options.seconds:g} s or 40 rounds (must: 10 s)")
        print(f"second time    {spread(nexts)}, with the bundle there")
    finally:
        stop_server(server)
        shutil.rmtree(base)


if __name__ == "__main__":
    main()
