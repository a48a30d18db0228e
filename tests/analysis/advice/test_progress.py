"""A vCPU that does not get on: what counts as that, and what does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from advice_cases.costs import EXTERNAL_INTERRUPT, NPF, circle
from builders.store import Row, tiny_store

from hvtrace.analysis.advice.finding import Finding
from hvtrace.analysis.advise import Question, advise
from hvtrace.store import Store

RIP = 0x40_0000


def again(
    times: int, reason: tuple[int, int], *, apart: int = 10_000, info1: int = 0, moves: int = 0
) -> list[Row]:
    """Exits at one instruction, each followed by an entry at it (or `moves` behind it)."""
    isa, number = reason
    rows: list[Row] = [(0, "kvm_entry", 0, 0, {"rip": RIP})]
    for n in range(times):
        fields = {"isa": isa, "exit_reason": number, "guest_rip": RIP, "info1": info1}
        rows.append((1_000 + n * apart, "kvm_exit", 0, 0, fields))
        rows.append((2_000 + n * apart, "kvm_entry", 0, 0, {"rip": RIP + moves}))
    return rows


def found(path: Path, rows: list[Row]) -> list[Finding]:
    return advise(tiny_store(path / "a.hvt", rows), Question(codes=("AD402",))).findings


def test_the_same_instruction_over_and_over(tmp_path: Path) -> None:
    """Rip, reason, how often, how long, the first and the last exit."""
    (one,) = found(tmp_path, again(300, NPF))
    assert one.vcpu == 0
    (seen,) = one.evidence
    assert seen.sentence.startswith(
        "rip 0x400000, npf: 300 exits in a row, over 2.99 ms; each entry was at that"
    )
    assert (seen.count, seen.time_ns, seen.seqs) == (300, 299 * 10_000, (1, 599))


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (again(255, NPF), "a few more faults than usual"),
        (again(300, NPF, moves=3), "the instruction is completed each time"),
        (again(300, (2, 0x78)), "the vCPU is idle"),
        (again(300, (2, 0x7B), info1=1 << 2), "a string of bytes goes to a port"),
        (again(300, EXTERNAL_INTERRUPT, apart=1_000_000), "a wait of less than a second"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_gets_on(rows: list[Row], why: str, tmp_path: Path) -> None:
    """Few, completed, idle, a string instruction, a short wait."""
    assert found(tmp_path, rows) == [], why


def test_a_wait_of_a_second_and_more(tmp_path: Path) -> None:
    """Where nothing but the host's interrupts ends the guest's turn, it has to last."""
    (one,) = found(tmp_path, again(300, EXTERNAL_INTERRUPT, apart=4_000_000))
    assert one.severity.name == "MEDIUM"
    assert one.change is not None
    assert one.change.startswith("the guest spins there")


def test_an_injection_is_progress(tmp_path: Path) -> None:
    """A row that an interrupt breaks counts in parts."""
    rows = again(400, NPF)
    broken = [*rows[:401], (rows[400][0] + 1, "kvm_inj_virq", 0, 0, {"vector": 0x30}), *rows[401:]]
    assert found(tmp_path, broken) == []


def test_a_recording_without_instruction_pointers(tmp_path: Path) -> None:
    """Nothing is found where they are not known."""
    rows = again(300, NPF)
    for *_, fields in rows:
        fields.pop("guest_rip", None)
    assert found(tmp_path, rows) == []


def test_the_stuck_vcpu_against_a_walk(recorded: Callable[..., Store]) -> None:
    """The exits of the real one, counted one by one."""
    store = recorded("linux-stuck-vcpu")
    (one,) = advise(store, Question(codes=("AD402",))).findings
    rows = store.scan("kvm_exit").collect().filter(vcpu=1).to_dicts()
    longest, length, before = 0, 0, None
    for row in rows:
        at = (row["guest_rip"], row["exit_reason"])
        length = length + 1 if at == before else 1
        longest, before = max(longest, length), at
    assert (one.vcpu, one.evidence[0].count) == (1, longest)


@pytest.mark.parametrize(("times", "told"), [(255, False), (256, True)])
def test_a_timer_in_a_circle(times: int, *, told: bool, tmp_path: Path) -> None:
    """Expirations with no entry between them."""
    rows = [*circle(times), (10**9, "kvm_exit", 0, 0, {"isa": 2, "exit_reason": 0x60})]
    answer = advise(tiny_store(tmp_path / "a.hvt", rows), Question(codes=("AD403",)))
    assert [one.evidence[0].count for one in answer.findings] == ([times] if told else [])


def test_a_timer_that_fires_once_an_entry(tmp_path: Path) -> None:
    """However often it fires, entries between are progress."""
    rows: list[Row] = []
    for n in range(400):
        rows += [(ts + n * 100_000, name, vcpu, cpu, fields) for ts, name, vcpu, cpu, fields in circle(1)]
    assert advise(tiny_store(tmp_path / "a.hvt", rows), Question(codes=("AD403",))).findings == []
