"""Every command of README and docs is run; the few that cannot be here are read by their parsers."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT, Block, blocks_of, inline_commands
from tests.docs.parsers import fault
from tests.docs.rules import NOT_RUN, why_not_run
from tests.docs.workspace import make_smaller, run_script

BLOCKS = tuple(block for page in PAGES for block in blocks_of(page))
_LANGUAGES = {"sh", "python", "toml", "text", "yaml", ""}


def _is_run(block: Block) -> bool:
    return not block.note.startswith("not run: ")


def _script(block: Block) -> str:
    return "\n".join(command for command in block.commands if not why_not_run(command))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_says(page: str, workspace: Path) -> None:
    """Blocks in their order: files are written, commands run, Python is executed."""
    for block in blocks_of(page):
        if block.note.startswith("file "):
            path = workspace / block.note.removeprefix("file ")
            path.write_text(block.text)
            make_smaller(path, workspace)
        elif block.language in ("sh", "python") and _is_run(block):
            script = _script(block) if block.language == "sh" else f"python - <<'END'\n{block.text}\nEND"
            wanted = int(block.note.removeprefix("exit ")) if block.note.startswith("exit ") else 0
            done = run_script(script, workspace)
            assert done.returncode == wanted, f"{block.name}\n{script}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "sh"], ids=lambda block: block.name)
def test_a_command_that_is_not_run_exists(block: Block) -> None:
    for command in block.commands:
        if why_not_run(command) or not _is_run(block):
            assert not fault(shlex.split(command), whole=True), f"{block.name}: {command}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_sentences_exist(page: str) -> None:
    for command in inline_commands(page):
        assert not fault(shlex.split(command), whole=False), f"{page}: {command}"


def test_the_check_finds_what_does_not_exist() -> None:
    for wrong in ("espalier rum x", "espalier run x.toml --devise cpu", "make rum", "make run RECIPEE=x"):
        assert fault(wrong.split(), whole=True)
        assert fault(wrong.split(), whole=False)
    assert fault(["espalier", "run"], whole=True)


def test_every_block_says_what_it_is() -> None:
    for block in BLOCKS:
        assert block.language in _LANGUAGES, block.name
        assert re.match(r"(not run: \S|file \S+$|exit \d+$|$)", block.note), f"{block.name}: {block.note}"


def test_every_rule_is_needed() -> None:
    commands = [command for block in BLOCKS if block.language == "sh" for command in block.commands]
    unused = [pattern for pattern, _ in NOT_RUN if not any(re.match(pattern, command) for command in commands)]
    assert not unused


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text()
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if "://" not in target:
                assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"
