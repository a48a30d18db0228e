"""The verdicts of a replay as SARIF 2.1.0 (OASIS), one run, for code scanning services and editors.

A recording is a binary file, so that results have no line: the event is told by `properties.seq` and `ts_ns`, the vCPU
by a logical location. Known divergences are results with an accepted suppression.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from hvtrace import __version__
from hvtrace.render.findings import outcome, reasons
from hvtrace.render.pages import FINDS, rule_of, section, summary
from hvtrace.replay.rules import page_of

if TYPE_CHECKING:
    from hvtrace.pipeline.result import CheckResult
    from hvtrace.replay.verdict import Divergence

__all__ = ["as_sarif"]

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def as_sarif(result: CheckResult) -> str:
    """The result as one SARIF log."""
    codes = list(result.coverage)
    run = {
        "tool": {
            "driver": {
                "name": "hvtrace",
                "version": __version__,
                "semanticVersion": __version__,
                "rules": [_rule(code) for code in codes],
            }
        },
        "invocations": [_invocation(result)],
        "artifacts": [{"location": {"uri": _uri(result.source)}, "roles": ["analysisTarget"]}],
        "results": [_result(result, found, codes.index(found.rule)) for found in result.divergences],
        "properties": {
            "profile": result.profile,
            "verdict": result.verdict,
            "coverage": {
                code: {"holds": c.holds, "diverges": c.diverges, "unknown": reasons(c)}
                for code, c in result.coverage.items()
            },
        },
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1, ensure_ascii=False)


def _rule(code: str) -> dict[str, Any]:
    rule = rule_of(code)
    page = page_of(rule).strip()
    return {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": summary(rule)},
        "fullDescription": {"text": section(rule, FINDS) or summary(rule)},
        "help": {"text": page, "markdown": page},
        "defaultConfiguration": {"level": rule.severity.value},
    }


def _invocation(result: CheckResult) -> dict[str, Any]:
    level = "error" if result.verdict == "unjudged" else "note"
    said = [(level, outcome(result)), *(("warning", note) for note in result.notes)]
    return {
        "executionSuccessful": result.verdict != "unjudged",
        "exitCode": result.exit_code,
        "toolExecutionNotifications": [{"level": level, "message": {"text": text}} for level, text in said],
    }


def _result(result: CheckResult, found: Divergence, index: int) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "ruleId": found.rule,
        "ruleIndex": index,
        "level": found.severity.value,
        "message": {"text": f"{found.message}: expected {found.expected}, observed {found.observed}"},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": _uri(result.source), "index": 0}},
                "logicalLocations": _places(found),
            }
        ],
        "occurrenceCount": found.count,
        "partialFingerprints": {"form/v1": _fingerprint(found)},
        "properties": {
            "seq": found.seq,
            "ts_ns": found.ts_ns,
            "vm": found.vm,
            "vcpu": found.vcpu,
            "tracepoint": found.tracepoint,
            "expected": found.expected,
            "observed": found.observed,
            "count": found.count,
            "last_seq": found.last_seq,
            "also": dict(sorted(found.also.items())),
            "state": found.state,
            "history": found.history,
        },
    }
    if result.compared:
        answer["baselineState"] = "unchanged" if found.known else "new"
    if found.known:
        answer["suppressions"] = [
            {"kind": "external", "status": "accepted", "justification": "known, by the baseline"}
        ]
    return answer


def _places(found: Divergence) -> list[dict[str, str]]:
    """The VM and the vCPU, as a hierarchy written in one name."""
    vm = "VM not known" if found.vm is None else f"VM {found.vm}"
    if found.vcpu is None:
        return [{"name": vm, "fullyQualifiedName": vm, "kind": "resource"}]
    name = f"vCPU {found.vcpu}"
    return [{"name": name, "fullyQualifiedName": f"{vm}/{name}", "kind": "resource"}]


def _uri(source: str) -> str:
    return quote(source)


def _fingerprint(found: Divergence) -> str:
    """The same for the same fault in another recording."""
    form = min(found.forms) if found.forms else (found.rule, found.tracepoint, "")
    return hashlib.sha256("\0".join(form).encode()).hexdigest()[:32]
