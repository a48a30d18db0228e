"""What should be changed, by what a recording shows. The answer of `hvtrace advise`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from hvtrace.analysis.advice.facts import Facts
from hvtrace.analysis.advice.finding import Advice, Finding, Unjudged
from hvtrace.analysis.advice.table import ADVICES
from hvtrace.analysis.scope import Scope
from hvtrace.errors import InputError
from hvtrace.schema.registry import BY_NAME
from hvtrace.schema.tracepoint import Context
from hvtrace.store import Store

__all__ = ["Answer", "Fine", "Question", "advise", "chosen"]

#: Advices looked at side by side.
WORKERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Question(Scope):
    """The part of a recording, and `codes`: codes of advices, names, or beginnings of codes; none: all of them."""

    codes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fine:
    """An advice that was looked for in these VMs and has no finding there."""

    code: str
    name: str
    vms: tuple[int, ...]


@dataclass(slots=True)
class Answer:
    """The findings, the most severe first, then by the time they cost; what was looked for in vain; what could not be
    judged; and `notes`: what of the recording was not looked at.

    `length_ns` is how long the part asked for is; `vms` are those looked at.
    """

    question: Question
    vms: tuple[int, ...]
    length_ns: int
    findings: list[Finding]
    fine: list[Fine]
    unjudged: list[Unjudged]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return question and answer as the JSON form has them: findings under `rows`, severities in words."""
        return {
            **asdict(self.question),
            "vms": list(self.vms),
            "length_ns": self.length_ns,
            "rows": [asdict(found) | {"severity": found.severity.name.lower()} for found in self.findings],
            "fine": [asdict(fine) | {"vms": list(fine.vms)} for fine in self.fine],
            "unjudged": [asdict(open_) for open_ in self.unjudged],
            "notes": self.notes,
        }


def chosen(codes: Sequence[str], advices: Sequence[Advice] = ADVICES) -> tuple[Advice, ...]:
    """Return the advices that `codes` mean: a code, a name, or the beginning of codes. Raises ValueError."""
    if not codes:
        return tuple(advices)
    found: set[str] = set()
    for word in codes:
        code = word.upper()
        own = {row.code for row in advices if row.code.startswith(code) or row.name == word.lower()}
        if not word or not own:
            raise ValueError(word)
        found |= own
    return tuple(row for row in advices if row.code in found)


def advise(store: Store, question: Question = Question(), advices: Sequence[Advice] = ADVICES) -> Answer:
    """Answer the question from a store. Raises InputError where it has no VM, ValueError for an unknown code."""
    rows = chosen(question.codes, advices)
    if not store.manifest.vms:
        raise InputError(store.path, "shows no vCPU thread: there is nothing to advise on")
    facts = Facts(store, question)
    answer = Answer(question, tuple(facts.vms), facts.length_ns, [], [], [], _notes(facts))
    with ThreadPoolExecutor(WORKERS) as pool:
        # Each takes what it needs of the facts, some of it small; the answer is put together in the advices' order.
        for findings, unjudged, fine in pool.map(lambda advice: _looked(facts, advice), rows):
            answer.findings += findings
            answer.unjudged += unjudged
            answer.fine += fine
    answer.findings.sort(key=lambda found: (-found.severity, -_cost(found), found.code, found.vm or 0))
    return answer


def _looked(facts: Facts, advice: Advice) -> tuple[list[Finding], list[Unjudged], list[Fine]]:
    """What one advice finds in all VMs, what it could not judge, and where it found nothing."""
    missing = tuple(name for name in advice.needs if not facts.recorded(name))
    if missing:
        reason = f"no {' and no '.join(missing)} in the recording"
        return [], [Unjudged(advice.code, advice.name, None, reason, missing)], []
    findings: list[Finding] = []
    unjudged: list[Unjudged] = []
    fine = []
    for vm in facts.vms:
        found, open_ = _sorted_out(advice.find(facts, vm, advice))
        findings += found
        unjudged += open_
        fine += [] if found or open_ else [vm]
    return findings, unjudged, [Fine(advice.code, advice.name, tuple(fine))] if fine else []


def _sorted_out(found: Iterable[Finding | Unjudged]) -> tuple[list[Finding], list[Unjudged]]:
    listed = list(found)
    findings = [one for one in listed if isinstance(one, Finding)]
    return findings, [one for one in listed if isinstance(one, Unjudged)]


def _cost(found: Finding) -> int:
    """Time that the change would save, or else what the events took."""
    if found.effect is not None and found.effect.saved_ns is not None:
        return found.effect.saved_ns
    return max((seen.time_ns or 0 for seen in found.evidence), default=0)


def _notes(facts: Facts) -> list[str]:
    """What the advices could not look at."""
    notes = []
    if not facts.in_ns:
        notes.append("the clock counts ticks of unknown length: nothing is said about rates and times")
    if lost := facts.store.manifest.lost:
        places = f"{len(lost)} place{'' if len(lost) == 1 else 's'}"
        notes.append(f"events were lost in {places}: counts are at least what is said")
    counted = [
        rows.filter(pl.col("vm").is_null()).select(pl.len())
        for name, rows in facts.tables.items()
        # The scheduler's events and marks belong to none.
        if (declared := BY_NAME.get(name)) is None or declared.context is not Context.NONE
    ]
    strays = int(pl.concat(counted).sum().collect().item()) if counted and facts.scope.vm is None else 0
    if strays:
        told = "event of no known VM was" if strays == 1 else "events of no known VM were"
        notes.append(f"{strays:,} {told} not looked at")
    return notes
