"""Tables as wide as the terminal: the columns that matter least are left out where it is too narrow."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hvtrace.render.terminal import count, duration, stamp, styled

__all__ = ["Column", "Units", "bar", "more", "spread", "table", "terminal_width"]

#: Widest bar of a histogram.
SPREAD_BAR = 40


@dataclass(frozen=True, slots=True)
class Units:
    """How the times of a store are written: `unit` is "ns", or "ticks" of a clock whose frequency is not known."""

    unit: str = "ns"

    def time(self, number: int | None) -> str:
        """A span of time."""
        return duration(number) if self.unit == "ns" or number is None else count(number)

    def when(self, ts: int) -> str:
        """A time stamp."""
        return stamp(ts) if self.unit == "ns" else str(ts)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. Where the terminal is too narrow, those with a high `order` are left out."""

    title: str
    order: int
    cell: Callable[[dict[str, Any], Units], str]
    right: bool = True

    @classmethod
    def text(cls, name: str, title: str, order: int) -> Column:
        """A column of words."""
        return cls(title, order, lambda row, _: "" if row[name] is None else str(row[name]), right=False)

    @classmethod
    def count(cls, name: str, title: str, order: int) -> Column:
        """A column of numbers."""
        return cls(title, order, lambda row, _: "" if row[name] is None else count(row[name]))

    @classmethod
    def time(cls, name: str, title: str, order: int) -> Column:
        """A column of times."""
        return cls(title, order, lambda row, units: "" if row[name] is None else units.time(row[name]))

    @classmethod
    def share(cls, name: str, order: int, title: str = "%") -> Column:
        """A column of shares, in percent."""
        return cls(title, order, lambda row, _: "" if row[name] is None else f"{100 * row[name]:.1f}")


def terminal_width() -> int:
    """Columns of the terminal; 80 where stdout is none."""
    return shutil.get_terminal_size((80, 24)).columns


def table(
    columns: Sequence[Column],
    rows: Sequence[dict[str, Any]],
    units: Units = Units(),
    width: int | None = None,
) -> list[str]:
    """Return the lines of a table, its titles first, of those columns that fit. Cells must be safe to print."""
    from rich.console import Console
    from rich.table import Table

    width = terminal_width() if width is None else width
    cells = {column: [column.cell(row, units) for row in rows] for column in columns}
    chosen: set[Column] = set()
    used = 0
    for column in sorted(cells, key=lambda column: column.order):
        # One space between columns.
        used += max(map(len, [column.title, *cells[column]])) + bool(chosen)
        if chosen and used > width:
            break
        chosen.add(column)
    grid = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    shown = [column for column in cells if column in chosen]
    for column in shown:
        side: Literal["right", "left"] = "right" if column.right else "left"
        grid.add_column(column.title, justify=side, no_wrap=True, overflow="ellipsis")
    for row in zip(*(cells[column] for column in shown), strict=True):
        grid.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, highlight=False, markup=False).print(grid)
    titles, *lines = (line.rstrip() for line in out.getvalue().splitlines())
    return [styled(titles, "bold"), *lines]


def more(number: int) -> list[str]:
    """The line that says how many rows were left out, if any."""
    return [f"… and {number:,} more (all: --top 0)"] if number > 0 else []


def bar(share: float, width: int, light: float = 0.0) -> str:
    """A bar of `share` of `width`; of it, the share `light` is lighter, at its end."""
    whole = round(width * share)
    pale = round(whole * light)
    return "█" * (whole - pale) + "░" * pale


def spread(histogram: Sequence[tuple[int, int, int]], units: Units) -> list[str]:
    """Lines of a histogram ([from_ns, to_ns, count]); steps in which there is nothing are left out."""
    most = max((number for *_, number in histogram), default=0)
    return [
        f"{units.time(start):>10} {number:>10,} {bar(number / most, SPREAD_BAR)}".rstrip()
        for start, _, number in histogram
    ]
