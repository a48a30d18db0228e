"""Clocks of a VM: offsets, master clock, and the reference time against the recording's own."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from advice_cases.costs import IO, MSR, SECOND, exits, unit
from builders.store import Row, tiny_store
from hypothesis import given, settings
from hypothesis import strategies as st

from hvtrace.analysis.advise import Answer, Question, advise

TIME_REF_COUNT = 0x40000020
TSC, NONE = 1, 0


def asked(path: Path, code: str, rows: list[Row]) -> Answer:
    return advise(tiny_store(path / f"{code}.hvt", rows), Question(codes=(code,)))


def offset(at: int, vcpu: int, value: int) -> Row:
    return at, "kvm_write_tsc_offset", vcpu, 0, {"vcpu_id": vcpu, "next_tsc_offset": value % 2**64}


def master(at: int, *, on: bool, host: int = TSC, matched: bool = True) -> Row:
    fields = {"use_master_clock": on, "host_clock": host, "offset_matched": matched}
    return at, "kvm_update_master_clock", 0, 0, fields


RUNS = exits(10, IO, seconds=10)


def test_offsets_apart(tmp_path: Path) -> None:
    """By how much, and who has which."""
    answer = asked(tmp_path, "AD601", [offset(0, 0, -500), offset(1, 1, -500), offset(2, 1, 1_000), *RUNS])
    (found,) = answer.findings
    assert found.title == "The vCPUs' TSCs are 1,500 cycles apart"
    assert (
        found.evidence[0].sentence == "offsets of the host's TSC written last: vCPU 0 -500 and vCPU 1 1,000"
    )


@pytest.mark.parametrize(
    "rows",
    [
        [offset(0, 0, -500), offset(1, 1, -700), offset(2, 0, -700), *RUNS],
        [*RUNS, offset(20 * SECOND, 0, -500), offset(20 * SECOND + 1, 1, -700)],
    ],
    ids=["made the same", "half way through"],
)
def test_offsets_that_are_fine(rows: list[Row], tmp_path: Path) -> None:
    """What is written last counts, once vCPUs run."""
    assert asked(tmp_path, "AD601", rows).findings == []


def test_a_host_without_tsc(tmp_path: Path) -> None:
    """No master clock all the time, and the reads that follow from it."""
    reads = exits(200, MSR, ("kvm_msr", {"write": 0, "ecx": TIME_REF_COUNT, "data": 0, "exception": 0}))
    (found,) = asked(tmp_path, "AD602", [master(0, on=False, host=NONE, matched=False), *reads]).findings
    assert found.title == "KVM's master clock was off: the host does not keep time by its TSC"
    assert found.severity.name == "HIGH"
    assert found.evidence[-1].count == 400


def test_a_master_clock_that_is_lost(tmp_path: Path) -> None:
    """It is told for how long."""
    rows = [
        master(0, on=True),
        *RUNS,
        master(11 * SECOND, on=False, matched=False),
        *exits(10, IO, first=12 * SECOND),
    ]
    (found,) = asked(tmp_path, "AD602", rows).findings
    assert found.title == "KVM's master clock was lost: the vCPUs' TSCs do not match"
    assert found.evidence[0].sentence == "off for 2.90 s, 22 % of the VM's time; lost 1 time"


def test_a_vm_begins_without_one(tmp_path: Path) -> None:
    """Until its vCPUs run."""
    rows = [master(0, on=False, matched=False), master(500_000_000, on=True), *RUNS]
    assert asked(tmp_path, "AD602", rows).findings == []


def test_a_hole_before_the_vcpus_run(tmp_path: Path) -> None:
    """What KVM said when they began to run was not recorded, so nothing is known."""
    answer = asked(tmp_path, "AD602", [master(0, on=False, matched=False), *RUNS])
    assert answer.findings == []
    assert [open_.reason for open_ in answer.unjudged] == ["the clock was set up while nothing was recorded"]


def reads(values: list[tuple[int, int, int]]) -> list[Row]:
    """Reads of the reference time: when the exit begins, how long it takes, the value (100 ns)."""
    rows: list[Row] = [(0, "kvm_entry", 0, 0, {})]
    for at, ns, value in values:
        fields = {"write": 0, "ecx": TIME_REF_COUNT, "data": value, "exception": 0}
        rows += unit(at, MSR, ("kvm_msr", fields), ns=ns)
    return rows


def test_backwards(tmp_path: Path) -> None:
    """A lower value in a later exit."""
    (found,) = asked(
        tmp_path, "AD603", reads([(1_000_000, 100_000, 9_000), (2_000_000, 100_000, 8_999)])
    ).findings
    assert found.evidence[0].sentence == "backwards 1 time; most at 0.002050, by 100 ns"
    assert found.evidence[0].seqs == (2, 5)


def test_ahead(tmp_path: Path) -> None:
    """Ten times as far on as the clock."""
    (found,) = asked(
        tmp_path, "AD603", reads([(1_000_000, 100_000, 0), (2_000_000, 100_000, 100_000)])
    ).findings
    # 10 ms on; at most 1.05 ms passed, and 10 µs are the clocks' own.
    assert found.evidence[0].sentence == "ahead 1 time; most at 0.002050, by at least 8.94 ms"


def test_a_pause_is_no_jump(tmp_path: Path) -> None:
    """The VM's time stands still while the VM does."""
    answer = asked(tmp_path, "AD603", reads([(1_000_000, 100_000, 10_000), (5 * SECOND, 100_000, 10_050)]))
    assert answer.findings == []


@settings(max_examples=60, deadline=None)
@given(
    st.integers(-(10**9), 10**12),
    st.lists(st.tuples(st.integers(0, 50_000_000), st.integers(4, 400_000_000), st.floats(0, 1)), min_size=2),
)
def test_a_true_clock_never_jumps(base: int, exits_: list[tuple[int, int, float]]) -> None:
    """Wherever in its exit a value is read, and however long exits take, one clock goes with the other."""
    at, values = 1_000, []
    for pause, ns, part in exits_:
        at += pause
        # The event comes in the middle of the exit; the clock was read before.
        values.append((at, ns, (base + 10**9 + at + int(part * (ns // 2))) // 100))
        at += ns
    with tempfile.TemporaryDirectory() as folder:
        assert asked(Path(folder), "AD603", reads(values)).findings == []


def test_a_clock_that_was_set(tmp_path: Path) -> None:
    """A jump with a new master clock before it is the VMM's doing."""
    rows = reads([(1_000_000, 100_000, 9_000), (3_000_000, 100_000, 5_000)])
    rows.insert(4, master(2_000_000, on=True))
    (found,) = asked(tmp_path, "AD603", rows).findings
    assert found.severity.name == "MEDIUM"
    assert found.change is not None
    assert found.change.startswith("see what set the VM's clock")
