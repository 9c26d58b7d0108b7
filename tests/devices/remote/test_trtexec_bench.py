"""A bundle on a board that only has `trtexec`. The board is a real ssh server; its `trtexec` is a script that writes
down what it is asked for and prints what a real one printed: paths, options and messages are tested, not TensorRT."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from devices.bundle import write_manifest
from devices.engines import trtexec
from devices.errors import BundleError, DeviceError, ModelError
from devices.files import digest_file
from devices.fleet import BoardConfig
from devices.profile import load_profile
from devices.remote import shell_telemetry
from devices.remote.plain import PlainBoard
from devices.remote.trtexec_bench import TrtexecJob, bench_by_trtexec, board_host, find_on_board, trtexec_bench_lines
from devices.trust.store import UNSIGNED
from pipeline.cli import main
from tests.devices.remote.test_bench_command import fleet_file
from tests.devices.telemetry.trees import expand
from tests.devices.test_trtexec import PASSED

NANO, XAVIER = load_profile("jetson-nano"), load_profile("jetson-xavier-nx-8gb")
JOB = TrtexecJob(seconds=0.5)


@pytest.fixture
def bundle(deploy: Path) -> Path:
    write_manifest(deploy, "deploy", {"name": "rows", "device": "cpu", "engine": "compressed-fp32"})
    return deploy


def test_the_network_is_built_and_measured_there(board_config: BoardConfig, bundle: Path, script: Path) -> None:
    board = PlainBoard(board_config, print)
    found = bench_by_trtexec(board, NANO, bundle, UNSIGNED, JOB, force=True)
    asked = [line.split() for line in (script.parent / "asked").read_text().splitlines()]
    assert asked[0] == ["--help"]
    build, measure = asked[-2:]
    plan = next(word for word in build if word.startswith("--saveEngine=")).split("=")[1]
    assert plan.startswith(board_config.cache)
    assert {"--workspace=1024", "--buildOnly"} <= set(build)
    assert "--fp16" not in build
    assert {f"--loadEngine={plan}", "--duration=0.5"} <= set(measure)
    assert (script.parent / "sent").read_text().strip() == digest_file(bundle / "model.onnx")
    assert (found.engine.runtime_version, found.engine.compute_capability) == ("8.2.1", "5.3")
    assert (found.compute.queries, found.compute.rounds) == (200, 20)
    assert found.compute.p50_ms.value == pytest.approx(0.625, abs=0.126)
    assert found.whole.p50_ms.value == pytest.approx(found.compute.p50_ms.value + 0.25)
    assert found.other_device
    assert found.host.memory_bytes is not None
    text = "\n".join(trtexec_bench_lines("bench", NANO, found))
    assert "TensorRT 8.2.1 in FP32" in text
    assert "NOT a NVIDIA Jetson Nano 4 GB" in text
    assert found.load_average_before is not None
    loaded = trtexec_bench_lines("bench", NANO, replace(found, load_average_before=1.5))
    assert "! load was 1.5 before measuring" in "\n".join(loaded)
    quiet = trtexec_bench_lines("bench", NANO, replace(found, load_average_before=None))
    assert "before measuring" not in "\n".join(quiet)
    json.dumps(found.as_dict())
    board.clean()
    assert not Path(board_config.cache).exists()


def test_a_board_that_is_another_is_refused(board_config: BoardConfig, bundle: Path, script: Path) -> None:
    with pytest.raises(DeviceError, match=r"'jetson-nano'.*is meant for NVIDIA Jetson Nano 4 GB.*--force"):
        bench_by_trtexec(PlainBoard(board_config, print), NANO, bundle, UNSIGNED, JOB, force=False)
    assert "--onnx" not in (script.parent / "asked").read_text()


def test_what_the_board_cannot_do_is_said_before_anything_is_sent(
    board_config: BoardConfig, deploy: Path, script: Path
) -> None:
    for engine, said in (("compressed-int8", "TensorRT computes no INT8 there"), ("net", "what its engine 'net' comp")):
        write_manifest(deploy, "deploy", {"name": "rows", "device": "cpu", "engine": engine})
        with pytest.raises(DeviceError, match=said):
            bench_by_trtexec(PlainBoard(board_config, print), NANO, deploy, UNSIGNED, JOB, force=True)
    assert not (script.parent / "asked").exists()


def test_weights_outside_the_bundle_are_refused_before_anything_is_sent(
    board_config: BoardConfig, bundle: Path, script: Path
) -> None:
    model = onnx.load(bundle / "model.onnx")
    weights = model.graph.initializer[0]
    weights.data_location = onnx.TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    info = json.loads((bundle / "engine" / "engine.json").read_text())
    info["onnx_sha256"] = digest_file(bundle / "model.onnx")
    (bundle / "engine" / "engine.json").write_text(json.dumps(info))
    write_manifest(bundle, "deploy", {"name": "rows", "device": "cpu", "engine": "compressed-fp32"})
    with pytest.raises(BundleError, match=r"model\.onnx: keeps weights in other files"):
        bench_by_trtexec(PlainBoard(board_config, print), NANO, bundle, UNSIGNED, JOB, force=True)
    assert not (script.parent / "sent").exists()


def test_a_failure_of_trtexec_is_explained(board_config: BoardConfig, bundle: Path, script: Path) -> None:
    (script.parent / "fail").touch()
    with pytest.raises(ModelError, match=r"model\.onnx: TensorRT 8.5.2 has no kernel for layer 'conv1 \+ relu1'"):
        bench_by_trtexec(PlainBoard(board_config, print), NANO, bundle, UNSIGNED, JOB, force=True)


def test_a_board_without_trtexec_says_so(board_config: BoardConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trtexec, "PLACES", ("/no/such/trtexec",))
    with pytest.raises(DeviceError, match=r"board 'bench': has no trtexec.*at /no/such/trtexec"):
        find_on_board(PlainBoard(board_config, print))


def test_a_board_is_what_its_shell_tells(board_config: BoardConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    board = PlainBoard(board_config, print)
    monkeypatch.setattr(
        PlainBoard,
        "run",
        lambda self, words: (0, "aarch64\nLinux 4.9.337-tegra\n4\n4059712\nNVIDIA Jetson Nano Developer Kit"),
    )
    host = board_host(board, "8.2.1")
    assert (host.machine, host.cpus, host.memory_bytes) == ("aarch64", 4, 4_157_145_088)
    assert host.device_tree_model == "NVIDIA Jetson Nano Developer Kit"
    monkeypatch.setattr(PlainBoard, "run", lambda self, words: (0, "Welcome!"))
    with pytest.raises(DeviceError, match="does not say what it is"):
        board_host(board, "8.2.1")


def test_the_command_takes_this_way_for_such_a_profile(
    board_config: BoardConfig, bundle: Path, script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = fleet_file(replace(board_config, device="jetson-nano"), tmp_path)
    words = ["bench", str(bundle), "--fleet", str(fleet), "--board", "bench", "--allow-unsigned", "--force"]
    assert main([*words, "--seconds", "0.5", "--json", str(tmp_path / "r.json")]) == 0
    assert "measured by trtexec, TensorRT 8.2.1 in FP32" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())["trtexec"]["other_device"] is True
    for option, value in (("--evidence", str(tmp_path)), ("--scenarios", "all"), ("--sustained", "1")):
        assert main([*words, option, value]) == DeviceError.exit_code
        assert f"{option}: cannot be done: a NVIDIA Jetson Nano" in capsys.readouterr().err


def words_asked(script: Path) -> tuple[list[str], list[str]]:
    """Of the build and of the measurement."""
    build, measure = (script.parent / "asked").read_text().splitlines()[-2:]
    return build.split(), measure.split()


@pytest.mark.parametrize(("recipe", "core"), [({}, 1), ({"engine": {"dla_core": 1}}, None)])
def test_a_core_of_the_dla_is_built_for_and_what_it_leaves_is_listed(
    board_config: BoardConfig, deploy: Path, script: Path, recipe: dict[str, object], core: int | None
) -> None:
    manifest = {"name": "rows", "device": "jetson", "engine": "compressed-fp16", "recipe": recipe}
    write_manifest(deploy, "deploy", manifest)
    job = replace(JOB, dla_core=core)
    found = bench_by_trtexec(PlainBoard(board_config, print), XAVIER, deploy, UNSIGNED, job, force=True)
    build, measure = words_asked(script)
    assert {"--useDLACore=1", "--allowGPUFallback", "--fp16"} <= set(build)
    assert "--useDLACore=1" in measure
    assert found.on_gpu_instead == ("fc",)
    text = "\n".join(trtexec_bench_lines("bench", XAVIER, found))
    assert "in FP16 for DLA core 1" in text
    assert "on the GPU instead of the DLA: fc" in text


@pytest.mark.parametrize(
    ("engine", "core", "said"),
    [
        ("compressed-int8", 0, r"DLA: takes FP16 here, not INT8; quantized graphs \(QDQ\) it does not take"),
        ("compressed-fp16", 2, "has 2 cores, and core 2 is asked for"),
    ],
)
def test_what_the_dla_does_not_take_is_said_before_anything_is_sent(
    board_config: BoardConfig, deploy: Path, script: Path, engine: str, core: int, said: str
) -> None:
    write_manifest(deploy, "deploy", {"name": "rows", "device": "jetson", "engine": engine})
    with pytest.raises(DeviceError, match=said):
        bench_by_trtexec(
            PlainBoard(board_config, print), XAVIER, deploy, UNSIGNED, replace(JOB, dla_core=core), force=True
        )
    assert not (script.parent / "asked").exists()


@pytest.mark.parametrize(("engine", "sparse"), [("compressed-fp16", True), ("dense-fp16", False)])
def test_two_of_four_weights_get_their_kernels(
    board_config: BoardConfig, deploy: Path, script: Path, engine: str, sparse: bool
) -> None:
    recipe = {"prune": {"granularity": "2:4"}}
    write_manifest(deploy, "deploy", {"name": "rows", "device": "jetson", "engine": engine, "recipe": recipe})
    job = replace(JOB, cuda_graph=True)
    found = bench_by_trtexec(PlainBoard(board_config, print), XAVIER, deploy, UNSIGNED, job, force=True)
    build, measure = words_asked(script)
    assert ("--sparsity=enable" in build) is sparse
    assert "--useCudaGraph" in measure
    assert found.on_gpu_instead == ()
    text = "\n".join(trtexec_bench_lines("bench", XAVIER, found))
    assert ("kernels for 2:4 weights" in text) is sparse
    assert "as a CUDA graph" in text


def test_the_board_is_looked_at_before_and_after(
    board_config: BoardConfig, script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in for `trtexec` heats the recorded tree of an Orin, until it is slowed."""
    tree = expand("agx-orin", tmp_path / "tree")
    thermal = tree / "sys/class/thermal"
    heats = f"echo 98000 >{thermal}/thermal_zone1/temp\necho 1 >{thermal}/cooling_device2/cur_state\n"
    script.write_text(script.read_text().replace("#!/bin/sh\n", f"#!/bin/sh\n{heats}"))
    monkeypatch.setattr(shell_telemetry, "ROOT", str(tree))
    watched = shell_telemetry.Watched(PlainBoard(board_config, print).run, "15W")
    code, printed = watched([str(script), "--help"])
    assert (code, printed) == (0, PASSED)
    found = watched.found
    texts = [finding["text"] for finding in found["findings"] if finding["is_warning"]]
    assert "gpu-throttle-alert slowed the device in 50 % of the samples" in texts
    assert "GPU reached 98.0 °C; from 99.0 °C on the system slows the device" in texts
    assert "the device is in power mode MAXN, and 15W is asked for; it was not switched" in texts
    assert found["figures"]["temperature.GPU"] == {
        **{"unit": "°C", "first": 42.562, "mean": 70.281, "least": 42.562, "most": 98.0, "last": 98.0}
    }
    assert found["figures"]["clock.gpu"]["last"] == 1300.5
    assert found["before"]["power_mode"]["offered"] == ["MAXN", "MODE_15W", "MODE_30W", "MODE_50W"]
    # The second command is not watched: it is another that reads what the first wrote.
    assert watched(["cat", str(tree / "var/lib/nvpmodel/status")]) == (0, "pmode:0000 fmode:quiet\n")
    assert watched.found is found


def test_a_board_that_tells_nothing_is_measured_all_the_same(
    board_config: BoardConfig, bundle: Path, script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell_telemetry, "ROOT", str(tmp_path / "no such place"))
    job = replace(JOB, power_mode="MAXN")
    found = bench_by_trtexec(PlainBoard(board_config, print), NANO, bundle, UNSIGNED, job, force=True)
    text = "\n".join(trtexec_bench_lines("bench", NANO, found))
    assert found.compute.queries == 200
    assert "device right before and after" in text
    assert "! power mode MAXN is asked for, and the device does not tell its mode" in text
    assert "not known: clock (this system shows none)" in text
