"""The verdicts of a replay, as text for people and as the JSON object scripts read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hvtrace.abi.msr import by_name

if TYPE_CHECKING:
    from hvtrace.pipeline.check import CheckResult
    from hvtrace.replay.verdict import Divergence

__all__ = ["SCHEMA_VERSION", "as_json", "as_text"]

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
    }


def as_text(result: CheckResult, *, coverage: bool = True) -> str:
    """The result in words: divergences, coverage, and how much of the tape was judged."""
    lines = [f"{result.source}: profile {result.profile}", ""]
    for found in result.divergences:
        lines += [*_paragraph(found), ""]
    if coverage:
        lines += [*_coverage(result), ""]
    lines += result.notes
    lines.append(_last(result))
    return "\n".join(lines)


def _paragraph(found: Divergence) -> list[str]:
    where = f"VM {'?' if found.vm is None else found.vm}, vCPU {'-' if found.vcpu is None else found.vcpu}"
    stamp = f"{found.ts_ns // 1_000_000_000}.{found.ts_ns % 1_000_000_000:09d}"
    lines = [
        f"{found.rule} {found.name} ({found.severity.value}) at {stamp}, {where}, event {found.seq}",
        f"  {found.message}",
        f"  expected  {found.expected}",
        f"  observed  {found.observed}",
    ]
    if found.count > 1:
        lines.append(f"  and {found.count - 1} more, the last at event {found.last_seq}")
    if found.also:
        others = ", ".join(f"{code} {number} times" for code, number in sorted(found.also.items()))
        lines.append(f"  other faces of it, as it seems: {others}")
    if found.state:
        lines.append("  state (registers at their reset value are left out)")
        lines += [
            f"    {name:<36} {value}" for name, value in found.state.items() if not _at_reset(name, value)
        ]
    if found.history:
        lines.append("  last events of this vCPU")
        lines += [f"    {line}" for line in found.history]
    lines.append(f"  hvtrace rules {found.rule} explains the rule")
    return lines


def _at_reset(name: str, value: str) -> bool:
    """Whether a line of the state says nothing: a register at its reset value, a timer never set."""
    register = by_name(name)
    if register is not None:
        return value == f"{register.reset or 0:#x}"
    return value.startswith("config 0x0, count 0,")


def _coverage(result: CheckResult) -> list[str]:
    from hvtrace.replay.rules import rule_by_code

    lines = [f"{'rule':<36}{'holds':>8}{'diverges':>10}  unknown"]
    for rule, counted in result.coverage.items():
        if not (counted.holds or counted.diverges or counted.unknown):
            continue
        reasons = ", ".join(f"{reason.value} {number}" for reason, number in sorted(counted.unknown.items()))
        known = rule_by_code(rule)
        title = f"{rule} {known.name if known else ''}"
        lines.append(f"{title:<36}{counted.holds:>8}{counted.diverges:>10}  {reasons or '-'}")
    lines += ["", f"{'tracepoint':<32}{'on the tape':>12}{'judged':>10}"]
    for name, total in sorted(result.totals.items()):
        if result.judged[name] or name.startswith(("kvm_hv_", "kvm_msr")):
            lines.append(f"{name:<32}{total:>12}{result.judged[name]:>10}")
    return lines


def _last(result: CheckResult) -> str:
    concerned = {
        name: total for name, total in result.totals.items() if name.startswith(("kvm_hv_", "kvm_msr"))
    }
    judged = sum(result.judged[name] for name in concerned)
    total = sum(concerned.values())
    share = f"{judged} of {total} events of the enlightenments judged"
    if total:
        share += f" ({100 * judged / total:.1f} %)"
    share += f", {result.replayed} of {result.total} events replayed"
    if result.verdict == "unjudged":
        return f"NOTHING WAS JUDGED: {share}. This says nothing about the hypervisor."
    number = len(result.divergences)
    found = "no divergence" if not number else f"{number} divergence{'' if number == 1 else 's'}"
    return f"{found}; {share}."
