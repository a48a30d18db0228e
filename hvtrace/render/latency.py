"""`hvtrace latency` for people and for scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hvtrace.render import answer as answers
from hvtrace.render.table import Column, Units, more, spread, table, terminal_width
from hvtrace.render.terminal import plural, safe, styled, wrapped

__all__ = ["as_csv", "as_json", "as_list", "as_text"]

#: Why something is not counted; `unpaired` is each measure's own.
EXCLUDED = {
    "lost": ("span", "in which events were lost"),
    "backwards": ("span", "with the end before the beginning"),
    "unattributed": ("event", "of unknown vCPUs"),
}

#: Labels are at least so wide, so that columns of several measures stand below each other.
LABEL = 30

#: Rows of a measure whose histogram the text form shows.
SPREAD = 3

COLUMNS = (
    Column.text("label", "", 0),
    Column.count("count", "count", 1),
    Column.time("time_ns", "time", 6),
    Column.time("min_ns", "min", 9),
    Column.time("mean_ns", "mean", 4),
    Column.time("p50_ns", "p50", 2),
    Column.time("p90_ns", "p90", 7),
    Column.time("p99_ns", "p99", 5),
    Column.time("p99_9_ns", "p99.9", 8),
    Column.time("max_ns", "max", 3),
)

TIMERS = (
    Column.text("label", "", 0),
    Column.time("period_ns", "period", 1),
    Column.count("starts", "starts", 7),
    Column.count("expirations", "expirations", 4),
    Column.count("periods", "periods", 5),
    Column.count("lost", "lost", 2),
    Column.count("dropped", "dropped", 6),
    Column.time("drift_ns", "drift", 3),
)


def as_text(answer: Mapping[str, Any], unit: str, top: int | None) -> str:
    """Return a table a measure, as wide as the terminal, and what could not be told.

    `top` rows of each; `unit` is that of the times: ns, or ticks of a clock whose frequency is not known.
    """
    units = Units(unit)
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in answer["rows"]:
        rows.setdefault(row["measure"], []).append(row | {"label": _label(row)})
    sections = []
    for measure in answer["counted"]:
        own = rows.get(measure["measure"], [])
        if not own:
            continue
        shown = [row | {"label": row["label"].ljust(LABEL)} for row in own[:top]]
        lines = [*_head(measure), *table(COLUMNS, shown, units), *more(len(own) - len(shown))]
        lines += _spreads(shown, units) if answer["histogram"] else []
        lines += _slowest(answer.get("slowest", ()), measure["measure"], units)
        sections.append([*lines, *_not_counted(measure)])
    if answer["timers"]:
        sections.append(_timers(answer["timers"], top))
    sections.append(_empty(answer["counted"]))
    sections.append(_absent(answer["absent"]))
    sections += [wrapped(f"Note: {note}.") for note in answer["notes"]]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _label(row: Mapping[str, Any]) -> str:
    places = [
        f"{title} {'?' if row[name] is None else row[name]}"
        for name, title in (("vm", "VM"), ("vcpu", "vCPU"))
        if name in row
    ]
    return safe(" ".join([*places, row["subject"]]))


def _head(measure: Mapping[str, Any]) -> list[str]:
    first, *rest = wrapped(f"{measure['measure']}: {measure['sentence']}", rest="  ")
    return [styled(first, "bold"), *rest]


def _spreads(rows: Sequence[Mapping[str, Any]], units: Units) -> list[str]:
    return [
        line
        for row in rows[:SPREAD]
        for line in (styled(row["label"].rstrip(), "bold"), *spread(row["histogram"], units))
    ]


def _slowest(slowest: Sequence[Mapping[str, Any]], measure: str, units: Units) -> list[str]:
    """Lines of the longest spans, each with the times and the ranks (`seq`) of its two events."""
    lines = []
    for span in slowest:
        if span["measure"] != measure:
            continue
        vm, vcpu = ("?" if span[name] is None else span[name] for name in ("vm", "vcpu"))
        start = f"{units.when(span['ts_ns'])}  {units.time(span['ns'])}  VM {vm} vCPU {vcpu} "
        lines.append(start + safe(span["subject"], max(terminal_width() - len(start), 20)))
        lines.append(f"    until {units.when(span['end_ns'])}, events {span['seq']} and {span['end_seq']}")
    return lines


def _reasons(measure: Mapping[str, Any]) -> list[str]:
    nouns = {**EXCLUDED, "unpaired": measure["unpaired"]}
    excluded = measure["excluded"].items()
    return [f"{plural(number, nouns[why][0])} {nouns[why][1]}" for why, number in excluded if number]


def _not_counted(measure: Mapping[str, Any]) -> list[str]:
    reasons = _reasons(measure)
    return wrapped(f"Not counted: {'; '.join(reasons)}.") if reasons else []


def _timers(timers: Sequence[Mapping[str, Any]], top: int | None) -> list[str]:
    rows = [{**row, "label": _label({**row, "subject": f"timer {row['timer']}"})} for row in timers[:top]]
    head = styled("Periodic timers: ticks that were passed over, and how far off the grid", "bold")
    # The guest's reference time, whatever the recording's clock is.
    return [head, *table(TIMERS, rows, Units("ns")), *more(len(timers) - len(rows))]


def _empty(measures: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was recorded and did not happen."""
    lines = []
    for measure in measures:
        if not measure["count"]:
            reasons = "; ".join(_reasons(measure))
            lines += wrapped(reasons or measure["sentence"], f"  {measure['measure']:18} ")
    return [styled("Nothing counted:", "bold"), *lines] if lines else []


def _absent(absent: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for measure in absent:
        needs = "; ".join(one.replace("|", " or ") for one in measure["missing"])
        why = needs or "stamps count ticks, and when a timer is due is told in 100 ns"
        lines += wrapped(why, f"  {measure['measure']:18} ")
    head = "Not told, for the recording has no such events (not recorded, or none fired):"
    return [styled(head, "bold"), *lines] if lines else []


def as_list(measures: Mapping[str, str]) -> str:
    """Return the measures (name: sentence), a line or more each."""
    return "\n".join(line for name, what in measures.items() for line in wrapped(what, f"{name:18} "))


def as_json(answer: Mapping[str, Any], source: str, unit: str, top: int | None) -> str:
    """Return one object; times are integers, in ns where `unit` is ns. `top` rows of each measure."""
    return answers.as_json({**answer, "rows": _first(answer["rows"], top)}, source, unit)


def as_csv(answer: Mapping[str, Any], columns: Sequence[str], top: int | None) -> str:
    """Return the rows, a line each, under a line of names."""
    return answers.as_csv(_first(answer["rows"], top), columns)


def _first(rows: Sequence[dict[str, Any]], top: int | None) -> list[dict[str, Any]]:
    """The first `top` rows of each measure."""
    numbers: Counter[str] = Counter()
    kept = []
    for row in rows:
        numbers[row["measure"]] += 1
        if top is None or numbers[row["measure"]] <= top:
            kept.append(row)
    return kept
