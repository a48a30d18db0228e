"""`hvtrace exits` for people and for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hvtrace.render import answer as answers
from hvtrace.render.table import Column, Units, bar, more, spread, table, terminal_width
from hvtrace.render.terminal import plural, safe, styled

__all__ = ["as_csv", "as_json", "as_text"]

#: What a pair is, by event.
SPANS = {
    "vmexit": "kvm_exit → kvm_entry",
    "mmio": "write: kvm_mmio → kvm_entry; read: kvm_exit → kvm_mmio",
    "ioport": "kvm_pio → kvm_entry",
    "msr": "kvm_msr → kvm_entry",
}

#: Why something is not counted: what it is, and what is wrong with it.
EXCLUDED = {
    "lost": ("pair", "in which events were lost"),
    "backwards": ("pair", "with the end before the beginning"),
    "unpaired": ("event", "without an end"),
    "unattributed": ("event", "of unknown vCPUs"),
}

#: Rows whose histogram the text form shows.
SPREAD = 6

BAR = 8

COLUMNS = (
    Column.text("label", "", 0),
    Column.count("count", "count", 1),
    Column.share("count_share", 8),
    Column.time("time_ns", "time", 2),
    Column.share("time_share", 3),
    Column("", 7, lambda row, _: _bar(row), right=False),
    Column.time("kernel_ns", "kernel", 9),
    Column.time("userspace_ns", "userspace", 10),
    Column.time("min_ns", "min", 11),
    Column.time("mean_ns", "mean", 4),
    Column("±%", 15, lambda row, _: f"{row['deviation']:.1f}"),
    Column.time("p50_ns", "p50", 12),
    Column.time("p90_ns", "p90", 13),
    Column.time("p99_ns", "p99", 6),
    Column.time("p99_9_ns", "p99.9", 14),
    Column.time("max_ns", "max", 5),
)


def _bar(row: dict[str, Any]) -> str:
    """Share of the time; the part in userspace is lighter."""
    return bar(row["time_share"], BAR, row["userspace_ns"] / row["time_ns"] if row["time_ns"] else 0.0)


def as_text(
    answer: dict[str, Any], labels: Sequence[str], slow_labels: Sequence[str], unit: str, top: int | None
) -> str:
    """Return a table as wide as the terminal, and what was left out of it.

    `labels` name the rows, `slow_labels` the pairs listed one by one; `unit` is that of the times: ns, or ticks of a
    clock whose frequency is not known.
    """
    units = Units(unit)
    sections = [_head(answer, units)]
    if answer["than_ns"] is not None:
        sections.append(_slow(answer["slow"], slow_labels, units, top))
    rows = [row | {"label": safe(label)} for row, label in zip(answer["rows"], labels, strict=True)][:top]
    for row in rows:
        if answer["interval_ns"] is not None:
            row["label"] = f"{units.when(row['from_ns'])} {row['label']}"
    if rows:
        sections.append([*table(COLUMNS, rows, units), *more(len(answer["rows"]) - len(rows))])
    if answer["histogram"]:
        sections += [
            [styled(row["label"], "bold"), *spread(row["histogram"], units)] for row in rows[:SPREAD]
        ]
    excluded = [(number, *EXCLUDED[why]) for why, number in answer["excluded"].items() if number]
    if excluded:
        left_out = ", ".join(f"{plural(number, noun)} {what}" for number, noun, what in excluded)
        sections.append([f"Not counted: {left_out}."])
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _slow(slow: Sequence[dict[str, Any]], labels: Sequence[str], units: Units, top: int | None) -> list[str]:
    """Lines of pairs, each with the ranks (`seq`) of its two events."""
    lines = []
    for pair, label in list(zip(slow, labels, strict=True))[:top]:
        outside = f", {units.time(pair['userspace_ns'])} of it in userspace" if pair["userspace_ns"] else ""
        lines.append(f"{units.when(pair['ts_ns'])}  {safe(label)}  {units.time(pair['ns'])}{outside}")
        lines.append(f"    thread {pair['tid']}, events {pair['seq']} and {pair['end_seq']}")
    return [*lines, *more(len(slow) - len(lines) // 2)]


def _head(answer: dict[str, Any], units: Units) -> list[str]:
    event, number = answer["event"], answer["count"]
    noun = (
        plural(number, "exit")
        if event == "vmexit"
        else f"{number:,} {event} access{'' if number == 1 else 'es'}"
    )
    total = f"{noun} in {units.time(answer['time_ns'])}{'' if units.unit == 'ns' else ' ticks'}"
    span = f"({SPANS[event]})"
    whole = f"{styled(total, 'bold')} {span}"
    return [whole] if len(total) + 1 + len(span) <= terminal_width() else [styled(total, "bold"), span]


def as_json(answer: dict[str, Any], source: str, unit: str, top: int | None) -> str:
    """Return one object; times are integers, in ns where `unit` is ns."""
    cut = {name: answer[name][:top] for name in ("rows", "slow") if name in answer}
    return answers.as_json(answer | cut, source, unit)


def as_csv(answer: dict[str, Any], columns: Sequence[str], top: int | None) -> str:
    """Return the rows, a line each, under a line of names."""
    return answers.as_csv(answer["rows"][:top], columns)
