"""Exits that userspace answers: slow ones, and interrupt controllers there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from advice_cases.costs import IO, NPF, SECOND, exits, unit
from builders.store import Row, tiny_store

from hvtrace.analysis.advise import Answer, Question, advise
from hvtrace.store import Store


def asked(path: Path, code: str, rows: list[Row]) -> Answer:
    return advise(tiny_store(path / "a.hvt", rows), Question(codes=(code,)))


def slow(
    times: int, *, reason: int = 2, errno: int = 0, port: int = 0x1F7, ns: int = 30_000_000
) -> list[Row]:
    """Exits that are in userspace for two thirds of `ns`."""
    rows: list[Row] = [(0, "kvm_entry", 0, 0, {})]
    pio = ("kvm_pio", {"port": port, "rw": 0, "size": 1, "count": 1, "val": 0})
    for n in range(times):
        # At a quarter, a half and three quarters of the exit.
        between = pio, ("kvm_userspace_exit", {"reason": reason, "errno": errno})
        rows += unit(SECOND + n * 100_000_000, IO, *between, ns=ns)
    return rows


def test_slow_ones(tmp_path: Path) -> None:
    """What they were about, how many of how many, the worst and where it is."""
    rows = slow(9)
    rows += unit(3 * SECOND, IO, *((name, fields) for _, name, _, _, fields in slow(1)[2:4]), ns=300_000_000)
    (found,) = asked(tmp_path, "AD801", rows).findings
    assert (
        found.title == "Userspace took 10.0 ms or longer for 10 exits, 190 ms in all; the worst took 100 ms"
    )
    assert found.evidence[0].sentence == (
        "io in 0x1f7 (KVM_EXIT_IO): 10 of 10 were slow, 190 ms in all; 99 % took 100 ms or less; the worst, 100 ms, was"
        " at 3.000000 on vCPU 0"
    )
    assert found.evidence[0].seqs == (37, 40)


@pytest.mark.parametrize(
    "rows",
    [
        slow(4),
        slow(9, errno=-4),
        slow(9, reason=24),
        slow(9, ns=29_000_000),
        slow(9, port=0x518),
    ],
    ids=["few", "a signal", "the VM's end", "quick enough", "a kernel is loaded"],
)
def test_what_is_not_slow(rows: list[Row], tmp_path: Path) -> None:
    """Few, not userspace's work, or the firmware's loading."""
    assert asked(tmp_path, "AD801", rows).findings == []


def test_the_slow_ones_against_a_walk(recorded: Callable[..., Store]) -> None:
    """The worst of a real guest, found by hand."""
    store = recorded("linux-plain")
    (found,) = advise(store, Question(codes=("AD801",))).findings
    events = []
    for table in ("kvm_exit", "kvm_entry", "kvm_userspace_exit", "kvm_pio"):
        events += [(row["seq"], table, row) for row in store.scan(table).collect().to_dicts()]
    returned: dict[int, tuple[int, int, int]] = {}
    times: list[int] = []
    loads: set[int] = set()
    for _, table, row in sorted(events, key=lambda event: event[0]):
        if table == "kvm_exit":
            returned.pop(row["tid"], None)
            loads.discard(row["tid"])
        elif table == "kvm_pio":
            loads |= {row["tid"]} if 0x510 <= row["port"] < 0x51C else set()
        elif table == "kvm_userspace_exit":
            returned.setdefault(row["tid"], (row["ts_ns"], row["reason"], row["errno"]))
        elif (before := returned.pop(row["tid"], None)) and before[1] in (2, 6) and before[2] >= 0:
            times += [] if row["tid"] in loads else [row["ts_ns"] - before[0]]
    long = [ns for ns in times if ns >= 10_000_000]
    assert found.title.startswith(f"Userspace took 10.0 ms or longer for {len(long)} exits")
    assert found.effect is not None
    assert found.effect.saved_ns == sum(long)


def test_a_tpr_that_userspace_is_told_of(tmp_path: Path) -> None:
    """The APIC is in the kernel all the same."""
    rows = exits(
        500,
        NPF,
        ("kvm_mmio", {"type": 2, "gpa": 0xFEE00080, "len": 4, "val": 1}),
        ("kvm_userspace_exit", {"reason": 12, "errno": 0}),
    )
    assert asked(tmp_path, "AD802", rows).findings == []


def test_ends_of_level_interrupts(tmp_path: Path) -> None:
    """With an I/O APIC in userspace they go there."""
    rows = exits(200, NPF, ("kvm_userspace_exit", {"reason": 26, "errno": 0}))
    (found,) = asked(tmp_path, "AD802", rows).findings
    assert found.evidence[0].sentence == (
        "the end of 400 level interrupts went to userspace (KVM_EXIT_IOAPIC_EOI)"
    )


def test_a_pause_is_not_slow(tmp_path: Path) -> None:
    """When the VM goes on, its clock is set."""
    rows = slow(9)
    during = (SECOND + 20_000_000, "kvm_update_master_clock", 0, 0, {"use_master_clock": True})
    (found,) = asked(tmp_path, "AD801", [*rows[:4], during, *rows[4:]]).findings
    assert found.evidence[0].count == 8
