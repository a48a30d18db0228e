"""The outcome of a check, and its tables in the store."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hvtrace.replay.judge import Coverage
from hvtrace.replay.verdict import Divergence, Severity
from hvtrace.schema.tables import table_schema

__all__ = ["INTERFACE", "CheckResult", "concerns_interface", "merged", "write_verdicts"]

#: Tracepoints of KVM's side of the enlightenments that are not named kvm_hv_*.
INTERFACE = frozenset({"kvm_msr", "kvm_hypercall", "kvm_pv_eoi", "kvm_halt_poll_ns", "kvm_vcpu_wakeup"})


def concerns_interface(tracepoint: str) -> bool:
    """Whether a tracepoint shows the guest's interface at work, so that each of its events should be judged."""
    return tracepoint.startswith("kvm_hv_") or tracepoint in INTERFACE


@dataclass(slots=True)
class CheckResult:
    """The outcome. `totals` and `judged` count events of the tape by tracepoint; `total` all events of the store.

    `notes` are remarks for people; `compared` is true where a baseline was given, `strict` where verdicts that could
    not be given count.
    """

    source: str
    profile: str
    total: int
    divergences: list[Divergence] = field(default_factory=list)
    coverage: dict[str, Coverage] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    judged: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    compared: bool = False
    strict: bool = False

    @property
    def replayed(self) -> int:
        """Events of the store that the model consumed."""
        return sum(self.totals.values())

    @property
    def verdict(self) -> str:
        """One of "diverged" (an error that is not known), "unjudged" (no rule could judge any event), "clean"."""
        if any(found.severity is Severity.ERROR and not found.known for found in self.divergences):
            return "diverged"
        if not any(counted.holds or counted.diverges for counted in self.coverage.values()):
            return "unjudged"
        return "clean"

    @property
    def exit_code(self) -> int:
        """Of a check: 0 clean, 1 findings, 2 nothing could be judged."""
        if self.verdict == "unjudged":
            return 2
        return int(self.verdict == "diverged" or (self.strict and self.unknown > 0))

    @property
    def unknown(self) -> int:
        """Verdicts that could not be given."""
        return sum(sum(counted.unknown.values()) for counted in self.coverage.values())

    @property
    def interface(self) -> tuple[int, int]:
        """Events of the interface's tracepoints: judged, and on the tape."""
        names = [name for name in self.totals if concerns_interface(name)]
        return sum(self.judged[name] for name in names), sum(self.totals[name] for name in names)

    def poverty(self) -> list[str]:
        """A remark where most of the interface's events could not be judged, with the commonest reasons."""
        judged, total = self.interface
        if not judged or 2 * judged >= total:
            return []
        reasons: Counter[str] = Counter()
        for counted in self.coverage.values():
            reasons.update({reason.value: number for reason, number in counted.unknown.items()})
        common = ", ".join(f"{reason} {number:,}" for reason, number in reasons.most_common(3))
        why = f"; verdicts that could not be given: {common}" if common else ""
        return [f"only {100 * judged / total:.1f} % of the interface's events could be judged{why}"]


def merged(pieces: list[CheckResult], common: dict[str, int]) -> CheckResult:
    """One result of several, each of other VMs; `common` are the events that each of them counted."""
    first = pieces[0]
    result = CheckResult(first.source, first.profile, first.total, notes=first.notes)
    result.divergences = sorted(
        (found for piece in pieces for found in piece.divergences),
        key=lambda found: (found.seq, found.rule),
    )
    for rule in first.coverage:
        total = result.coverage[rule] = Coverage()
        for piece in pieces:
            counted = piece.coverage[rule]
            total.holds += counted.holds
            total.diverges += counted.diverges
            for reason, number in counted.unknown.items():
                total.unknown[reason] += number
    names = dict.fromkeys(name for piece in pieces for name in piece.totals)
    again = len(pieces) - 1
    for name in names:
        result.totals[name] = sum(p.totals.get(name, 0) for p in pieces) - again * common.get(name, 0)
        result.judged[name] = sum(p.judged.get(name, 0) for p in pieces)
    return result


def write_verdicts(directory: Path, result: CheckResult) -> None:
    """Write divergences.parquet and coverage.parquet, each beside its final name and renamed when whole."""
    rows = [
        {
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
            "last_seq": found.last_seq,
            "known": found.known,
            "history": found.history_seqs,
        }
        for found in result.divergences
    ]
    counts: list[dict[str, object]] = []
    for rule, counted in result.coverage.items():
        for verdict, number in (("holds", counted.holds), ("diverges", counted.diverges)):
            if number:
                counts.append({"rule": rule, "verdict": verdict, "reason": None, "count": number})
        for reason, number in sorted(counted.unknown.items()):
            counts.append({"rule": rule, "verdict": "unknown", "reason": reason.value, "count": number})
    for name, content in (("divergences", rows), ("coverage", counts)):
        target = directory / f"{name}.parquet"
        beside = directory / f".{name}.parquet.{os.getpid()}"
        try:
            pq.write_table(pa.Table.from_pylist(content, table_schema(name)), beside, compression="zstd")
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)
