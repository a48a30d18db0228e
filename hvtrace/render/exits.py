"""`hvtrace exits` for people and for scripts."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hvtrace.render.terminal import count, duration, plural, safe, stamp, styled

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
SPREAD_BAR = 40


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the table for people. Where the terminal is too narrow, those with a high `order` are left out."""

    title: str
    order: int
    cell: Callable[[dict[str, Any], Callable[[int], str]], str]
    right: bool = True


def _time(name: str, title: str, order: int) -> _Column:
    return _Column(title, order, lambda row, time: time(row[name]))


def _share(name: str, order: int) -> _Column:
    return _Column("%", order, lambda row, _: f"{100 * row[name]:.1f}")


COLUMNS = (
    _Column("", 0, lambda row, _: str(row["label"]), right=False),
    _Column("count", 1, lambda row, _: count(row["count"])),
    _share("count_share", 8),
    _time("time_ns", "time", 2),
    _share("time_share", 3),
    _Column("", 7, lambda row, _: _bar(row), right=False),
    _time("kernel_ns", "kernel", 9),
    _time("userspace_ns", "userspace", 10),
    _time("min_ns", "min", 11),
    _time("mean_ns", "mean", 4),
    _Column("±%", 15, lambda row, _: f"{row['deviation']:.1f}"),
    _time("p50_ns", "p50", 12),
    _time("p90_ns", "p90", 13),
    _time("p99_ns", "p99", 6),
    _time("p99_9_ns", "p99.9", 14),
    _time("max_ns", "max", 5),
)


def _bar(row: dict[str, Any]) -> str:
    """Share of the time; the part in userspace is lighter."""
    whole: int = round(BAR * row["time_share"])
    light: int = round(whole * row["userspace_ns"] / row["time_ns"]) if row["time_ns"] else 0
    return "█" * (whole - light) + "░" * light


def as_text(
    answer: dict[str, Any], labels: Sequence[str], slow_labels: Sequence[str], unit: str, top: int | None
) -> str:
    """Return a table as wide as the terminal, and what was left out of it.

    `labels` name the rows, `slow_labels` the pairs listed one by one; `unit` is that of the times: ns, or ticks of a
    clock whose frequency is not known.
    """

    def time(number: int) -> str:
        return duration(number) if unit == "ns" else count(number)

    def when(ts: int) -> str:
        return stamp(ts) if unit == "ns" else str(ts)

    width = shutil.get_terminal_size((80, 24)).columns
    sections = [_head(answer, unit, time, width)]
    if answer["than_ns"] is not None:
        sections.append(_slow(answer["slow"], slow_labels, time, when, top))
    rows = [row | {"label": safe(label)} for row, label in zip(answer["rows"], labels, strict=True)][:top]
    for row in rows:
        if answer["interval_ns"] is not None:
            row["label"] = f"{when(row['from_ns'])} {row['label']}"
    if rows:
        table = _table({column: [column.cell(row, time) for row in rows] for column in COLUMNS}, width)
        sections.append([*table, *_more(len(answer["rows"]) - len(rows))])
    if answer["histogram"]:
        sections += [
            [styled(row["label"], "bold"), *_spread(row["histogram"], time)] for row in rows[:SPREAD]
        ]
    excluded = [(number, *EXCLUDED[why]) for why, number in answer["excluded"].items() if number]
    if excluded:
        left_out = ", ".join(f"{plural(number, noun)} {what}" for number, noun, what in excluded)
        sections.append([f"Not counted: {left_out}."])
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _more(number: int) -> list[str]:
    return [f"… and {number:,} more (all: --top 0)"] if number else []


def _slow(
    slow: Sequence[dict[str, Any]],
    labels: Sequence[str],
    time: Callable[[int], str],
    when: Callable[[int], str],
    top: int | None,
) -> list[str]:
    """Lines of pairs, each with the ranks (`seq`) of its two events."""
    lines = []
    for pair, label in list(zip(slow, labels, strict=True))[:top]:
        outside = f", {time(pair['userspace_ns'])} of it in userspace" if pair["userspace_ns"] else ""
        lines.append(f"{when(pair['ts_ns'])}  {safe(label)}  {time(pair['ns'])}{outside}")
        lines.append(f"    thread {pair['tid']}, events {pair['seq']} and {pair['end_seq']}")
    return [*lines, *_more(len(slow) - len(lines) // 2)]


def _spread(histogram: Sequence[tuple[int, int, int]], time: Callable[[int], str]) -> list[str]:
    """Lines of a histogram; steps in which there is nothing are left out."""
    most = max(number for *_, number in histogram)
    return [
        f"{time(start):>10} {number:>10,} {'█' * round(SPREAD_BAR * number / most)}".rstrip()
        for start, _, number in histogram
    ]


def _table(cells: dict[_Column, list[str]], width: int) -> list[str]:
    """Lines of a table of those columns that fit."""
    from rich.console import Console
    from rich.table import Table

    chosen: set[_Column] = set()
    used = 0
    for column in sorted(cells, key=lambda column: column.order):
        # One space between columns.
        used += max(map(len, [column.title, *cells[column]])) + bool(chosen)
        if chosen and used > width:
            break
        chosen.add(column)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    shown = [column for column in cells if column in chosen]
    for column in shown:
        side: Literal["right", "left"] = "right" if column.right else "left"
        table.add_column(column.title, justify=side, no_wrap=True, overflow="ellipsis")
    for row in zip(*(cells[column] for column in shown), strict=True):
        table.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, highlight=False, markup=False).print(table)
    titles, *lines = (line.rstrip() for line in out.getvalue().splitlines())
    return [styled(titles, "bold"), *lines]


def _head(answer: dict[str, Any], unit: str, time: Callable[[int], str], width: int) -> list[str]:
    event, number = answer["event"], answer["count"]
    noun = (
        plural(number, "exit")
        if event == "vmexit"
        else f"{number:,} {event} access{'' if number == 1 else 'es'}"
    )
    total = f"{noun} in {time(answer['time_ns'])}{'' if unit == 'ns' else ' ticks'}"
    span = f"({SPANS[event]})"
    whole = f"{styled(total, 'bold')} {span}"
    return [whole] if len(total) + 1 + len(span) <= width else [styled(total, "bold"), span]


def as_json(answer: dict[str, Any], source: str, unit: str, top: int | None) -> str:
    """Return one object; times are integers, in ns where `unit` is ns."""
    head = {"schema_version": 1, "source": source, "unit": unit}
    cut = {name: answer[name][:top] for name in ("rows", "slow") if name in answer}
    return json.dumps(head | answer | cut, indent=1, ensure_ascii=False)


def as_csv(answer: dict[str, Any], columns: Sequence[str], top: int | None) -> str:
    """Return the rows, a line each, under a line of names."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in answer["rows"][:top]:
        # As JSON writes them.
        writer.writerow({k: str(v).lower() if isinstance(v, bool) else v for k, v in row.items()})
    return out.getvalue().rstrip("\n")
