"""The judge: asks the rules, counts their verdicts, folds repeated divergences.

For each event of the tape one mark says whether some rule could have found it wrong; an obligation keeps the
mark
of the event that opened it, so that no event is counted twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from hvtrace.replay.obligation import Due
from hvtrace.replay.rule import Moment, Rule
from hvtrace.replay.state import state_for
from hvtrace.replay.tape import text_of
from hvtrace.replay.verdict import (
    HOLDS,
    Divergence,
    Diverges,
    Form,
    Holds,
    Reason,
    Severity,
    Unknown,
    Verdict,
    form_of,
)

if TYPE_CHECKING:
    from hvtrace.replay.model.access import Access
    from hvtrace.replay.model.machine import Vcpu
    from hvtrace.replay.obligation import Obligation
    from hvtrace.replay.profile import Profile
    from hvtrace.replay.tape import Event

__all__ = ["Coverage", "Judge"]


#: Registers whose rules are remembered; there are fewer than this in the synthetic ranges.
MAX_REGISTERS = 4096


class Coverage:
    """Verdicts of one rule, counted."""

    __slots__ = ("diverges", "holds", "unknown")

    def __init__(self) -> None:
        self.holds = 0
        self.diverges = 0
        self.unknown: defaultdict[Reason, int] = defaultdict(int)


class _Asked(NamedTuple):
    """A rule as it is asked: what it takes for a verdict that holds is at hand."""

    check: Callable[[Any], Verdict | None]
    coverage: Coverage
    blind: bool
    rule: Rule


class Judge:
    """Asks the rules of `rules` and keeps what they say.

    `traced` are the tracepoints that were recorded; `profile` knows the kernel's bugs. `lossy` is set while events are
    known to be lost: every verdict is then unknown.
    """

    def __init__(
        self,
        rules: Iterable[Rule],
        traced: frozenset[str],
        profile: Profile | None = None,
        accepted: frozenset[Form] = frozenset(),
    ) -> None:
        self.profile = profile
        #: Only some of the rules are asked.
        self.selected = False
        #: Faults that are known and accepted: folded among themselves, so that none hides a new one.
        self.accepted = accepted
        #: Known bugs that this kernel was seen not to have, with the number of the VM that showed it.
        self.fixed: set[tuple[str, int]] = set()
        self.rules: dict[Moment, tuple[Rule, ...]] = {}
        self.coverage: dict[str, Coverage] = {}
        for rule in rules:
            for moment in rule.moments:
                self.rules[moment] = (*self.rules.get(moment, ()), rule)
            self.coverage[rule.code] = Coverage()
        #: Rules that need a tracepoint which was not recorded.
        self.blind = frozenset(code for code, needs in _needs(self.rules).items() if not needs <= traced)
        self.judged: defaultdict[str, int] = defaultdict(int)
        self._by_moment = {moment: self._asked(self.rules.get(moment, ())) for moment in Moment}
        self._by_due = {
            due: self._asked(rule for rule in self.rules.get(Moment.DUE, ()) if rule.due is due)
            for due in Due
        }
        #: By theme, VM, whether it is accepted, and severity: a warning hides no error.
        self.divergences: dict[tuple[str, int, bool, Severity], Divergence] = {}
        self.lossy = False
        self._by_access: dict[tuple[int, bool], tuple[_Asked, ...]] = {}

    def ask(self, moment: Moment, subject: Any, event: Event, vcpu: Vcpu, cell: list[bool]) -> bool:
        """Ask every rule of a moment about `subject`; True where one diverges.

        `event` is what the verdict is about, `cell` its mark.
        """
        return self._ask(self._by_moment[moment], subject, event, vcpu, cell)

    def _asked(self, rules: Iterable[Rule]) -> tuple[_Asked, ...]:
        return tuple(
            _Asked(rule.check, self.coverage[rule.code], rule.code in self.blind, rule) for rule in rules
        )

    def _ask(
        self, asked: tuple[_Asked, ...], subject: Any, event: Event, vcpu: Vcpu, cell: list[bool]
    ) -> bool:
        diverged = False
        for check, coverage, blind, rule in asked:
            verdict = check(subject)
            if verdict is None:
                continue
            if blind:
                coverage.unknown[Reason.NOT_TRACED] += 1
            elif self.lossy:
                reason = verdict.reason if isinstance(verdict, Unknown) else Reason.EVENTS_LOST
                coverage.unknown[reason] += 1
            elif verdict is HOLDS:
                # By far the most frequent.
                coverage.holds += 1
                if not cell[0]:
                    cell[0] = True
                    self.judged[event[2]] += 1
            elif isinstance(verdict, Unknown):
                coverage.unknown[verdict.reason] += 1
            else:
                self._count(event, cell)
                if isinstance(verdict, Holds):
                    coverage.holds += 1
                    self.fixed.add((verdict.bug, vcpu.vm.number))
                else:
                    coverage.diverges += 1
                    diverged = True
                    self._report(rule, verdict, event, vcpu)
        return diverged

    def ask_access(self, access: Access) -> bool:
        """Ask the rules of Moment.MSR that concern this register and this direction; True where one diverges."""
        key = (access.index, access.write)
        asked = self._by_access.get(key)
        if asked is None:
            rules = self.rules.get(Moment.MSR, ())
            asked = self._asked(
                r for r in rules if r.concerns is None or r.concerns(access.row, access.write)
            )
            if len(self._by_access) < MAX_REGISTERS:
                self._by_access[key] = asked
        return self._ask(asked, access, access.event, access.vcpu, access.cell)

    def ask_due(self, owed: Obligation) -> bool:
        """Ask the rules about an obligation that is closed."""
        return self._ask(self._by_due[owed.due], owed, owed.event, owed.vcpu, owed.cell)

    def mark(self, event: Event, cell: list[bool], by: str = "") -> None:
        """Count an event as judged that was held against the model beside the one a rule was asked about.

        `by` is the code of the rule that would have diverged: it does not count where that rule cannot be judged, nor
        while events are lost. Where only some of the rules are asked, nobody knows which of them that was.
        """
        if not self.selected and not self.lossy and by not in self.blind:
            self._count(event, cell)

    def _count(self, event: Event, cell: list[bool]) -> None:
        """Count an event as judged, once."""
        if not cell[0]:
            cell[0] = True
            self.judged[event[2]] += 1

    def _report(self, rule: Rule, verdict: Diverges, event: Event, vcpu: Vcpu) -> None:
        bug, severity, message = verdict.bug, rule.severity, verdict.message
        theme = verdict.theme or rule.theme or rule.code
        if bug and self.profile is not None:
            row, may_be = self.profile.bug(bug)
            if may_be and (bug, vcpu.vm.number) not in self.fixed:
                severity, theme = Severity.WARNING, bug
                message = f"{message}; a known bug of this kernel, fixed by {row.commit}"
            else:
                message = f"{message}; a known bug, fixed by {row.commit}, which this kernel should have"
        form = form_of(rule.code, event[2], verdict.message)
        key = theme, vcpu.vm.number, form in self.accepted, severity
        error = self.divergences.get((*key[:3], Severity.ERROR))
        if severity is Severity.WARNING and error is not None:
            # A doubt about what is wrong for certain.
            error.add_form(form)
            error.also[rule.code] = error.also.get(rule.code, 0) + 1
            return
        known = self.divergences.get(key)
        if known is not None and known.seq <= event[0]:
            known.add_form(form)
            if known.rule == rule.code:
                known.count += 1
            else:
                known.also[rule.code] = known.also.get(rule.code, 0) + 1
            if event[0] > known.last_seq:
                known.last_seq, known.last_ts_ns = event[0], event[1]
            return
        past = _history(event, vcpu)
        found = Divergence(
            rule.code,
            rule.name,
            severity,
            event[0],
            event[1],
            vcpu.vm.number,
            vcpu.number if vcpu.number >= 0 else None,
            event[2],
            verdict.expected,
            verdict.observed,
            message,
            state=state_for(rule.code, vcpu),
            history=[text_of(one) for one in past],
            history_seqs=[one[0] for one in past],
            last_seq=event[0],
            last_ts_ns=event[1],
            known=key[2],
            forms={form: 1},
        )
        if known is not None:
            for other, number in known.forms.items():
                found.add_form(other, number)
            # An obligation opened earlier broke later than a value: the earlier event stands for both.
            found.also = {**known.also}
            if known.rule == found.rule:
                found.count += known.count
            else:
                found.count += found.also.pop(found.rule, 0)
                found.also[known.rule] = found.also.get(known.rule, 0) + known.count
            found.last_seq, found.last_ts_ns = max(
                (known.last_seq, known.last_ts_ns), (found.last_seq, found.last_ts_ns)
            )
        if severity is Severity.ERROR:
            doubt = self.divergences.pop((*key[:3], Severity.WARNING), None)
            if doubt is not None:
                found.also[doubt.rule] = found.also.get(doubt.rule, 0) + doubt.count
                for other, number in doubt.forms.items():
                    found.add_form(other, number)
        self.divergences[key] = found


def _history(event: Event, vcpu: Vcpu) -> list[Event]:
    """The last events of a vCPU, with the one in question also where it is not among them."""
    last = {past[0]: past for past in (*vcpu.history, event)}
    return [last[seq] for seq in sorted(last)]


def _needs(rules: dict[Moment, tuple[Rule, ...]]) -> dict[str, frozenset[str]]:
    return {rule.code: frozenset(rule.needs) for asked in rules.values() for rule in asked}
