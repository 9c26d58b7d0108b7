"""Write the pages and schemas of docs/ that are made from the code: `make reference`. --check says what is stale."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from devices.agent import _parser as agent_parser
from devices.errors import EXIT_CODES
from pipeline.cli import _parser as espalier_parser
from pipeline.commands.schema import schema_text
from pipeline.schema.profile import profile_schema
from pipeline.schema.recipe import recipe_schema

DOCS = Path(__file__).resolve().parent
_MADE = "<!-- made by `make reference`; do not edit -->\n"
_RECIPE = """# Recipe

Every key of a recipe, from the classes that read it. An unknown key is an error that names the nearest known one. A key
without a default may be left out, unless it is required. `espalier schema recipe --out recipe.schema.json` writes
[the same as a JSON schema](../schema/recipe.schema.json), for editors that complete TOML (Taplo, Even Better TOML): the
first line of the recipe is then `#:schema ./recipe.schema.json`.
"""
_PROFILE = """# Device profile

Every key of a profile, from the classes that hold it. What is absent is unknown, and nothing is guessed. A profile with
`based_on` may leave out what that one has. [The JSON schema](../schema/profile.schema.json) is written by
`espalier schema profile --out profile.schema.json`; `espalier devices check FILE` says more than a schema can.
"""
_COMMANDS = """# Commands

Every command with its arguments, from the parsers. `espalier` runs on the host, `espalier-agent` where the engine is.
All take `--help`, and `--debug`, which shows the traceback of an error.
"""


def pages() -> dict[str, str]:
    """Content of every generated file, by its path below docs/."""
    return {
        "schema/recipe.schema.json": schema_text("recipe"),
        "schema/profile.schema.json": schema_text("profile"),
        "reference/recipe.md": _recipe_page(),
        "reference/profile.md": _profile_page(),
        "reference/commands.md": _commands_page(),
    }


def _recipe_page() -> str:
    schema = recipe_schema()
    return _MADE + _RECIPE + "".join(_tables(schema, schema["$defs"], ""))


def _profile_page() -> str:
    schema = profile_schema()
    needed = schema["else"]["properties"]
    sections = {
        name: section | {"required": needed.get(name, {}).get("required", [])}
        for name, section in schema["$defs"].items()
    }
    top = schema | {"required": schema["else"]["required"] + schema["required"]}
    return _MADE + _PROFILE + "".join(_tables(top, sections, ""))


def _tables(schema: dict[str, Any], sections: dict[str, Any], prefix: str) -> Iterator[str]:
    """A table of a section's keys, then one for each section below it."""
    required = schema.get("required", [])
    below = {}
    rows = []
    for name, entry in schema["properties"].items():
        if "$ref" in entry:
            below[name] = sections[entry["$ref"].rpartition("/")[2]]
        else:
            default = "required" if name in required else _default(entry)
            rows.append(f"| `{name}` | {_values(entry)} | {default} | {_cell(entry.get('description', ''))} |\n")
    if rows:
        yield "\n| key | values | default | meaning |\n|---|---|---|---|\n" + "".join(rows)
    for name, section in below.items():
        path = f"{prefix}{name}"
        yield f"\n## [{path}]\n\n{_prose(section['description'])}\n"
        yield from _tables(section, sections, f"{path}.")


def _values(entry: dict[str, Any]) -> str:
    if "anyOf" in entry:
        return " or ".join(_values(item) for item in entry["anyOf"])
    if "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry["enum"])
    if "const" in entry:
        return f"`{entry['const']}`"
    if entry["type"] == "array":
        return f"list of: {_values(entry['items'])}" if "items" in entry else "list"
    if entry["type"] == "object":
        return "table"
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true, false"}
    return words[entry["type"]] + _bounds(entry)


def _bounds(entry: dict[str, Any]) -> str:
    words = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}", "exclusiveMaximum": "below {}"}
    parts = [text.format(f"{entry[key]:,}") for key, text in words.items() if key in entry]
    if "multipleOf" in entry:
        parts.append(f"a multiple of {entry['multipleOf']}")
    if "x-unit" in entry:
        parts.append(entry["x-unit"])
    return f", {' '.join(parts)}" if parts else ""


def _default(entry: dict[str, Any]) -> str:
    if "default" not in entry or entry["default"] == []:
        return ""
    value = entry["default"]
    if isinstance(value, list):
        return ", ".join(f"`{item}`" for item in value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _commands_page() -> str:
    codes = "".join(f"| {code} | {_cell(text)} |\n" for code, text in EXIT_CODES)
    text = "".join(part for parser in (espalier_parser(), agent_parser()) for part in _parser_parts(parser))
    return f"{_MADE}{_COMMANDS}{text}\n## Exit codes\n\n| code | meaning |\n|---|---|\n{codes}"


def _parser_parts(parser: argparse.ArgumentParser) -> Iterator[str]:
    """A section for each command below a parser, in its order."""
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for name, command in action.choices.items():
            yield f"\n## {command.prog}\n\n{_sentence(helps.get(name, ''))}\n"
            groups = [group._group_actions for group in command._mutually_exclusive_groups if group.required]
            either = [item for group in groups for item in group]
            rows = [_row(item, item in either) for item in command._actions if _is_told(item)]
            if rows:
                yield "\n| argument | meaning |\n|---|---|\n" + "".join(rows)
            yield from _parser_parts(command)


def _is_told(action: argparse.Action) -> bool:
    skipped = isinstance(action, (argparse._HelpAction, argparse._SubParsersAction))
    return not skipped and action.dest != "debug" and action.help != argparse.SUPPRESS


def _row(action: argparse.Action, either: bool) -> str:
    """`either`: whether it is one of several of which the command wants one."""
    value = "" if action.nargs == 0 else str(action.metavar or _choices(action) or action.dest.upper())
    name = " ".join([", ".join(action.option_strings), value]).strip().replace("|", "\\|")
    more = " ..." if action.nargs in ("+", "*") else ""
    needed = " (required)" if action.option_strings and action.required else ""
    needed = " (one of these is required)" if either else needed
    text = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
    return f"| `{name}`{more}{needed} | {_cell(text)} |\n"


def _choices(action: argparse.Action) -> str:
    return "{" + ",".join(map(str, action.choices)) + "}" if action.choices else ""


def _cell(text: str) -> str:
    return _prose(text).replace("|", "\\|")


def _prose(text: str) -> str:
    """Text of the source as Markdown: a section in brackets is no link, and a star no emphasis."""
    pieces = text.split("`")
    for index in range(0, len(pieces), 2):
        pieces[index] = pieces[index].replace("[", "\\[").replace("*", "\\*").replace("<", "&lt;")
    return "`".join(pieces)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{_prose(text[1:])}." if text else ""


def stale() -> list[str]:
    """Generated files that are not what the code says now."""
    made = pages()
    return [name for name in made if not (DOCS / name).is_file() or (DOCS / name).read_text() != made[name]]


def main() -> int:
    """Write the files, or with --check say which are stale; 1 if any is."""
    if sys.argv[1:] == ["--check"]:
        old = stale()
        print("\n".join(f"docs/{name} is stale: make reference" for name in old) or "docs: current")
        return 1 if old else 0
    made = pages()
    for name, text in made.items():
        (DOCS / name).parent.mkdir(exist_ok=True)
        (DOCS / name).write_text(text)
    print(f"written: {', '.join(made)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
