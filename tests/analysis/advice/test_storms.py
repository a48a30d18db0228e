"""Storms: what counts as one, when it was, and what the real ones are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from advice_cases.costs import IO, MSR, SECOND, exits
from builders.store import Row, tiny_store

from hvtrace.analysis.advice.finding import Finding, Unjudged
from hvtrace.analysis.advise import Question, advise
from hvtrace.store import Store

RDMSR = ("kvm_msr", {"write": 0, "ecx": 0x1B, "data": 0, "exception": 0})


def out(port: int) -> tuple[str, dict[str, object]]:
    return "kvm_pio", {"port": port, "rw": 1, "size": 1, "count": 1, "val": 0}


def storms(path: Path, rows: list[Row], unit: str = "ns") -> tuple[list[Finding], list[Unjudged]]:
    answer = advise(tiny_store(path / "a.hvt", rows, unit=unit), Question(codes=("AD401",)))
    return answer.findings, answer.unjudged


def test_a_second_in_a_quiet_hour(tmp_path: Path) -> None:
    """It is told when the storm was, how often, for how long, and from where."""
    rows: list[Row] = [
        (0, "kvm_entry", 0, 0, {}),
        *exits(2_000, MSR, RDMSR, seconds=1, first=1_800 * SECOND),
        (3_600 * SECOND, "kvm_exit", 0, 0, {"isa": 2, "exit_reason": 0x60}),
    ]
    (found,), _ = storms(tmp_path, rows)
    assert found.title == (
        "msr read 0x1b: 2,000 exits in 1 second, which took 200 ms, 20 % of the vCPUs' time then"
    )
    span, source = found.evidence
    assert span.sentence == (
        "vCPU 0, 1800.000 to 1801.000: 2,000 exits, 2,000 a second, 200 ms (20 % of the time)"
    )
    assert (span.count, span.per_second, span.time_ns) == (2_000, 2_000, 200_000_000)
    assert source.sentence == "in the longest, the exits came from rip 0x1000 (100 %)"
    assert found.effect is not None
    assert found.effect.saved_ns == 200_000_000


def test_seconds_that_follow_each_other_are_one_span(tmp_path: Path) -> None:
    """Two seconds, a pause, and another: two spans of one finding, the longer first."""
    rows = [
        *exits(2_000, MSR, RDMSR, seconds=1, first=10 * SECOND),
        *exits(2_000, MSR, RDMSR, seconds=2, first=20 * SECOND),
    ]
    rows[0] = (10 * SECOND, *rows[0][1:])
    (found,), _ = storms(tmp_path, rows)
    assert [(seen.count, seen.per_second) for seen in found.evidence[:2]] == [(4_000, 2_000), (2_000, 2_000)]


@pytest.mark.parametrize(
    ("rate", "ns", "port", "stormy"),
    [
        (1_000, 200_000, 0x80, True),
        (999, 300_000, 0x80, False),  # Slow rather than many.
        (1_000, 199_999, 0x80, False),  # A guest may do so much.
        (19_999, 40_000, 0xCFC, False),  # Every boot does.
        (20_000, 40_000, 0xCFC, True),  # No boot does.
        (10_000, 40_000, 0x3F8, False),
    ],
)
def test_what_a_storm_is(rate: int, ns: int, port: int, *, stormy: bool, tmp_path: Path) -> None:
    """So many exits a second that take a fifth of it; what a boot does counts from more on."""
    rows = exits(rate, IO, out(port), seconds=1, ns=ns)
    rows[0] = (SECOND, *rows[0][1:])
    findings, _ = storms(tmp_path, rows)
    assert bool(findings) == stormy


@pytest.mark.parametrize("reason", [0x60, 0x77, 0x78], ids=["interrupt", "pause", "hlt"])
def test_what_is_no_storm(reason: int, tmp_path: Path) -> None:
    """The host's interrupts, pauses and idling are told by other advices, or by none."""
    findings, _ = storms(tmp_path, exits(5_000, (2, reason), seconds=1))
    assert findings == []


def test_a_clock_in_ticks_has_no_rates(tmp_path: Path) -> None:
    """Nothing is said, and that is said."""
    findings, unjudged = storms(tmp_path, exits(5_000, MSR, RDMSR, seconds=1), unit="ticks")
    assert findings == []
    assert [open_.code for open_ in unjudged] == ["AD401"]


def test_the_port_storm_against_a_walk(recorded: Callable[..., Store]) -> None:
    """Exits, their time and the time in userspace, second by second, as a plain walk over the events counts them."""
    store = recorded("linux-port-storm")
    (found,) = advise(store, Question(codes=("AD401",))).findings
    events = []
    for table in ("kvm_exit", "kvm_entry", "kvm_pio", "kvm_userspace_exit"):
        events += [(row["seq"], table, row) for row in store.scan(table).collect().to_dicts()]
    start = store.manifest.time["first_ns"]
    count, time, outside = Counter[int](), Counter[int](), Counter[int]()
    began: dict[int, dict[str, int]] = {}
    for _, table, row in sorted(events, key=lambda event: event[0]):
        tid, ts = row["tid"], row["ts_ns"]
        if table == "kvm_exit":
            began[tid] = {"at": ts, "port": -1, "out": 0}
        elif tid in began and table == "kvm_pio":
            began[tid]["port"] = row["port"]
        elif tid in began and table == "kvm_userspace_exit":
            began[tid]["out"] = began[tid]["out"] or ts
        elif table == "kvm_entry" and (exit_ := began.pop(tid, None)) and exit_["port"] == 0x80:
            second = (exit_["at"] - start) // SECOND
            count[second] += 1
            time[second] += ts - exit_["at"]
            outside[second] += ts - exit_["out"]
    second = max(time, key=lambda second: time[second])
    span = found.evidence[0]
    assert (span.count, span.time_ns) == (count[second], time[second])
    assert f"{outside[second] / 1e6:.0f} ms of it in userspace" in span.sentence
    port_events = store.scan("kvm_pio").filter(pl.col("port") == 0x80).collect()
    assert span.seqs[0] < port_events["seq"].to_list()[len(port_events) // 2] < span.seqs[1]
