"""Whether a documented command is one: of a parser, or a target of the Makefile."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
from collections.abc import Sequence

from devices.agent import _parser as agent_parser
from pipeline.cli import _parser as espalier_parser
from tests.docs.blocks import ROOT

_MAKEFILE = (ROOT / "Makefile").read_text()
_TARGETS = set(re.findall(r"^([a-z-]+):", _MAKEFILE, re.M))
_VARIABLES = set(re.findall(r"\$[({](?:if \$[({])?([A-Z_]+)", _MAKEFILE))


def fault(words: Sequence[str], whole: bool) -> str:
    """What is wrong with a command; empty when nothing is. `whole` ones have all that they need, others may be cut."""
    if words[0] == "make":
        return _make_fault(words[1:])
    parsers = {"espalier": espalier_parser, "espalier-agent": agent_parser}
    if words[0] not in parsers:
        return ""
    parser = parsers[words[0]]()
    return _parse_fault(parser, words[1:]) if whole else _names_fault(parser, words[1:])


def _make_fault(words: Sequence[str]) -> str:
    for word in words:
        name, is_variable, _ = word.partition("=")
        if is_variable and re.fullmatch(r"[A-Z_]+", name):
            if name not in _VARIABLES:
                return f"no variable {name}"
        elif re.fullmatch(r"[a-z-]+", word) and not word.startswith("-") and word not in _TARGETS:
            return f"no target {word}"
    return ""


def _parse_fault(parser: argparse.ArgumentParser, words: Sequence[str]) -> str:
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            parser.parse_args(list(words))
        except SystemExit:
            return said.getvalue() or "prints its help"
    return ""


def _names_fault(parser: argparse.ArgumentParser, words: Sequence[str]) -> str:
    """Names of commands, as far as they go, and of options."""
    for word in words:
        below = next((item for item in parser._actions if isinstance(item, argparse._SubParsersAction)), None)
        if word.startswith("--"):
            if word.rstrip(",.]") not in parser._option_string_actions:
                return f"no option {word}"
        elif below is not None and word in below.choices:
            parser = below.choices[word]
        elif below is not None and re.fullmatch("[a-z]+", word):
            return f"no command {word}"
    return ""
