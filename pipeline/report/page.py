"""The report as one HTML file that needs no network."""

from __future__ import annotations

import json
from typing import Any


def render_page(report: dict[str, Any]) -> str:
    return "<pre>" + json.dumps(report["verdict"], indent=2)
