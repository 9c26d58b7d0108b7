"""Which profiles a host is taken for: device trees and GPU names as machines gave them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from devices.detect import Host, matches
from devices.engines.select import require_buildable
from devices.profile import load_profile, profile_names
from devices.recognise import recognise
from devices.telemetry.nvml import Gpu

# Device tree, memory, power mode. The texts of Nano, Orin Nano, AGX Orin and Thor are quoted from people's reports;
# those of TX2, Xavier and Orin NX are from memory.
MODELS = [
    ("NVIDIA Jetson Nano Developer Kit", 4_157_145_088, None, "jetson-nano"),
    ("quill", 8_235_000_000, None, "jetson-tx2"),
    ("NVIDIA Jetson Xavier NX Developer Kit", 8_000_000_000, None, "jetson-xavier-nx-8gb"),
    ("NVIDIA Jetson Xavier NX Developer Kit", 16_400_000_000, None, "jetson-xavier-nx-16gb"),
    ("Jetson-AGX", 32_800_000_000, None, "jetson-agx-xavier-32gb"),
    ("Jetson-AGX", 65_600_000_000, None, "jetson-agx-xavier-64gb"),
    ("NVIDIA Orin Nano Developer Kit", 7_990_000_000, "15W", "jetson-orin-nano-8gb"),
    ("NVIDIA Jetson Orin Nano Developer Kit", 3_700_000_000, None, "jetson-orin-nano-4gb"),
    ("NVIDIA Jetson Orin Nano Developer Kit", 3_700_000_000, "MAXN_SUPER", "jetson-orin-nano-4gb-super"),
    (
        "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        7_990_000_000,
        "MAXN_SUPER",
        "jetson-orin-nano-8gb-super",
    ),
    (
        "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        7_990_000_000,
        "25W",
        "jetson-orin-nano-8gb",
    ),
    ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", 7_990_000_000, "MAXN", "jetson-orin-nx-8gb"),
    ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", 16_480_000_000, None, "jetson-orin-nx-16gb"),
    (
        "NVIDIA Jetson Orin NX Engineering Reference Developer Kit Super",
        16_480_000_000,
        "MAXN_SUPER",
        "jetson-orin-nx-16gb-super",
    ),
    (
        "NVIDIA Jetson Orin NX Engineering Reference Developer Kit Super",
        7_990_000_000,
        "MAXN SUPER",
        "jetson-orin-nx-8gb-super",
    ),
    ("Jetson AGX Orin", 32_075_000_000, "MAXN", "jetson-agx-orin-32gb"),
    ("NVIDIA Jetson AGX Orin Developer Kit", 65_893_888_000, "MODE_30W", "jetson-agx-orin-64gb"),
    ("NVIDIA Jetson AGX Thor Developer Kit", 131_000_000_000, None, "jetson-thor-t5000"),
]
NO_BOARDS = [
    ("Jetson AGX Orin Industrial", 65_893_888_000),
    ("lanai-3636", 4_000_000_000),
    ("NVIDIA Jetson TX2 NX Developer Kit", 4_000_000_000),
    ("NVIDIA Jetson Nano 2GB Developer Kit", 2_070_000_000),
    ("NVIDIA Jetson AGX Thor Developer Kit", 64_000_000_000),
    ("Raspberry Pi 5 Model B Rev 1.0", 8_000_000_000),
]
CARDS = {
    "NVIDIA GeForce RTX 2060": ("rtx-2060", "7.5", 6_442_450_944),
    "NVIDIA GeForce RTX 3060": ("rtx-3060", "8.6", 12_884_901_888),
    "NVIDIA GeForce RTX 3090": ("rtx-3090", "8.6", 25_769_803_776),
    "NVIDIA GeForce RTX 4060": ("rtx-4060", "8.9", 8_585_740_288),
    "NVIDIA GeForce RTX 4070": ("rtx-4070", "8.9", 12_878_610_432),
    "NVIDIA GeForce RTX 4090": ("rtx-4090", "8.9", 25_757_220_864),
    "NVIDIA GeForce RTX 5090": ("rtx-5090", "12.0", 34_190_917_632),
    "NVIDIA RTX A4000": ("rtx-a4000", "8.6", 17_171_480_576),
    "NVIDIA A2": ("a2", "8.6", 16_101_933_056),
    "Tesla T4": ("t4", "7.5", 15_843_721_216),
    "NVIDIA L4": ("l4", "8.9", 24_152_899_584),
}


def names(host: Host) -> list[str]:
    return [found.profile.name for found in recognise(host)]


def board(jetson: Host, model: str, memory_bytes: int | None, mode: str | None = None) -> Host:
    return replace(jetson, device_tree_model=model, memory_bytes=memory_bytes, power_mode=mode)


def test_every_board_and_card_that_has_a_profile_is_told_here() -> None:
    told = {name for *_, name in MODELS} | {name for name, *_ in CARDS.values()}
    assert told == {name for name in profile_names() if load_profile(name).kind != "cpu"}


@pytest.mark.parametrize(("model", "memory_bytes", "mode", "name"), MODELS)
def test_a_jetson_is_itself_and_a_cpu(jetson: Host, model: str, memory_bytes: int, mode: str | None, name: str) -> None:
    # Its CPU builds and measures engines as any other does: `--device cpu` works there.
    host = board(jetson, model, memory_bytes, mode)
    assert names(host) == ["cpu", name]
    require_buildable(load_profile("cpu"), replace(host, runtimes={"onnxruntime": "1.20"}))


@pytest.mark.parametrize(("model", "memory_bytes"), NO_BOARDS)
def test_a_board_of_another_kind_is_a_cpu_alone(jetson: Host, model: str, memory_bytes: int) -> None:
    assert names(board(jetson, model, memory_bytes)) == ["cpu"]


def test_a_board_in_another_mode_than_the_rates_says_so(jetson: Host) -> None:
    model = "NVIDIA Jetson Orin Nano Developer Kit"
    for mode, said in (("25W", "the board is in 25W"), (None, "does not tell")):
        _, found = recognise(board(jetson, model, 7_990_000_000, mode))
        assert found.remarks[0].startswith("the rates of jetson-orin-nano-8gb are of power mode 15W, and")
        assert said in found.remarks[0]
        assert found.remarks[1] == "jetson-orin-nano-8gb-super is the same in power mode MAXN_SUPER"
    # It is the same board all the same: to name it is no mistake.
    assert matches(load_profile("jetson-orin-nano-8gb-super"), board(jetson, model, 7_990_000_000, "15W"))


def test_where_the_memory_is_not_known_both_sizes_are_named(jetson: Host) -> None:
    found = names(board(jetson, "NVIDIA Jetson AGX Orin Developer Kit", None))
    assert found == ["cpu", "jetson-agx-orin-32gb", "jetson-agx-orin-64gb"]


def test_reasons_say_what_a_board_was_known_by(jetson: Host) -> None:
    host = board(jetson, "NVIDIA Jetson AGX Orin Developer Kit", 65_893_888_000, "MAXN")
    cpu, found = recognise(host)
    model, memory, mode = found.reasons
    assert "'NVIDIA Jetson AGX Orin Developer Kit'" in model
    assert (memory, mode) == ("65.9 GB of memory", "power mode MAXN")
    assert found.remarks == ()
    assert cpu.reasons == ("processor of aarch64",)
    assert cpu.remarks == ("cpu-aarch64 describes it too",)


@pytest.mark.parametrize("card", CARDS)
def test_a_card_is_known_by_name_capability_and_memory(host: Host, card: str) -> None:
    name, capability, memory_bytes = CARDS[card]
    pc = replace(host, machine="x86_64", device_tree_model=None, gpus=(card,))
    assert sorted(names(pc)) == sorted(["cpu", name])
    gpu = Gpu(name=card, compute_capability=capability, memory_bytes=memory_bytes)
    found = {entry.profile.name: entry for entry in recognise(replace(pc, gpu_details=(gpu,)))}
    assert set(found) == {"cpu", name}
    assert found[name].reasons == (f"GPU '{card}', compute capability {capability}, {memory_bytes / 1e9:.1f} GB",)
    for other in (replace(gpu, compute_capability="6.1"), replace(gpu, memory_bytes=memory_bytes * 2 // 3)):
        assert names(replace(pc, gpu_details=(other,))) == ["cpu"]


@pytest.mark.parametrize(
    "card",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4080",
        "NVIDIA GeForce RTX 4070 Ti",
        "NVIDIA GeForce RTX 2060 SUPER",
        "NVIDIA A20",
        "NVIDIA L40",
        "NVIDIA L4-6Q",
    ],
)
def test_a_card_of_a_similar_name_is_another(host: Host, card: str) -> None:
    assert names(replace(host, machine="x86_64", device_tree_model=None, gpus=("Other", card))) == ["cpu"]


def test_a_plain_computer_is_a_cpu_and_an_unknown_one_is_nothing(host: Host) -> None:
    plain = replace(host, device_tree_model=None, gpus=())
    assert names(replace(plain, machine="x86_64")) == names(replace(plain, machine="aarch64")) == ["cpu"]
    assert names(replace(plain, machine="riscv64")) == []


def test_generic_processors_can_be_named(host: Host) -> None:
    for machine, name, other in (
        ("x86_64", "cpu-x86-64", "cpu-aarch64"),
        ("aarch64", "cpu-aarch64", "cpu-x86-64"),
    ):
        assert matches(load_profile(name), replace(host, machine=machine))
        assert not matches(load_profile(other), replace(host, machine=machine))


def test_a_profile_may_want_a_runtime(host: Host) -> None:
    cpu = load_profile("cpu")
    other = replace(cpu, name="cpu-other", recognise=replace(cpu.recognise, runtime="onnxruntime-openvino"))
    assert not matches(other, replace(host, runtimes={"onnxruntime": "1.32.0"}))
    with_it = replace(host, runtimes={"onnxruntime-openvino": "1.24.1"})
    (found,) = recognise(with_it, (other,))
    assert found.reasons == ("onnxruntime-openvino 1.24.1",)
    # Based on the plain one, it is a choice and not the default.
    assert [entry.profile.name for entry in recognise(with_it, (cpu, replace(other, based_on="cpu")))] == ["cpu"]
