"""Faults of one page, failed emulation, interrupt windows."""

from __future__ import annotations

from pathlib import Path

import pytest
from advice_cases.costs import NPF, SECOND, VINTR, exits
from builders.store import Row, tiny_store

from hvtrace.analysis.advise import Answer, Question, advise


def asked(path: Path, code: str, rows: list[Row]) -> Answer:
    return advise(tiny_store(path / "a.hvt", rows), Question(codes=(code,)))


def fault(address: int) -> tuple[str, dict[str, object]]:
    return "kvm_page_fault", {"fault_address": address, "error_code": 7, "guest_rip": 0xABC}


def test_one_page(tmp_path: Path) -> None:
    """Which, how often, and from where; any address of it counts."""
    rows = [
        *exits(60, NPF, fault(0x5008), seconds=1),
        *exits(60, NPF, fault(0x5FF0), seconds=1, first=SECOND + 1),
    ]
    rows.sort(key=lambda row: row[0])
    (found,) = asked(tmp_path, "AD404", rows).findings
    assert found.title == "1 page of the guest faulted 100 times or more within a second, 120 times in all"
    assert found.evidence[0].sentence.startswith(
        "page 0x5000 on vCPU 0: 120 faults in 983 ms, error code 0x7"
    )


@pytest.mark.parametrize(
    "rows",
    [
        exits(99, NPF, fault(0x5008)),
        exits(500, NPF, fault(0xFED00000), ("kvm_mmio", {"type": 1, "gpa": 0xFED000F0, "len": 4, "val": 1})),
    ],
    ids=["few", "a device"],
)
def test_faults_that_are_fine(rows: list[Row], tmp_path: Path) -> None:
    """Memory that is touched, and devices."""
    rows[0] = (SECOND, *rows[0][1:])
    assert asked(tmp_path, "AD404", rows).findings == []


def insn(failed: int) -> tuple[str, dict[str, object]]:
    return "kvm_emulate_insn", {
        "rip": 0x20,
        "csbase": 0xF0000,
        "len": 2,
        "insn": b"\x0f\x0b",
        "failed": failed,
    }


def test_failed_emulation(tmp_path: Path) -> None:
    """Where, and which bytes."""
    (found,) = asked(tmp_path, "AD405", exits(5, NPF, insn(1), seconds=1)).findings
    assert found.evidence[0].sentence == "at 0xf0020, bytes 0f 0b: 5 times"
    assert asked(tmp_path / "b", "AD405", exits(500, NPF, insn(0), seconds=1)).findings == []


@pytest.mark.parametrize(("rate", "told"), [(1_000, True), (900, False)])
def test_windows(rate: int, tmp_path: Path, *, told: bool) -> None:
    """Many a second, and one for every second interrupt or more."""
    rows = exits(rate, VINTR, ("kvm_inj_virq", {"vector": 0x30}))
    assert bool(asked(tmp_path, "AD406", rows).findings) == told


def test_few_windows(tmp_path: Path) -> None:
    """Most interrupts are taken at once."""
    rows = exits(1_200, VINTR, *[("kvm_inj_virq", {"vector": 0x30})] * 3)
    assert asked(tmp_path, "AD406", rows).findings == []
