"""The agent as it is called in a test: what it answers in JSON, and what it says when it fails."""

from __future__ import annotations

import json
from typing import Any

import pytest

from devices.agent import main

Capture = pytest.CaptureFixture[str]


def in_json(capsys: Capture, *arguments: object) -> Any:
    assert main([*map(str, arguments), "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


def fails(capsys: Capture, *arguments: object) -> tuple[int, str]:
    """Exit code and the one line on stderr."""
    code = main([*map(str, arguments)])
    captured = capsys.readouterr()
    assert captured.out == ""
    # Another run of these tests beside this one has the machine for a moment.
    lines = [line for line in captured.err.splitlines() if "another measurement" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("espalier-agent: ")
    assert "Traceback" not in captured.err
    return code, captured.err
