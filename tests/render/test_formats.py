"""Verdicts for machines: SARIF, JUnit, GitHub's workflow commands."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree as Xml

import pytest
from builders.verdicts import coverage, divergence, outcome_of

from hvtrace.pipeline.result import CheckResult
from hvtrace.render.github import as_github
from hvtrace.render.junit import as_junit
from hvtrace.render.sarif import as_sarif
from hvtrace.replay.rules import RULES
from hvtrace.replay.verdict import Severity

NASTY = "bell \x07, escape \x1b[0m, null \x00, lone \ud800, <&>\"' ]]> 100%\r\nsecond: line"


def unjudged() -> CheckResult:
    return outcome_of(HV509=coverage(0, 0, not_traced=3))


def run_of(result: CheckResult) -> dict[str, Any]:
    log = json.loads(as_sarif(result))
    assert set(log) == {"$schema", "version", "runs"}
    assert log["version"] == "2.1.0"
    assert len(log["runs"]) == 1
    run: dict[str, Any] = log["runs"][0]
    return run


def test_sarif_has_what_the_schema_demands() -> None:
    """Required members, allowed values, indices that point somewhere."""
    warning = divergence("HV504", severity=Severity.WARNING, vm=None, vcpu=None)
    run = run_of(outcome_of(divergence(count=3), warning))
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == ["HV504", "HV509"]
    for rule in rules:
        assert {"id", "name", "shortDescription", "fullDescription", "help", "defaultConfiguration"} == set(
            rule
        )
        assert rule["defaultConfiguration"]["level"] in ("none", "note", "warning", "error")
        for text in (rule["shortDescription"], rule["fullDescription"], rule["help"]):
            assert text["text"].strip()
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("warning", "error")
        assert result["message"]["text"]
        assert result["occurrenceCount"] >= 1
        place = result["locations"][0]
        artifact = place["physicalLocation"]["artifactLocation"]
        assert run["artifacts"][artifact["index"]]["location"]["uri"] == artifact["uri"] == "trace.dat"
        assert all(re.fullmatch(r"[^\s]+", key) for key in result["partialFingerprints"])
    assert {"seq": 7, "ts_ns": 1_500_000_001, "count": 3}.items() <= run["results"][0]["properties"].items()
    names = [r["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] for r in run["results"]]
    assert names == ["VM 0/vCPU 1", "VM not known"]
    assert run["invocations"][0]["exitCode"] == 1
    assert run["invocations"][0]["executionSuccessful"] is True


def test_sarif_describes_every_rule() -> None:
    """From the rules' pages."""
    run = run_of(outcome_of(**{rule.code: coverage(1) for rule in RULES}))
    for rule in run["tool"]["driver"]["rules"]:
        assert rule["shortDescription"]["text"].endswith(".")
        assert "## When it cannot tell" in rule["help"]["markdown"]


def test_sarif_tells_known_from_new_where_a_baseline_was_given() -> None:
    """A state for every result or for none; known ones are suppressed."""
    result = outcome_of(divergence(known=True), divergence("HV504"))
    result.compared = True
    known, new = run_of(result)["results"]
    assert (known["baselineState"], new["baselineState"]) == ("unchanged", "new")
    assert known["suppressions"][0]["kind"] in ("inSource", "external")
    assert "suppressions" not in new
    assert "baselineState" not in run_of(outcome_of(divergence()))["results"][0]


def test_sarif_fingerprints_do_not_depend_on_the_recording() -> None:
    """The same fault with other numbers; another fault."""
    one, same = divergence(), divergence(message="timer 3: period 7", seq=9, vcpu=0)
    other = divergence(message="timer 0: count 10")
    prints = [r["partialFingerprints"]["form/v1"] for r in run_of(outcome_of(one, same, other))["results"]]
    assert prints[0] == prints[1] != prints[2]


def test_sarif_says_that_nothing_was_judged_and_writes_names_as_uris() -> None:
    """As an unsuccessful invocation with an error."""
    result = unjudged()
    result.source = "a b%é.dat"
    result.notes = ["a note"]
    run = run_of(result)
    invocation = run["invocations"][0]
    assert (invocation["executionSuccessful"], invocation["exitCode"]) == (False, 2)
    assert [said["level"] for said in invocation["toolExecutionNotifications"]] == ["error", "warning"]
    uri = run["artifacts"][0]["location"]["uri"]
    assert uri.isascii()
    assert unquote(uri) == result.source


def suite_of(result: CheckResult) -> Xml.Element:
    root = Xml.fromstring(as_junit(result))
    assert root.tag == "testsuites"
    suite = root.find("testsuite")
    assert suite is not None
    cases = suite.findall("testcase")
    assert int(suite.attrib["tests"]) == len(cases)
    for word, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        number = sum(case.find(tag) is not None for case in cases)
        assert int(suite.attrib[word]) == int(root.attrib[word]) == number
    return suite


def test_junit_has_a_case_for_each_rule() -> None:
    """Failed, passed with a warning, passed, skipped with the reasons."""
    result = outcome_of(
        divergence(count=3),
        divergence("HV504", severity=Severity.WARNING),
        divergence("HV510", known=True),
        HV504=coverage(5, 1),
        HV505=coverage(2, 0, state_unseen=1),
        HV506=coverage(0, 0, state_unseen=4, not_traced=1),
        HV507=coverage(),
        HV509=coverage(3, 3),
        HV510=coverage(1, 1),
    )
    suite = suite_of(result)
    assert suite.attrib["name"] == "trace.dat"
    cases = {case.attrib["name"][:5]: case for case in suite.findall("testcase")}
    assert list(cases) == list(result.coverage)
    assert cases["HV509"].attrib["classname"] == "hvtrace.HV5"
    failure = cases["HV509"].find("failure")
    assert failure is not None
    assert failure.attrib["message"] == "timer 0: period 10"
    assert "expected  exp_time 10\nobserved  exp_time 12\nand 2 more" in (failure.text or "")
    assert (cases["HV504"].findtext("system-out") or "").startswith("warning: at 1.500000001, VM 0")
    assert (cases["HV510"].findtext("system-out") or "").startswith("known: ")
    assert len(cases["HV505"]) == 0
    skipped = [cases[code].find("skipped") for code in ("HV506", "HV507")]
    assert [None if s is None else s.attrib["message"] for s in skipped] == [
        "not-traced 1, state-unseen 4",
        "nothing in this recording concerns it",
    ]


def test_junit_is_red_where_nothing_was_judged_and_where_strict_finds_unknowns() -> None:
    """An error in a case of its own; a failure in one."""
    assert suite_of(unjudged()).find("testcase/error") is not None
    strict = outcome_of(HV509=coverage(3, 0, state_unseen=2))
    assert suite_of(strict).find("testcase/failure") is None
    strict.strict = True
    assert suite_of(strict).find("testcase/failure") is not None


def test_junit_is_well_formed_whatever_the_strings_hold() -> None:
    """Characters that XML cannot hold are shown by their numbers."""
    result = outcome_of(divergence(message=NASTY, expected=NASTY, history=[NASTY]))
    result.source, result.notes = NASTY, [NASTY]
    text = as_junit(result)
    text.encode()
    failure = suite_of(result).find("testcase/failure")
    assert failure is not None
    assert failure.attrib["message"].startswith("bell \\x07, escape \\x1b[0m, null \\x00, lone \\xd800, <&>")


def test_github_commands_are_escaped() -> None:
    """%, CR and LF everywhere, : and , in properties; other control characters are shown."""
    found = divergence(name="a:b,c%d", message=NASTY)
    first, last = as_github(outcome_of(found)).split("\n")
    assert first.startswith("::error title=HV509 a%3Ab%2Cc%25d::bell \\x07, escape \\x1b[0m, null \\x00")
    assert "100%25%0D%0Asecond: line%0Aexpected exp_time 10%0Aobserved exp_time 12%0Aat 1.5" in first
    assert last.startswith("::notice title=hvtrace replay::trace.dat, profile kvm-6.1: 1 divergence; ")
    assert "98.0 %25" in last


def test_github_shows_errors_first_then_warnings_then_what_is_known() -> None:
    """And a summary, which is an error where nothing was judged."""
    known = divergence(known=True)
    warning = divergence("HV504", severity=Severity.WARNING)
    lines = as_github(outcome_of(known, warning, divergence(seq=9))).split("\n")
    assert [line.split(" ")[0] for line in lines] == ["::error", "::warning", "::notice", "::notice"]
    assert "known, by the baseline" in lines[2]
    same = as_github(outcome_of(divergence(), divergence(vm=4), divergence(vm=None))).split("\n")
    assert len(same) == 2
    assert same[0].endswith("%0Athe same in VM 4, ?")
    assert as_github(unjudged()).split(" ")[0] == "::error"


@pytest.mark.parametrize("render", [as_sarif, as_junit, as_github])
def test_the_same_outcome_gives_the_same_bytes(render: Any) -> None:
    """No dates, no host names."""
    assert render(outcome_of(divergence())) == render(outcome_of(divergence()))
