"""The list of profiles, and that the documentation shows what ships."""

from __future__ import annotations

from pathlib import Path

from devices.profile import profile_names
from devices.profile_table import list_lines, markdown_lines

DOCS = Path(__file__).parents[2] / "docs" / "devices.md"


def test_the_documentation_has_the_table_of_what_ships() -> None:
    """After a change: `espalier devices list --markdown` prints what belongs there."""
    table = "\n".join(markdown_lines())
    assert table in DOCS.read_text(encoding="utf-8")


def test_every_profile_is_listed_once_in_its_group() -> None:
    lines = list_lines({"rtx-4090"})
    names = [line.split()[0] for line in lines if line.startswith("  ")]
    assert sorted(names) == list(profile_names())
    assert [line for line in lines if line and not line.startswith(" ")] == ["CPUs", "Jetson boards", "GPUs"]
    assert [line.split()[0] for line in lines if line.endswith("(this host)")] == ["rtx-4090"]
    assert max(map(len, lines)) <= 140


def test_figures_say_how_they_are_known() -> None:
    hardware = "\n".join(markdown_lines()).split("\n\n")[0]
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells] for cells in (row.split("|") for row in hardware.split("\n"))
    }
    heads, orin = rows["profile"], dict(zip(rows["profile"], rows["jetson-orin-nano-4gb-super"], strict=True))
    assert orin["GPU MHz"] == "1020"
    assert orin["INT8 TOPS"] == "=16.7"
    assert orin["GB/s"] == "51?"
    assert orin["L2 MB"] == ""
    assert len(heads) == 14
    assert "cpu" not in rows
