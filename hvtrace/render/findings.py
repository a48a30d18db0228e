"""The verdicts of a replay in words, for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from hvtrace.abi.msr import by_name
from hvtrace.pipeline.result import concerns_interface
from hvtrace.render.pages import rule_of, summary
from hvtrace.render.terminal import WIDTH, plural, safe, styled, wrapped
from hvtrace.replay.verdict import Severity, form_of

if TYPE_CHECKING:
    from hvtrace.pipeline.result import CheckResult
    from hvtrace.replay.judge import Coverage
    from hvtrace.replay.verdict import Divergence

__all__ = ["as_text", "exact", "gathered", "outcome", "reasons", "same_elsewhere", "tally", "where"]

STYLES = {Severity.ERROR: "red", Severity.WARNING: "yellow"}


def as_text(result: CheckResult, *, coverage: bool = True) -> str:
    """Divergences, coverage, and how much of the tape was judged."""
    return "\n".join(_lines(result, coverage))


def _lines(result: CheckResult, coverage: bool) -> Iterator[str]:
    yield from wrapped(f"{result.source}: profile {result.profile}")
    yield ""
    for found, others in gathered(found for found in result.divergences if not found.known):
        yield from _paragraph(found, others)
        yield ""
    known = gathered(found for found in result.divergences if found.known)
    if known:
        yield "Known, by the baseline:"
        for found, _ in known:
            times = "" if found.count == 1 else f", {found.count} times"
            yield from wrapped(f"{found.rule} {found.name}: {found.message}{times}", "  ", "    ")
        yield ""
    if coverage:
        yield from _rules(result)
        yield ""
        yield from _tracepoints(result)
        yield ""
    for note in result.notes:
        yield from wrapped(note, "", "  ")
    last = outcome(result)
    for line in [last] if len(last) <= WIDTH else last.split("; ", 1):
        yield styled(line, "green" if result.verdict == "clean" else "red")


def gathered(divergences: Iterable[Divergence]) -> list[tuple[Divergence, list[int | None]]]:
    """Divergences of one form in several VMs as one: the first of them, and the other VMs."""
    found: dict[tuple[object, ...], tuple[Divergence, list[int | None]]] = {}
    for one in divergences:
        key = (form_of(one.rule, one.tracepoint, one.message), one.severity, one.known)
        if key in found:
            found[key][1].append(one.vm)
        else:
            found[key] = (one, [])
    return list(found.values())


def same_elsewhere(others: list[int | None]) -> str:
    """The other VMs in which the same was found, in words."""
    listed = ", ".join("?" if vm is None else str(vm) for vm in others[:20])
    more = f" and {len(others) - 20} more" if len(others) > 20 else ""
    return f"the same in VM {listed}{more}"


def _paragraph(found: Divergence, others: list[int | None]) -> Iterator[str]:
    """One divergence: what, where, expected and observed, the state, what led there, the rule."""
    yield (
        styled(f"{found.rule} {found.name}", "bold") + f" ({styled(found.severity, STYLES[found.severity])})"
    )
    yield from wrapped(f"at {where(found)}", "  ")
    yield from wrapped(found.message, "  ")
    yield from wrapped(found.expected, "  expected  ")
    yield from wrapped(found.observed, "  observed  ")
    if found.count > 1:
        yield f"  and {found.count - 1} more, the last at event {found.last_seq}"
    if others:
        yield from wrapped(same_elsewhere(others), "  ", "    ")
    if found.also:
        faces = ", ".join(f"{code} {number} times" for code, number in sorted(found.also.items()))
        yield from wrapped(f"other faces of it, as it seems: {faces}", "  ", "    ")
    state = {name: value for name, value in found.state.items() if not _at_reset(name, value)}
    if state:
        yield "  state (registers at their reset value are left out)"
        width = min(max(map(len, state)), 36)
        for name, value in state.items():
            yield from wrapped(value, f"    {safe(name):<{width}}  ")
    if found.history:
        yield "  last events of this vCPU"
        for line in found.history:
            own = line.partition(" ")[0] == str(found.seq)
            yield from wrapped(line, "  > " if own else "    ", " " * 8)
    yield from wrapped(f"{summary(rule_of(found.rule))} (hvtrace rules {found.rule})", "  rule  ", " " * 8)


def where(found: Divergence) -> str:
    """Time, VM, vCPU and event of a divergence."""
    vm = "?" if found.vm is None else found.vm
    vcpu = "-" if found.vcpu is None else found.vcpu
    return f"{exact(found.ts_ns)}, VM {vm}, vCPU {vcpu}, event {found.seq}, {found.tracepoint}"


def exact(ns: int) -> str:
    """A stamp in trace seconds, to the nanosecond."""
    return f"{ns // 1_000_000_000}.{ns % 1_000_000_000:09d}"


def _at_reset(name: str, value: str) -> bool:
    """Whether a line of the state says nothing: a register at its reset value, a timer never set."""
    register = by_name(name)
    if register is not None:
        return value == f"{register.reset or 0:#x}"
    return value.startswith("config 0x0, count 0,")


def _rules(result: CheckResult) -> Iterator[str]:
    asked = {
        code: counted
        for code, counted in result.coverage.items()
        if counted.holds or counted.diverges or counted.unknown
    }
    yield f"{'rule':<36}{'holds':>9}{'diverges':>10}  unknown"
    for code, counted in asked.items():
        title = f"{code} {rule_of(code).name}"
        line = f"{title:<36}{counted.holds:>9}{counted.diverges:>10}  "
        yield from wrapped(reasons(counted) or "-", line, " " * 57)
    if rest := len(result.coverage) - len(asked):
        yield f"{plural(rest, 'other rule')}: nothing in this recording concerns them"


def reasons(counted: Coverage) -> str:
    """Why verdicts were unknown, with their number."""
    return ", ".join(f"{reason.value} {number}" for reason, number in sorted(counted.unknown.items()))


def _tracepoints(result: CheckResult) -> Iterator[str]:
    yield f"{'tracepoint':<36}{'events':>9}{'judged':>10}"
    for name, total in sorted(result.totals.items()):
        judged = result.judged[name]
        if judged or (total and concerns_interface(name)):
            yield f"{name:<36}{total:>9}{judged:>10}  {_share(judged, total)}"


def _share(part: int, whole: int) -> str:
    """Never rounded up to all, nor down to nothing."""
    percent = 100 * part / whole if whole else 0.0
    if part < whole:
        percent = min(percent, 99.9)
    if part:
        percent = max(percent, 0.1)
    return f"{percent:.1f} %"


def tally(result: CheckResult) -> str:
    """How many divergences, in words."""
    fresh = [found for found in result.divergences if not found.known]
    errors = sum(found.severity is Severity.ERROR for found in fresh)
    words = [plural(errors, "divergence") if errors else "no divergence"]
    if warnings := len(fresh) - errors:
        words.append(plural(warnings, "warning"))
    if known := len(result.divergences) - len(fresh):
        words.append(f"{known} known")
    return ", ".join(words)


def outcome(result: CheckResult) -> str:
    """The last line: what was found, and how much of the tape was judged."""
    judged, total = result.interface
    all_judged, replayed = sum(result.judged.values()), result.replayed
    share = f"judged {judged} of {total} interface events"
    if total:
        share += f" ({_share(judged, total)})"
    share += f", tape {_share(all_judged, replayed)}"
    if result.verdict == "unjudged":
        return f"NOTHING WAS JUDGED: this says nothing about the hypervisor; {share}"
    return f"{tally(result)}; {share}"
