"""`espalier schema`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from devices.errors import EXIT_OK
from devices.files import write_atomic
from pipeline.commands.needs import require_compress


def add_command(commands: Any) -> None:
    """The command, for the command line's parser."""
    command: argparse.ArgumentParser = commands.add_parser(
        "schema", help="print the JSON schema of a file, for editors"
    )
    command.add_argument("kind", choices=("recipe", "profile"), help="of which file: recipe or profile")
    command.add_argument("--out", type=Path, metavar="FILE", help="write it there, NAME.schema.json")
    command.set_defaults(call=schema)


def schema(options: argparse.Namespace) -> int:
    """Print the JSON schema of recipes or profiles, or write it."""
    text = schema_text(options.kind)
    if options.out is None:
        print(text, end="")
        return EXIT_OK
    write_atomic(options.out, text.encode())
    print(f"written: {options.out}. First line of a file beside it: #:schema ./{options.out.name}")
    return EXIT_OK


def schema_text(kind: str) -> str:
    """The schema as a file holds it."""
    if kind == "recipe":
        require_compress()
        from pipeline.schema.recipe import recipe_schema

        content = recipe_schema()
    else:
        from pipeline.schema.profile import profile_schema

        content = profile_schema()
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
