"""The verdict as JUnit XML: a test case per limit; a failed limit is a failure, an undecided one an error."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from edgekd.report.facts import Facts, LimitFact
from edgekd.report.judged import bound_text
from edgekd.report.markdown import number_cell

_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold (section 2.2)."""


def render_junit(facts: Facts) -> str:
    """A suite named after the recipe. Without limits it holds one error: nothing was judged."""
    cases = [_case(facts, limit) for limit in facts.limits] or [_nothing_judged(facts)]
    suite = ElementTree.Element(
        "testsuite",
        name=_legal(f"edgekd.{facts.recipe}"),
        tests=str(len(cases)),
        failures=str(sum(case.find("failure") is not None for case in cases)),
        errors=str(sum(case.find("error") is not None for case in cases)),
        skipped="0",
    )
    suite.extend(cases)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _case(facts: Facts, limit: LimitFact) -> ElementTree.Element:
    case = _element(facts, limit.title)
    measured = number_cell(limit.number) if limit.number else "not measured"
    text = f"{limit.source}\nbound: {bound_text(limit)}\nmeasured: {measured}\n{limit.reason}"
    if limit.outcome == "fail":
        _problem(case, "failure", limit.reason, text)
    if limit.outcome == "inconclusive":
        _problem(case, "error", limit.reason, f"{text}\nto decide: {limit.decide or 'unknown'}")
    if limit.outcome == "pass":
        ElementTree.SubElement(case, "system-out").text = _legal(text)
    return case


def _nothing_judged(facts: Facts) -> ElementTree.Element:
    case = _element(facts, "verdict")
    _problem(case, "error", "nothing was judged", "the gate has no limits, or the run was not judged")
    return case


def _element(facts: Facts, name: str) -> ElementTree.Element:
    return ElementTree.Element("testcase", classname=_legal(f"edgekd.{facts.recipe}.gate"), name=_legal(name))


def _problem(case: ElementTree.Element, kind: str, message: str, text: str) -> None:
    ElementTree.SubElement(case, kind, message=_legal(message), type="edgekd.gate").text = _legal(text)


def _legal(text: str) -> str:
    return _ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", text)
