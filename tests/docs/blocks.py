"""Fenced blocks and inline commands of the pages that people read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = tuple(
    sorted(
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
    )
)
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[a-z]*)\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S)
_NOTE = re.compile(r"<!-- test: ([^\n]*?) -->\n *\Z")
_INLINE = re.compile(r"`((?:espalier|espalier-agent|make) [^`]+)`")
COMMANDS = ("espalier ", "espalier-agent ", "make ", "pip ", "python ", "ssh ", "cd ")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    note: str
    """What stands in a comment `<!-- test: ... -->` right above it: `not run: REASON`, `file NAME`, `exit CODE`."""

    @property
    def name(self) -> str:
        """Where it stands."""
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> tuple[str, ...]:
        """Its commands, lines that a backslash continues put together, without remarks."""
        joined = self.text.replace("\\\n", " ")
        lines = (re.sub(r"\s+#.*|^#.*", "", line).strip() for line in joined.splitlines())
        return tuple(" ".join(line.split()) for line in lines if line)


def blocks_of(page: str) -> tuple[Block, ...]:
    """All fenced blocks of a page, in order. A block without a language whose first word is a command is `sh`."""
    content = (ROOT / page).read_text()
    found = []
    for match in _FENCE.finditer(content):
        text, language = match["text"], match["language"]
        if not language and text.startswith(COMMANDS):
            language = "sh"
        note = _NOTE.search(content[: match.start()])
        line = content.count("\n", 0, match.start()) + 1
        found.append(Block(page, line, language, text, note[1] if note else ""))
    return tuple(found)


def inline_commands(page: str) -> tuple[str, ...]:
    """Commands between backticks in the sentences of a page."""
    prose = _FENCE.sub("", (ROOT / page).read_text())
    return tuple(sorted({" ".join(match[1].split()) for match in _INLINE.finditer(prose)}))
