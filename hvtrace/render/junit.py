"""The verdicts of a replay as JUnit XML, as continuous integration reads it: a suite a recording, a case a rule."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING
from xml.etree import ElementTree as Xml

from hvtrace.render.findings import outcome, reasons, where
from hvtrace.render.pages import rule_of, summary
from hvtrace.render.terminal import safe
from hvtrace.replay.verdict import Severity

if TYPE_CHECKING:
    from hvtrace.pipeline.result import CheckResult
    from hvtrace.replay.verdict import Divergence

__all__ = ["as_junit"]


def as_junit(result: CheckResult) -> str:
    """The result as one XML document.

    A rule fails where it found an error that is not known; it is skipped where it judged nothing. Where nothing at all
    could be judged, one more case is an error.
    """
    found: defaultdict[str, list[Divergence]] = defaultdict(list)
    for divergence in result.divergences:
        found[divergence.rule].append(divergence)
    suite = Xml.Element("testsuite", name=_clean(result.source))
    properties = Xml.SubElement(suite, "properties")
    for name, value in (("profile", result.profile), ("verdict", result.verdict)):
        Xml.SubElement(properties, "property", name=name, value=_clean(value))
    for code in result.coverage:
        _case(suite, result, code, found[code])
    if result.verdict == "unjudged":
        case = Xml.SubElement(suite, "testcase", classname="hvtrace", name="something could be judged")
        Xml.SubElement(case, "error", type="unjudged", message=_clean(outcome(result)))
    elif result.strict and result.unknown:
        case = Xml.SubElement(suite, "testcase", classname="hvtrace", name="every verdict could be given")
        Xml.SubElement(
            case, "failure", type="unknown", message=f"{result.unknown} verdicts could not be given"
        )
    Xml.SubElement(suite, "system-out").text = _clean("\n".join([*result.notes, outcome(result)]))
    counts = {
        "tests": str(len(suite.findall("testcase"))),
        "failures": str(len(suite.findall("testcase/failure"))),
        "errors": str(len(suite.findall("testcase/error"))),
        "skipped": str(len(suite.findall("testcase/skipped"))),
    }
    suite.attrib |= counts
    suites = Xml.Element("testsuites", {"name": "hvtrace replay", **counts})
    suites.append(suite)
    Xml.indent(suites, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(suites, encoding="unicode")


def _case(suite: Xml.Element, result: CheckResult, code: str, found: list[Divergence]) -> None:
    rule, counted = rule_of(code), result.coverage[code]
    case = Xml.SubElement(suite, "testcase", classname=f"hvtrace.{code[:3]}", name=f"{code} {rule.name}")
    failing = [one for one in found if one.severity is Severity.ERROR and not one.known]
    if failing:
        failure = Xml.SubElement(case, "failure", type="divergence", message=_clean(failing[0].message))
        failure.text = _clean("\n\n".join(_words(one) for one in failing))
    elif not (counted.holds or counted.diverges):
        why = reasons(counted) or "nothing in this recording concerns it"
        Xml.SubElement(case, "skipped", message=_clean(why))
    rest = [one for one in found if one not in failing]
    if rest:
        said = [f"{'known' if one.known else one.severity.value}: {_words(one)}" for one in rest]
        Xml.SubElement(case, "system-out").text = _clean("\n\n".join(said))


def _words(found: Divergence) -> str:
    lines = [
        f"at {where(found)}",
        found.message,
        f"expected  {found.expected}",
        f"observed  {found.observed}",
    ]
    if found.count > 1:
        lines.append(f"and {found.count - 1} more, the last at event {found.last_seq}")
    lines += [f"  {line}" for line in found.history]
    return "\n".join([*lines, summary(rule_of(found.rule))])


def _clean(text: str) -> str:
    """Characters that XML cannot hold, or that a terminal would obey, made visible."""
    return "\n".join(safe(line) for line in text.split("\n"))
