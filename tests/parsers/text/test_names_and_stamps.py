"""Threads of any name, ids and stamps of any size, as the tools print them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from .helpers import rows

#: The kernel cuts names to fifteen bytes; they may hold whatever else separates columns.
NAMES = (
    st.text("aZ09 -[]():./<>_,#", min_size=1, max_size=15)
    .map(str.strip)
    .filter(lambda name: name[:1] not in ("", ":", "<"))
)
IDS = st.integers(0, 4_194_304)
CPUS = st.integers(0, 4095)
MICROSECONDS = st.integers(0, 9_000_000_000 * 10**6 - 1)
LINE = st.tuples(NAMES, IDS, CPUS, MICROSECONDS)
#: Lines printed in order of their stamps.
LINES = st.lists(LINE, min_size=1, max_size=8).map(lambda lines: sorted(lines, key=lambda line: line[3]))


def stamp(us: int) -> str:
    return f"{us // 10**6:5d}.{us % 10**6:06d}"


def expected(lines: list[tuple[str, int, int, int]]) -> list[tuple[str, int, int, int]]:
    return [(name, tid, cpu, us * 1000) for name, tid, cpu, us in lines]


def found(text: str) -> list[tuple[str, int, int, int]]:
    return [(row["comm"], row["tid"], row["cpu"], row["ts_ns"]) for row in rows(text)]


@settings(max_examples=60, deadline=None)
@given(LINES, st.booleans(), st.booleans())
def test_ftrace_lines(lines: list[tuple[str, int, int, int]], flags: bool, groups: bool) -> None:
    """kernel/trace/trace_output.c, with and without thread groups and interrupt flags."""
    text = "# tracer: nop\n" + "".join(
        f"{name:>16}-{tid:<7} {f'({tid:7}) ' if groups else ''}[{cpu:03}] {'d..1. ' if flags else ''}"
        f"{stamp(us):>12}: kvm_fpu: load\n"
        for name, tid, cpu, us in lines
    )
    assert found(text) == expected(lines)


@settings(max_examples=60, deadline=None)
@given(LINES)
def test_report_lines(lines: list[tuple[str, int, int, int]]) -> None:
    """trace-cmd report pads the tracepoint's name."""
    text = "cpus=2\n" + "".join(
        f"{name:>16}-{tid:<5} [{cpu:03}] {stamp(us):>12}: {'kvm_fpu:':<20}  load\n"
        for name, tid, cpu, us in lines
    )
    assert found(text) == expected(lines)


@settings(max_examples=60, deadline=None)
@given(LINES)
def test_perf_lines(lines: list[tuple[str, int, int, int]]) -> None:
    """perf script aligns everything to the right."""
    text = "".join(
        f"{name:>16} {tid:5} [{cpu:03}] {stamp(us):>12}: {'kvm:kvm_fpu':>26}: load\n"
        for name, tid, cpu, us in lines
    )
    assert found(text) == expected(lines)
