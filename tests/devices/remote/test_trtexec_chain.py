"""The way to a board that only has `trtexec`: a run here ends with its graph, which `espalier bench` takes there.

The board is a real ssh server; its `trtexec` is the script of `conftest.py`."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from devices.engine_files import read_info
from devices.errors import DeviceError
from devices.files import digest_file
from devices.fleet import BoardConfig
from pipeline.cli import main
from tests import drill
from tests.devices.remote.test_bench_command import fleet_file

NO_BUDGET = ("--set", "gate={}")


@pytest.fixture(scope="module")
def xavier(drilled: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run folder of an INT8 run for a Xavier, and what it said."""
    out = tmp_path_factory.mktemp("xavier") / "run"
    done = drill.run(drilled[0], out, "--device", "jetson-xavier-nx-8gb", *NO_BUDGET)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def graph_of(out: Path) -> Any:
    return onnx.load(out / "deploy" / "model.onnx")


def test_a_xavier_gets_int8_as_its_tensorrt_takes_it(xavier: tuple[Path, str]) -> None:
    graph = graph_of(xavier[0])
    assert graph.opset_import[0].version == 17
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    quantizers = [node for node in graph.graph.node if node.op_type == "QuantizeLinear"]
    zeros = [constants[node.input[2]] for node in quantizers]
    assert zeros
    for zero in zeros:
        assert zero.data_type == onnx.TensorProto.INT8
        assert not onnx.numpy_helper.to_array(zero).any()


def test_a_nano_gets_fp16_in_its_opset(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    half = ("--set", "quantize.precision=fp16", *NO_BUDGET)
    done = drill.run(drilled[0], tmp_path / "run", "--device", "jetson-nano", *half)
    assert done.returncode == 0, done.stderr
    graph = graph_of(tmp_path / "run")
    assert graph.opset_import[0].version == 13
    weights = {tensor.data_type for tensor in graph.graph.initializer if len(tensor.dims) == 4}
    assert weights == {onnx.TensorProto.FLOAT16}


def test_nothing_of_it_is_called_measured_or_built(xavier: tuple[Path, str]) -> None:
    out, said = xavier
    report = json.loads((out / "report.json").read_text())
    assert report["measured"] is False
    assert [engine["name"] for engine in report["engines"]][-1] == "compressed-int8"
    assert all(engine["latency"] is None and "build_s" not in engine for engine in report["engines"])
    assert all(engine["clean"]["value"] > 0.3 for engine in report["engines"])
    info = read_info(out / "deploy" / "engine")
    assert (info.runtime, info.compute_capability) == ("onnxruntime", "")
    # The graph itself: nothing of it was made for this machine.
    assert digest_file(out / "deploy" / "engine" / "engine.onnx") == digest_file(out / "deploy" / "model.onnx")
    page = (out / "report.html").read_text()
    assert "builds their engines on the NVIDIA Jetson Xavier NX 8 GB" in page
    assert "built here ahead of time" not in page
    assert re.search(r"measure: +espalier bench .*deploy --device jetson-xavier-nx-8gb --host", said)


def test_its_bundle_is_built_and_measured_on_the_board(
    xavier: tuple[Path, str], board_config: BoardConfig, script: Path, tmp_path: Path
) -> None:
    fleet = fleet_file(replace(board_config, device="jetson-xavier-nx-8gb"), tmp_path)
    words = ["bench", str(xavier[0] / "deploy"), "--fleet", str(fleet), "--board", "bench", "--allow-unsigned"]
    assert main([*words, "--force", "--seconds", "0.5"]) == 0
    build = (script.parent / "asked").read_text().splitlines()[-2].split()
    assert {"--int8", "--fp16"} <= set(build)
    assert (script.parent / "sent").read_text().strip() == digest_file(xavier[0] / "deploy" / "model.onnx")


def test_it_is_not_measured_here_as_if_this_were_the_board(
    xavier: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(xavier[0] / "deploy"), "--allow-unsigned"]) == DeviceError.exit_code
    assert "holds a graph and no engine of this machine" in capsys.readouterr().err


def test_a_budget_that_no_run_can_prove_says_the_way(drilled: tuple[Path, Path], tmp_path: Path) -> None:
    done = drill.run(drilled[0], tmp_path / "run", "--device", "jetson-xavier-nx-8gb")
    assert done.returncode == 10, done.stderr
    assert "no run measures on a NVIDIA Jetson Xavier NX 8 GB" in done.stdout
    assert "--set gate={}" in done.stdout


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (("measure.rebuilds=2",), 3, "measure.rebuilds: is of engines"),
        (("prune={target_latency_ms=1.0, latency_source='measured'}",), 3, "built and measured by trtexec over ssh"),
        (("engine.dla_core=2",), 3, "engine.dla_core: is 2, and a NVIDIA Jetson Xavier NX 8 GB has 2 DLA cores"),
    ],
)
def test_what_is_not_done_for_such_a_board_is_said_first(
    tmp_path: Path, more: tuple[str, ...], code: int, says: str
) -> None:
    options = [word for text in more for word in ("--set", text)]
    done = drill.run(tmp_path / "store", tmp_path / "run", "--device", "jetson-xavier-nx-8gb", *options)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert not (tmp_path / "run").exists()
