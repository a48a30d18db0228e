"""Which events make a pair: the rules, one by one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from builders.store import Row, tiny_store

from hvtrace.analysis.pairs import pairs
from hvtrace.analysis.subjects import SUBJECTS

ENTRY, USER = "kvm_entry", "kvm_userspace_exit"
IO, HLT, MSR = 0x7B, 0x78, 0x7C


def exit_at(ts: int, reason: int = IO, *, vcpu: int = 0, cpu: int = 0) -> Row:
    return ts, "kvm_exit", vcpu, cpu, {"isa": 2, "exit_reason": reason}


def at(ts: int, tracepoint: str = ENTRY, *, vcpu: int = 0, cpu: int = 0, **fields: Any) -> Row:
    return ts, tracepoint, vcpu, cpu, fields


def mmio(ts: int, kind: int, gpa: int = 0xFED000F0) -> Row:
    return at(ts, "kvm_mmio", type=kind, len=4, gpa=gpa, val=0)


def found(
    path: Path,
    rows: Iterable[Row],
    event: str = "vmexit",
    lost: Iterable[dict[str, Any]] = (),
    about: str | None = None,
) -> list[tuple[Any, ...]]:
    """Pairs as (time stamp, low bits of the key, ns, userspace_ns, state), and what each is about where asked."""
    store = tiny_store(path / "t.hvt", rows)
    tables = {name: store.scan(name) for name in store.tracepoints}
    schema = {"cpu": pl.UInt16, "from_ns": pl.Int64, "to_ns": pl.Int64}
    subject = next((s for s in SUBJECTS if s.name == about), None)
    frame = pairs(
        tables,
        event,
        pl.DataFrame(list(lost), schema=schema),
        () if subject is None else subject.rows,
        last=subject is not None and subject.last,
    )
    columns = ["ts_ns", pl.col("key") & 0xFFFFFFFF, "ns", "userspace_ns", pl.col("state").cast(pl.String)]
    return frame.select(*columns, *([] if about is None else ["about"])).collect().rows()


def test_an_exit_lasts_until_the_next_entry(tmp_path: Path) -> None:
    """What was before a thread's first entry does not count, nor what no entry follows."""
    rows = [exit_at(10), at(15), exit_at(20), at(27), exit_at(30, HLT), at(90), exit_at(95)]
    assert found(tmp_path, rows) == [(20, IO, 7, 0, "whole"), (30, HLT, 60, 0, "whole")]


def test_of_two_exits_the_later_counts(tmp_path: Path) -> None:
    """The entry between them is missing."""
    rows = [at(0), exit_at(10), exit_at(20, HLT), at(25)]
    assert found(tmp_path, rows) == [(20, HLT, 5, 0, "whole")]


def test_userspace_time_begins_with_the_first_return(tmp_path: Path) -> None:
    """KVM_RUN may be called and return again before it enters the guest."""
    rows = [at(0), exit_at(10), at(14, USER), at(18, USER), at(30), exit_at(40), at(45)]
    assert found(tmp_path, rows) == [(10, IO, 20, 16, "whole"), (40, IO, 5, 0, "whole")]


def test_a_return_to_userspace_without_an_exit_belongs_to_no_pair(tmp_path: Path) -> None:
    """An entry that was called off at once."""
    rows = [at(0), at(5, USER), at(10), exit_at(20), at(21)]
    assert found(tmp_path, rows) == [(20, IO, 1, 0, "whole")]


def test_threads_are_paired_each_by_itself(tmp_path: Path) -> None:
    """Events of two vCPUs lie between one another."""
    rows = [
        at(0),
        at(1, vcpu=1, tid=101),
        exit_at(10),
        (12, "kvm_exit", 1, 0, {"isa": 2, "exit_reason": HLT, "tid": 101}),
        at(13),
        at(20, vcpu=1, tid=101),
    ]
    assert found(tmp_path, rows) == [(10, IO, 3, 0, "whole"), (12, HLT, 8, 0, "whole")]


def test_a_vcpu_that_goes_on_in_another_thread_makes_no_pair(tmp_path: Path) -> None:
    """Nobody knows when the first thread gave it up."""
    rows = [at(0), exit_at(10), at(15, tid=101), at(20, tid=101)]
    assert found(tmp_path, rows) == []


def test_both_ends_are_of_one_vcpu(tmp_path: Path) -> None:
    """A thread that goes on with another vCPU ends nothing of the first one's."""
    rows = [at(0), exit_at(10), at(15, vcpu=1), exit_at(20, vcpu=1), at(24, vcpu=1)]
    assert found(tmp_path, rows) == [(20, IO, 4, 0, "whole")]


@pytest.mark.parametrize("tid", [-5, -(1 << 31), (1 << 31) - 1, 0])
def test_any_thread_id_will_do(tmp_path: Path, tid: int) -> None:
    """A damaged recording may hold ids that no kernel gives."""
    rows = [
        (ts, tracepoint, 0, 0, own | {"tid": tid})
        for ts, tracepoint, _, _, own in (at(0), exit_at(10), at(15))
    ]
    assert found(tmp_path, rows) == [(10, IO, 5, 0, "whole")]


LOSSES = [
    ({"cpu": 0, "from_ns": 11, "to_ns": 12}, "lost"),
    ({"cpu": 0, "from_ns": 14, "to_ns": 15}, "lost"),
    ({"cpu": None, "from_ns": None, "to_ns": None}, "lost"),
    ({"cpu": 0, "from_ns": 5, "to_ns": 10}, "whole"),
    ({"cpu": 0, "from_ns": 20, "to_ns": 30}, "whole"),
    ({"cpu": 1, "from_ns": 11, "to_ns": 12}, "whole"),
    ({"cpu": 2, "from_ns": 16, "to_ns": 17}, "lost"),
    ({"cpu": 2, "from_ns": 11, "to_ns": 12}, "lost"),
    ({"cpu": 3, "from_ns": 11, "to_ns": 12}, "whole"),
]


@pytest.mark.parametrize(("loss", "state"), LOSSES)
def test_a_loss_between_the_ends_breaks_a_pair(tmp_path: Path, loss: dict[str, Any], state: str) -> None:
    """On a CPU that recorded one of two events that follow each other, between them; or on a CPU not known."""
    rows = [at(0), exit_at(10), at(15, USER, cpu=2), at(20)]
    assert found(tmp_path, rows, lost=[loss]) == [(10, IO, 10, 5, state)]


def test_a_pair_that_ends_before_it_begins_is_marked(tmp_path: Path) -> None:
    """Clocks of two CPUs may differ."""
    rows = [at(0), exit_at(10), at(8), exit_at(20), at(21)]
    assert found(tmp_path, rows) == [(10, IO, -2, 0, "backwards"), (20, IO, 1, 0, "whole")]


def test_port_accesses_last_from_kvm_pio_to_the_entry(tmp_path: Path) -> None:
    """The key is the port and, as lowest bit, the direction. Of two accesses in one exit the later counts."""
    rows = [
        at(0),
        exit_at(10),
        at(12, "kvm_pio", rw=0, port=0x64),
        at(13, "kvm_pio", rw=1, port=0x70),
        at(14, USER),
        at(20),
    ]
    assert found(tmp_path, rows, "ioport") == [(13, 0x70 << 1 | 1, 7, 6, "whole")]


def test_msr_accesses_last_from_kvm_msr_to_the_entry(tmp_path: Path) -> None:
    """Also where the kvm_exit comes late (SVM before 6.6)."""
    rows = [at(0), at(10, "kvm_msr", write=1, ecx=0x80B), exit_at(12, MSR), at(17)]
    assert found(tmp_path, rows, "msr") == [(10, 0x80B << 1 | 1, 7, 0, "whole")]


def test_an_mmio_write_lasts_from_kvm_mmio_to_the_entry(tmp_path: Path) -> None:
    """Type 2 is a write."""
    rows = [at(0), exit_at(10), mmio(12, 2, 0x1000), at(14, USER), at(20)]
    assert found(tmp_path, rows, "mmio") == [(12, 0x1000 << 1 | 1, 8, 6, "whole")]


def test_an_mmio_read_lasts_from_the_exit_to_its_value(tmp_path: Path) -> None:
    """Type 0 asks, type 1 has the value; what follows does not count."""
    rows = [at(0), exit_at(10), mmio(11, 0, 0x1000), at(12, USER), mmio(17, 1, 0x1000), at(20)]
    assert found(tmp_path, rows, "mmio") == [(10, 0x1000 << 1, 7, 5, "whole")]


def test_two_mmio_reads_in_one_exit_are_one_pair(tmp_path: Path) -> None:
    """The first has ended what the exit began; as perf has it."""
    rows = [at(0), exit_at(10), mmio(12, 1, 0x1000), mmio(14, 1, 0x1004), at(20)]
    assert found(tmp_path, rows, "mmio") == [(10, 0x1000 << 1, 2, 0, "whole")]


def test_a_read_after_a_write_ends_the_write(tmp_path: Path) -> None:
    """As perf has it: the pair is about what began it."""
    rows = [at(0), exit_at(10), mmio(12, 2, 0x1000), mmio(15, 1, 0x2000), at(20)]
    assert found(tmp_path, rows, "mmio") == [(12, 0x1000 << 1 | 1, 3, 0, "whole")]


def test_an_entry_does_not_end_what_is_not_known(tmp_path: Path) -> None:
    """An exit of another kind is nothing, unless a read follows before the next exit; as perf has it."""
    rows = [at(0), exit_at(10), at(15), exit_at(20), at(25), mmio(27, 1, 0x1000), exit_at(30), at(35)]
    assert found(tmp_path, rows, "mmio") == [(20, 0x1000 << 1, 7, 0, "whole")]


def test_what_a_pair_is_about_is_the_first_of_its_unit(tmp_path: Path) -> None:
    """Also what stands before the exit that is traced late; not what the unit before did."""
    rows = [
        at(0),
        at(5, "kvm_msr", write=0, ecx=0x10),
        exit_at(6, MSR),
        at(7, "kvm_msr", write=0, ecx=0x11),
        at(10),
        exit_at(12),
        at(14),
    ]
    assert found(tmp_path, rows, about="msr") == [
        (6, MSR, 4, 0, "whole", 0x10 << 1),
        (12, IO, 2, 0, "whole", None),
    ]


def test_of_injected_vectors_the_last_counts(tmp_path: Path) -> None:
    """That is the one the guest gets."""
    rows = [
        at(0),
        exit_at(5, HLT),
        at(7, "kvm_inj_virq", vector=0x30),
        at(8, "kvm_inj_virq", vector=0xFD),
        at(10),
    ]
    assert found(tmp_path, rows, about="vector") == [(5, HLT, 5, 0, "whole", 0xFD)]


SOURCES = [
    ("address", "kvm_fast_mmio", {"gpa": 0x1000}, 0x1000 << 1 | 1),
    ("address", "kvm_mmio", {"gpa": 0x1000, "type": 0, "len": 4, "val": 0}, 0x1000 << 1),
    ("hypercall", "kvm_hv_hypercall", {"code": 0x5C}, 0x5C),
    ("hypercall", "kvm_hypercall", {"nr": 5}, 1 << 32 | 5),
]


@pytest.mark.parametrize(("subject", "tracepoint", "fields", "key"), SOURCES)
def test_a_subject_may_be_told_by_several_tracepoints(
    tmp_path: Path, subject: str, tracepoint: str, fields: dict[str, Any], key: int
) -> None:
    """A write that an ioeventfd took; a read that userspace has to satisfy; a hypercall of KVM's own."""
    rows = [at(0), exit_at(10), at(12, tracepoint, **fields), at(20)]
    assert found(tmp_path, rows, about=subject) == [(10, IO, 10, 0, "whole", key)]
