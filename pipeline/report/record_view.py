"""The record of a run: pruning, parity, stages, host and conditions, as rows of text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from devices.quiet import QUIET_LOAD
from pipeline.report.figures import difference, share, significant, size
from pipeline.report.words import words_of

_Figures = Mapping[str, Any]
_EQUAL_DB = 200.0


@dataclass(frozen=True)
class LeftOut:
    """Tensors that stayed whole for one reason."""

    reason: str
    tensors: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ParityRow:
    """One border between two forms of a network, in words."""

    step: str
    border: str
    sqnr: str
    largest: str
    agreement: str
    samples: str


@dataclass(frozen=True)
class Fact:
    """Something that is so."""

    name: str
    value: str


def left_out(report: _Figures) -> list[LeftOut]:
    """What was not pruned, one entry a reason; each tensor with the width of the axis that stayed."""
    found: dict[str, list[str]] = {}
    for item in report["left_out"]:
        tensors = found.setdefault(item["reason"], [])
        tensors.append(f"{item['tensor']} ({item['channels']})")
    return [LeftOut(reason, tuple(tensors)) for reason, tensors in found.items()]


def parity_rows(report: _Figures) -> list[ParityRow]:
    """Each border, in the order of the run."""
    return [
        ParityRow(
            step=row["step"],
            border=row["border"],
            sqnr="equal" if row["sqnr_db"] >= _EQUAL_DB else f"{row['sqnr_db']:.1f} dB",
            largest=difference(row["max_abs_diff"]),
            agreement="not compared" if row["agreement"] is None else f"{share(row['agreement'], row['samples'])} %",
            samples=f"{row['samples']:,}",
        )
        for row in report["parity"]
    ]


def parity_sentence(report: _Figures) -> str:
    """What the recipe asks of the borders."""
    asked = report["recipe"]["parity"]
    if all(row["agreement"] is None for row in report["parity"]):
        return (
            f"Asked of a border between float forms: SQNR of at least {asked['float_sqnr_db']:g} dB"
            f"{_half(asked, False)}; of quantization: "
            f"{asked['int8_sqnr_db']:g} dB; of an INT8 engine against its graph: {asked['int8_engine_sqnr_db']:g} dB. "
            "Of several outputs the worst counts. A border that breaks its limit stops the run."
        )
    unit = "pixels" if words_of(report).kind == "segmentation" else "samples"
    return (
        f"Asked of a border between float forms: SQNR of at least {asked['float_sqnr_db']:g} dB and the same "
        f"answer for at least {100 * asked['float_agreement']:g} % of the {unit}{_half(asked, True)}; of quantization: "
        f"{asked['int8_sqnr_db']:g} dB and {100 * asked['int8_agreement']:g} %; of an INT8 engine against its graph: "
        f"{asked['int8_engine_sqnr_db']:g} dB and {100 * asked['int8_engine_agreement']:g} %. "
        "A border that breaks its limit stops the run."
    )


def _half(asked: _Figures, agreement: bool) -> str:
    """The same of FP16 and BF16, in recipes that know them."""
    if "half_sqnr_db" not in asked:
        return ""
    also = f" and {100 * asked['half_agreement']:g} %" if agreement else ""
    return f"; of FP16 and BF16: {asked['half_sqnr_db']:g} dB{also}"


def stage_seconds(seconds: float) -> str:
    """How long a stage took."""
    return f"{seconds:.1f} s" if seconds >= 0.05 else "under 0.05 s"


def host_facts(report: _Figures) -> list[Fact]:
    """The machine that ran all this."""
    host = report["environment"]["host"]
    board = [Fact("board", host["device_tree_model"])] if host["device_tree_model"] else []
    return [
        *board,
        Fact("processor", host["cpu_model"]),
        Fact("machine", f"{host['machine']}, {host['cpu_isa']}, VNNI: {'yes' if host['cpu_has_vnni'] else 'no'}"),
        Fact("CPUs", f"{host['cpus']}"),
        Fact("memory", size(host["memory_bytes"]) if host["memory_bytes"] is not None else "not known"),
        Fact("GPUs", ", ".join(host["gpus"]) or "none"),
        Fact("system", host["system"]),
        *(Fact(f"runtime {name}", version) for name, version in host["runtimes"].items()),
    ]


def version_facts(report: _Figures) -> list[Fact]:
    """The libraries that decide the result."""
    return [Fact(name, f"{version}") for name, version in report["environment"]["versions"].items()]


def condition_facts(report: _Figures) -> list[Fact]:
    """What holds for every latency of the page."""
    found = report["conditions"]
    load = f"{significant(found['load_average_before'])} (one-minute average before measuring)"
    if found["load_average_before"] > QUIET_LOAD:
        load += (
            ". The stages before, or other work, kept this machine busy: "
            "times may be too long. Ratios suffer least, because the engines ran interleaved"
        )
    return [
        Fact("threads per engine", f"{found['threads']}"),
        Fact("pinned to CPU", ", ".join(str(cpu) for cpu in found["pinned_cpus"]) or "none"),
        Fact("engines opened", f"{found['openings']} times in all, as where they lie in memory changes their speed"),
        Fact("frequency governor", found["governor"] or "not known: the system does not tell"),
        Fact("load", load),
        Fact("order", "all engines in one process, visited in random order in every round"),
        Fact("intervals", f"95 %; of latency by a bootstrap over rounds, {words_of(report).intervals}"),
        Fact("batch", "1 image for latency and ratios, input and output in place"),
    ]
