"""What the gate says, as JUnit XML: one test case a budget, one a figure beside that of the last release.

Where neither was asked there is one case, skipped: a suite without cases reads as if all was well.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

from devices.errors import shown
from pipeline.release.gate import GateResult
from pipeline.release.text import NOT_ASKED, against, budget_words, regression_words


def gate_junit(result: GateResult) -> bytes:
    """The document, in UTF-8."""
    where = shown(f"{result.name}.{result.device}")
    cases = [(row.name, row.met, f"{row.text}: {budget_words(row)}") for row in result.budgets]
    cases += [
        (f"regression_{row.name}", row.passed, f"{row.text}: {regression_words(row)}") for row in result.regressions
    ]
    failures = str(sum(not passed for _, passed, _ in cases))
    skipped = str(int(not result.asked))
    tests = str(len(cases) + int(not result.asked))
    counts = {"tests": tests, "failures": failures, "errors": "0", "skipped": skipped, "time": "0"}
    suites = ET.Element("testsuites", counts)
    suite = ET.SubElement(suites, "testsuite", {"name": f"espalier gate {where}"} | counts)
    for name, passed, text in cases:
        case = ET.SubElement(
            suite, "testcase", {"classname": f"espalier.gate.{where}", "name": shown(name), "time": "0"}
        )
        if passed:
            ET.SubElement(case, "system-out").text = shown(text)
        else:
            ET.SubElement(case, "failure", {"type": "refused", "message": shown(text)}).text = shown(text)
    if not result.asked:
        case = ET.SubElement(suite, "testcase", {"classname": f"espalier.gate.{where}", "name": "gate", "time": "0"})
        ET.SubElement(case, "skipped", {"message": NOT_ASKED})
    if said := against(result):
        ET.SubElement(suite, "system-out").text = " ".join(said)
    ET.indent(suites)
    document: bytes = ET.tostring(suites, encoding="utf-8", xml_declaration=True)
    return document + b"\n"
