"""The report as one HTML file that needs no network. Its one script offers tables as CSV; nothing depends on it."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.report import (
    attack_words,
    comparison_view,
    corruption_view,
    device_view,
    record_view,
    robustness_view,
)
from pipeline.report.comparison_plots import comparison_plots
from pipeline.report.engine_style import engine_anchor, key_mark
from pipeline.report.figures import TIMES
from pipeline.report.layer_times_view import layer_times_view
from pipeline.report.layers_missing import roofline_missing, sensitivity_missing
from pipeline.report.layers_view import layers_view, sensitivity_views
from pipeline.report.plot_latency import plot_latency
from pipeline.report.plot_layers import plot_layers
from pipeline.report.plot_strength import plot_strengths
from pipeline.report.plot_tradeoff import engine_candidates, front_note, tradeoff_plots
from pipeline.report.provenance_view import provenance_tree
from pipeline.report.pruning_view import pruning_sentences, step_rows
from pipeline.report.queries_view import query_section
from pipeline.report.search_view import search_section
from pipeline.report.threats_view import threat_views
from pipeline.report.toml_text import toml_text
from pipeline.report.validation_view import validation_rows
from pipeline.report.verdict_view import title_of, verdict_view
from pipeline.report.words import words_of
from pipeline.summary import decision_lines, is_measured, prediction_notes

_FOLDER = Path(__file__).parent
_LAYERS_SHOWN = 16
_BEFORE_UNIT = re.compile(rf"(?<=\d) (?=(?:%|{TIMES}|ms|s|dB|MACs|points)(?!\w))")
_PICTURE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]+")


def render_page(report: dict[str, Any]) -> str:
    """The page for the content of a `report.json`."""
    return page_environment().get_template("page.html").render(_content(report))


@cache
def page_environment(*folders: Path) -> Environment:
    """Templates of the report, and of `folders`, with what every page has: style, script, and the script's digest.

    The page's policy lets that one script run, by its digest, and nothing else.
    """
    environment = Environment(
        loader=FileSystemLoader([*folders, _FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["css"] = Markup((_FOLDER / "report.css").read_text(encoding="utf-8"))
    script = (_FOLDER / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals["script"] = Markup(script)
    environment.globals["script_digest"] = f"sha256-{digest}"
    environment.filters["unbroken"] = _unbroken
    environment.globals["key_mark"] = key_mark
    environment.globals["engine_anchor"] = engine_anchor
    return environment


def _content(report: dict[str, Any]) -> dict[str, Any]:
    return {
        "report": report,
        "words": words_of(report),
        "measured": is_measured(report),
        "built": comparison_view.is_built(report),
        **_overview(report),
        **_robustness(report),
        **_layers(report),
        **_record(report),
    }


def _overview(report: dict[str, Any]) -> dict[str, Any]:
    """The verdict, and the engines side by side."""
    candidates, measured = engine_candidates(report), is_measured(report)
    return {
        "verdict": verdict_view(report),
        "engines": comparison_view.table_engines(report),
        "shipped_title": title_of(report, report["shipped"]),
        "tiles": comparison_view.tiles(report),
        "comparison": comparison_view.comparison_table(report),
        "comparison_plots": comparison_plots(report),
        "tradeoffs": tradeoff_plots(candidates, report),
        "front_note": front_note(candidates, report),
        "same_engine_twice": comparison_view.same_engine_twice(report) if measured else "",
        "latency_plot": plot_latency(report) if measured else None,
        "prediction_notes": [] if measured else prediction_notes(report),
        "decision": decision_lines(report),
        "notes": [line for lines in report.get("notes", {}).values() for line in lines],
    }


def _robustness(report: dict[str, Any]) -> dict[str, Any]:
    """Attacks, threats, corruptions, and images to look at."""
    return {
        "attacks": robustness_view.attacks(report),
        "at_random": robustness_view.at_random(report),
        "ball": attack_words.ball_sentence(report["recipe"]),
        "not_tried": robustness_view.not_tried(report),
        "sanity_rows": attack_words.sanity_rows(report),
        "attack_plot": robustness_view.attack_plot(report),
        "strength_plots": plot_strengths(report),
        "accuracy_rows": robustness_view.accuracy_table(report),
        "queries": query_section(report),
        "threats": threat_views(report.get("threats", []), report["shipped"]),
        "corruption_rows": robustness_view.corruption_table(report),
        "corruption": corruption_view.corruption_view(report),
        "images": [image for image in report["images"] if _is_picture(image)],
        "images_set": robustness_view.title_of_set(report, report["images"][0]["set"]) if report["images"] else "",
    }


def _layers(report: dict[str, Any]) -> dict[str, Any]:
    """What was cut and trained, and what each layer costs."""
    layers = report["layers"]
    shown, more = layers[:_LAYERS_SHOWN], layers[_LAYERS_SHOWN:]
    return {
        "layers": layers,
        "layers_plot": plot_layers(shown, "Channels by layer") if shown else None,
        "more_layers_plot": plot_layers(more, "Channels of the other layers") if more else None,
        "more_layers": len(more),
        "pruning": pruning_sentences(report),
        "steps": step_rows(report),
        "validation": validation_rows(report),
        "search": search_section(report["search"], _command(report)) if report.get("search") else None,
        "left_out": record_view.left_out(report),
        **_single_layers(report),
    }


def _single_layers(report: dict[str, Any]) -> dict[str, Any]:
    """The section of single layers: what is known of them, and how to come by the rest."""
    parts = {
        "layers_view": layers_view(report),
        "roofline_missing": roofline_missing(report),
        "layer_times": layer_times_view(report),
        "sensitivity": sensitivity_views(report),
        "sensitivity_missing": sensitivity_missing(report),
    }
    return parts | {"has_layers": any(parts.values())}


def _record(report: dict[str, Any]) -> dict[str, Any]:
    """How it was made, on what."""
    return {
        "provenance": provenance_tree(report),
        "parity": record_view.parity_rows(report),
        "parity_asked": record_view.parity_sentence(report),
        "stages": [stage | {"time": record_view.stage_seconds(stage["seconds"])} for stage in report["stages"]],
        "stages_s": sum(stage["seconds"] for stage in report["stages"]),
        "host": record_view.host_facts(report),
        "versions": record_view.version_facts(report),
        "conditions": record_view.condition_facts(report) if is_measured(report) else [],
        "device_facts": device_view.device_facts(report),
        "device_findings": device_view.device_findings(report),
        "beside_inference": device_view.beside_inference(report),
        "recipe_toml": toml_text(report["recipe"]),
    }


def _command(report: dict[str, Any]) -> str:
    """What the user typed."""
    return str(report["commands"][0]["command"])


def _unbroken(text: str) -> str:
    """The text with no line break between a number and its unit."""
    return _BEFORE_UNIT.sub("\N{NO-BREAK SPACE}", text)


def _is_picture(image: dict[str, Any]) -> bool:
    """Only pictures that lie in the page itself: a `report.json` from elsewhere must not make it fetch anything."""
    keys = ("clean", "adversarial", "change", *(("mask",) if "mask" in image else ()))
    return all(_PICTURE.fullmatch(image[key]) for key in keys)
