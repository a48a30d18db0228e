"""Interrupt lines that timers raise: how often, how regularly, and which of them are the HPET's."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from hvtrace.analysis.advice.facts import Facts
from hvtrace.analysis.advice.steady import STEADY, slice_ns

__all__ = [
    "HPET",
    "HPET_COMPARATOR",
    "HPET_MOST",
    "HPET_TIMER",
    "HPET_TIMERS",
    "TICKS_PER_SECOND",
    "Ticks",
    "hpet_lines",
    "lines",
    "strays",
]

#: Interrupts of a device a second from which on it is a tick: Windows runs the RTC at 64 Hz and more, kernels tick at
#: 100 Hz and more; the time of day alters once a second.
TICKS_PER_SECOND = 50

#: QEMU raises a line once for each interrupt controller, up to some 0.3 ms apart: one interrupt. No system ticks 2,000
#: times a second.
SAME_NS = 500_000

#: A tick is regular where so many of the times between its interrupts are within a fifth of the middle one.
REGULAR = 0.8

HPET = 0xFED0_0000
#: Offsets of the HPET's registers (IA-PC HPET 1.0a): general configuration; configuration of timer N at 0x100 + 0x20 N,
#: its comparator 8 bytes behind.
HPET_CONFIG, HPET_TIMERS, HPET_TIMER, HPET_COMPARATOR = 0x10, 0x100, 0x20, 0x08
#: Legacy replacement: timer 0 has the PIT's line, timer 1 the RTC's.
LEGACY = (0, 8)
#: QEMU's HPET has at most 32 timers; guests use the first three.
HPET_MOST = 3


@dataclass(frozen=True, slots=True)
class Ticks:
    """Interrupts of one line: how many, in how many slices they reached a rate, the middle time between two."""

    count: int
    steady: bool
    middle_ns: int
    regular: bool
    seqs: tuple[int, ...]


def lines(facts: Facts) -> dict[tuple[int, int, bool], Ticks]:
    """(VM, GSI, whether the kernel's PIT raised it) → its interrupts, for GSIs that timers have."""
    if "kvm_set_irq" not in facts.tables:
        return {}
    ts, width = pl.col("ts_ns"), slice_ns(facts)
    line = ("vm", "gsi", "pit")
    rows = (
        facts.tables["kvm_set_irq"]
        .filter(pl.col("vm").is_not_null(), pl.col("level") == 1, pl.col("gsi") < 24)
        # The PIT of KVM has a source of its own; userspace's lines have none.
        .select("vm", "gsi", "seq", "ts_ns", pit=pl.col("irq_source_id") != 0)
        .filter((ts.diff().over(line) > SAME_NS).fill_null(value=True))
        .group_by(line)
        .agg(
            ends=pl.concat_list(pl.col("seq").first(), pl.col("seq").last()),
            count=pl.len(),
            slices=(ts // width).value_counts(),
            between=ts.diff().drop_nulls(),
        )
        .collect()
    )
    found: dict[tuple[int, int, bool], Ticks] = {}
    for vm, gsi, pit, seqs, count, slices, between in rows.iter_rows():
        busy = sum(entry["count"] >= TICKS_PER_SECOND * width / 1e9 for entry in slices)
        gaps = pl.Series(between, dtype=pl.Int64)
        middle = int(gaps.quantile(0.5) or 0)
        near = int(((gaps - middle).abs() * 5 <= middle).sum())
        ends = tuple(sorted({seqs[0], seqs[-1]}))
        steady = facts.in_ns and busy >= STEADY
        found[vm, gsi, pit] = Ticks(
            count, steady, middle, bool(len(gaps)) and near >= REGULAR * len(gaps), ends
        )
    return found


def hpet_lines(facts: Facts) -> dict[int, frozenset[int]]:
    """VM → GSIs that its HPET's enabled timers raise, by the last values written to its registers.

    Where a recording begins after the guest has set them: the lines of legacy replacement, of timers that are still
    set to a time. KVM's PIT is known from its own source, so that GSI 0 is the HPET's if userspace raises it.
    """
    if not facts.has("kvm_mmio"):
        return {}
    offset = pl.col("gpa").cast(pl.Int64) - HPET
    timers = [HPET_TIMERS + HPET_TIMER * timer for timer in range(HPET_MOST)]
    times_ = [place + HPET_COMPARATOR for place in timers]
    rows = (
        facts.store.scan("kvm_mmio")
        .filter(
            pl.col("vm").is_not_null(), pl.col("type") == 2, offset.is_in([HPET_CONFIG, *timers, *times_])
        )
        .group_by("vm", offset=offset)
        # A timer is on as long as something set it on: guests switch it off and on again.
        .agg(value=pl.col("val").last(), ever=(pl.col("val") & 4 != 0).any())
        .collect()
    )
    values: dict[int, dict[int, tuple[int, bool]]] = {}
    for vm, place, value, ever in rows.iter_rows():
        values.setdefault(vm, {})[place] = (value, ever)
    found: dict[int, frozenset[int]] = {}
    for vm, own in values.items():
        if HPET_CONFIG not in own:
            found[vm] = frozenset(gsi for gsi, place in zip(LEGACY, times_, strict=False) if place in own)
            continue
        config, _ = own[HPET_CONFIG]
        lines = set()
        for number, place in enumerate(timers):
            value, ever = own.get(place, (0, False))
            if ever:
                legacy = config & 2 and number < len(LEGACY)
                lines.add(LEGACY[number] if legacy else value >> 9 & 0x1F)
        found[vm] = frozenset(lines) if config & 1 else frozenset()
    return found


def strays(facts: Facts) -> int:
    """Interrupts of timers' lines that are of no known VM, if they are so many that some VM's may be a tick."""
    if not facts.has("kvm_set_irq"):
        return 0
    own = pl.col("vm").is_null() & (pl.col("level") == 1) & pl.col("gsi").is_in(LEGACY)
    width = slice_ns(facts)
    # With --vm the tables of the facts have no rows of other VMs, nor of none.
    rows = facts.store.scan("kvm_set_irq").filter(own, *facts.scope.span())
    slices = rows.group_by(slice=pl.col("ts_ns") // width).len().collect()["len"]
    busy = int((slices >= TICKS_PER_SECOND * width / 1e9).sum())
    return int(slices.sum()) if busy >= STEADY else 0
