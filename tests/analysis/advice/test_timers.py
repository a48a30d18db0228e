"""Which timer ticks, and how fast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from advice_cases.enlightenments import HYPERCALL, SECOND, guest, unit, wrmsr
from builders.store import Row, tiny_store

from hvtrace.analysis.advise import Question, advise
from hvtrace.store import Store

NPF_EXIT = 0x400
TICKS = ("AD211", "AD212", "AD213")


def ticks(gsi: int, rate: int, *, source: int = 0, seconds: int = 4, again_ns: int = 0) -> Iterator[Row]:
    """A line that is raised and lowered so many times a second; with `again_ns` it is raised once more after that."""
    for n in range(rate * seconds):
        at = SECOND + n * SECOND // rate
        for start in (at, at + again_ns) if again_ns else (at,):
            for level in (1, 0):
                fields = {"gsi": gsi, "level": level, "irq_source_id": source}
                yield start + 1_000 * (1 - level), "kvm_set_irq", 0, 0, fields


def mmio(at: int, address: int, value: int) -> Iterator[Row]:
    yield from unit(at, NPF_EXIT, "kvm_mmio", type=2, len=8, gpa=address, val=value)


def hpet(config: int, timer: int, number: int = 0) -> list[Row]:
    """A guest that sets its HPET: general configuration, and the configuration of a timer."""
    return [
        *mmio(600_000, 0xFED0_0010, config),
        *mmio(700_000, 0xFED0_0100 + 0x20 * number, timer),
    ]


def found(path: Path, rows: list[Row]) -> dict[str, str]:
    """Advices that are given, each with its first piece of evidence; the port and MSR tables are there, but empty."""
    first = [*guest(HYPERCALL), *unit(550_000, 0x7B, "kvm_pio", port=0x80, rw=1, size=1, count=1, val=0)]
    rows = [*first, *mmio(580_000, 0xFEC0_0000, 0), *rows]
    answer = advise(tiny_store(path, sorted(rows, key=lambda row: row[0])), Question(codes=TICKS))
    assert answer.unjudged == []
    return {one.code: one.evidence[0].sentence for one in answer.findings}


@pytest.mark.parametrize(
    ("rows", "code", "told"),
    [
        ([*ticks(8, 64)], "AD211", ("256", "the RTC", "15.6 ms", "userspace raises them")),
        ([*ticks(0, 100, source=2)], "AD212", ("400", "the PIT", "10.0 ms", "KVM's PIT raises them")),
        # Legacy replacement: timer 0 on the PIT's line, timer 1 on the RTC's.
        ([*hpet(3, 0x4), *ticks(0, 100)], "AD213", ("400", "the HPET", "10.0 ms", "userspace raises them")),
        (
            [*hpet(3, 0x4, 1), *ticks(8, 100)],
            "AD213",
            ("400", "the HPET", "10.0 ms", "userspace raises them"),
        ),
        # Without it, on the line that the timer's route says.
        (
            [*hpet(1, 0x4 | 20 << 9, 2), *ticks(20, 100)],
            "AD213",
            ("400", "the HPET", "10.0 ms", "userspace raises them"),
        ),
    ],
)
def test_whose_ticks_they_are(tmp_path: Path, rows: list[Row], code: str, told: tuple[str, ...]) -> None:
    """By the line, by who raises it, and by how the guest set the HPET."""
    number, device, between, who = told
    ((given, sentence),) = found(tmp_path / "ticks.hvt", rows).items()
    assert given == code
    assert sentence.startswith(f"{number} interrupts of {device}, ")
    assert sentence.endswith(f", one every {between}; {who}")


def test_a_line_that_is_raised_twice_interrupts_once(tmp_path: Path) -> None:
    """QEMU raises a line for each interrupt controller, a tenth of a millisecond apart."""
    once, twice = (
        found(tmp_path / name, [*ticks(8, 64, again_ns=again)])
        for name, again in (("1.hvt", 0), ("2.hvt", 100_000))
    )
    assert once == twice


@pytest.mark.parametrize(
    "rows",
    [
        # Too slow for a tick; a line of no timer; userspace's GSI 0 with an HPET that is off.
        [*ticks(8, 40)],
        [*ticks(4, 500)],
        [*hpet(0, 0x4), *ticks(0, 100)],
        # Only at the start.
        [
            *ticks(0, 500, source=2, seconds=1),
            (20 * SECOND, "kvm_exit", 0, 0, {"isa": 2, "exit_reason": 0x78}),
        ],
        # The guest uses synthetic timers as well.
        [*ticks(8, 64), *wrmsr(900_000, 0x4000_00B1, 5)],
    ],
)
def test_what_is_no_tick(tmp_path: Path, rows: list[Row]) -> None:
    assert found(tmp_path / "none.hvt", rows) == {}


@pytest.mark.parametrize(
    ("name", "code", "gsi", "source"),
    [
        ("linux-tick-rtc-2s", "AD211", 8, 0),
        ("linux-tick-pit-2s", "AD212", 0, 2),
        ("linux-tick-hpet-1s", "AD213", 0, 0),
    ],
)
def test_ticks_of_real_guests(
    recorded: Callable[..., Store], name: str, code: str, gsi: int, source: int
) -> None:
    """As many as a plain walk finds: raises of the line, but for those within 0.5 ms of the one before."""
    store = recorded(name)
    own = (pl.col("gsi") == gsi) & (pl.col("level") == 1) & (pl.col("irq_source_id") == source)
    stamps = store.scan("kvm_set_irq").filter(own).collect()["ts_ns"].to_list()
    walked = sum(1 for before, ts in zip([-SECOND, *stamps], stamps, strict=False) if ts - before > 500_000)
    (one,) = advise(store, Question(codes=(code,))).findings
    assert one.evidence[0].count == walked


def test_a_clock_that_ticks_at_64_hz(recorded: Callable[..., Store]) -> None:
    """The guest was made to run the RTC at 64 Hz: one interrupt every 15.6 ms."""
    (one,) = advise(recorded("linux-tick-rtc-2s"), Question(codes=("AD211",))).findings
    assert "one every 15.6 ms" in one.evidence[0].sentence


def test_expirations_that_were_not_recorded(tmp_path: Path) -> None:
    """Timers were set, and no expiration is there: whether they come by message is not known."""
    rows = [*guest(HYPERCALL), *wrmsr(SECOND, 0x4000_00B1, 7)]
    answer = advise(tiny_store(tmp_path / "set.hvt", rows), Question(codes=("AD215",)))
    assert [(open_.code, open_.missing) for open_ in answer.unjudged] == [
        ("AD215", ("kvm_hv_stimer_expiration",))
    ]


def test_lines_of_no_known_vm(tmp_path: Path) -> None:
    """A process with several VMs raises them, and which VM's they are is not known: not judged, and never fine."""
    rows = [
        *guest(HYPERCALL),
        *unit(550_000, 0x7B, "kvm_pio", port=0x80, rw=1, size=1, count=1, val=0),
        *((ts, name, None, cpu, fields) for ts, name, _, cpu, fields in ticks(8, 64)),
    ]
    answer = advise(tiny_store(tmp_path / "stray.hvt", rows), Question(codes=("AD211",)))
    assert [open_.reason for open_ in answer.unjudged] == [
        "256 interrupts of timers' lines are of no known VM"
    ]
    assert (answer.findings, answer.fine) == ([], [])


def test_a_vcpu_has_no_lines(recorded: Callable[..., Store]) -> None:
    """With --vcpu the VM's interrupt lines are not looked at, and that is said."""
    answer = advise(recorded("linux-tick-rtc-2s"), Question(codes=("AD211",), vcpu=0))
    assert [open_.reason for open_ in answer.unjudged] == [
        "an interrupt line is of the VM, not of a vCPU: ask without --vcpu"
    ]
