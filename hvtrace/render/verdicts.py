"""The verdicts of a replay as the JSON object scripts read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvtrace.pipeline.result import CheckResult
    from hvtrace.replay.verdict import Divergence

__all__ = ["SCHEMA_VERSION", "as_json"]

SCHEMA_VERSION = 1


def as_json(result: CheckResult) -> str:
    """The result as one JSON object. Integers in ns, stable keys; the same tape gives the same bytes."""
    return json.dumps(_object(result), indent=1, ensure_ascii=False)


def _object(result: CheckResult) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "source": result.source,
        "profile": result.profile,
        "verdict": result.verdict,
        "divergences": [_divergence(found) for found in result.divergences],
        "coverage": [
            {
                "rule": rule,
                "holds": counted.holds,
                "diverges": counted.diverges,
                "unknown": {reason.value: number for reason, number in sorted(counted.unknown.items())},
            }
            for rule, counted in result.coverage.items()
        ],
        "events": {
            "total": result.total,
            "replayed": result.replayed,
            "by_tracepoint": {
                name: {"total": total, "judged": result.judged[name]}
                for name, total in sorted(result.totals.items())
            },
        },
    }


def _divergence(found: Divergence) -> dict[str, Any]:
    return {
        "rule": found.rule,
        "name": found.name,
        "severity": found.severity.value,
        "known": found.known,
        "seq": found.seq,
        "ts_ns": found.ts_ns,
        "vm": found.vm,
        "vcpu": found.vcpu,
        "tracepoint": found.tracepoint,
        "expected": found.expected,
        "observed": found.observed,
        "message": found.message,
        "count": found.count,
        "also": dict(sorted(found.also.items())),
        "last_seq": found.last_seq,
        "last_ts_ns": found.last_ts_ns,
        "state": found.state,
        "history": found.history,
        "forms": [{**form._asdict(), "count": number} for form, number in sorted(found.forms.items())],
    }
