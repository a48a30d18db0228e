"""Interrupts by vector, and those that one vCPU sends to others."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from builders.store import Row, tiny_store

from hvtrace.analysis.latency import Question, latency, spans


def accepted(
    ts: int, vec: int = 0x30, *, vcpu: int = 0, tid: int = 100, dm: int = 0, posted: bool = False
) -> Row:
    name = "kvm_apicv_accept_irq" if posted else "kvm_apic_accept_irq"
    return ts, name, vcpu, 0, {"apicid": vcpu, "vec": vec, "dm": dm, "tid": tid}


def injected(ts: int, vector: int = 0x30, *, vcpu: int = 0, **how: bool) -> Row:
    return ts, "kvm_inj_virq", vcpu, 0, {"vector": vector, "soft": False, "reinjected": False} | how


def eoi(ts: int, vector: int = 0x30, *, pv: bool = False) -> Row:
    return ts, "kvm_pv_eoi" if pv else "kvm_eoi", 0, 0, {"vector": vector}


def entry(ts: int, vcpu: int = 0) -> Row:
    return ts, "kvm_entry", vcpu, 0, {"tid": 100 + vcpu}


def sent(ts: int, vector: int = 0x30, *, vcpu: int = 0) -> Row:
    return ts, "kvm_hv_send_ipi", vcpu, 0, {"vector": vector, "processor_mask": 3, "tid": 100 + vcpu}


def found(path: Path, rows: Iterable[Row], measure: str) -> list[tuple[Any, ...]]:
    """Spans as (vm, vcpu, subject, seq, end_seq, ns)."""
    frame = spans(tiny_store(path / "t.hvt", rows), Question(), measure)
    return frame.select("vm", "vcpu", "subject", "seq", "end_seq", "ns").rows()


def test_an_interrupt_waits_from_its_first_acceptance(tmp_path: Path) -> None:
    """What is accepted while it waits changes nothing; what is accepted after the injection is the next one."""
    rows = [accepted(10), accepted(12), injected(20), accepted(22), injected(30)]
    assert [span[3:] for span in found(tmp_path, rows, "accept-inject")] == [(0, 2, 10), (3, 4, 8)]


def test_the_same_interrupt_again_is_not_a_second_one(tmp_path: Path) -> None:
    """Reinjected after a fault during its delivery, or an instruction of the guest's own."""
    rows = [accepted(10), injected(12, soft=True), injected(20), injected(25, reinjected=True), eoi(31)]
    assert [span[3:] for span in found(tmp_path, rows, "accept-inject")] == [(0, 2, 10)]
    assert [span[3:] for span in found(tmp_path / "2", rows, "inject-eoi")] == [(2, 4, 11)]


def test_an_eoi_ends_the_last_injection(tmp_path: Path) -> None:
    """An injection followed by another has none: auto-EOI. An EOI with nothing in service (−1) ends nothing."""
    rows = [injected(10), injected(20), eoi(25, -1), eoi(28)]
    assert [span[2:] for span in found(tmp_path, rows, "inject-eoi")] == [("vector 0x30", 1, 3, 8)]


def test_a_paravirtual_eoi_is_told_apart(tmp_path: Path) -> None:
    """KVM sees it at the next exit, and traces both kinds then."""
    rows = [injected(10), eoi(18), injected(20), eoi(27), eoi(28, pv=True)]
    assert [span[2:] for span in found(tmp_path, rows, "inject-eoi")] == [
        ("vector 0x30", 0, 1, 8),
        ("vector 0x30 (PV EOI)", 2, 3, 7),
    ]


def test_what_apicv_posted_is_not_injected(tmp_path: Path) -> None:
    """The next injection of the vector is another interrupt."""
    rows = [accepted(10), accepted(11, posted=True), accepted(50), injected(53)]
    assert [span[3:] for span in found(tmp_path, rows, "accept-inject")] == [(2, 3, 3)]


def test_other_delivery_modes_do_not_wait_for_an_injection(tmp_path: Path) -> None:
    """An NMI's vector is no vector."""
    rows = [accepted(10, dm=0x400), injected(20)]
    answer = latency(tiny_store(tmp_path / "t.hvt", rows), Question(measures=("accept-inject",)))
    assert (answer.rows, answer.counted[0]["excluded"]["unpaired"]) == ([], 0)


def test_an_ipi_reaches_each_target(tmp_path: Path) -> None:
    """Accepted by the sender's thread, in the exit in which it was sent; the span is the target's."""
    rows = [sent(10), accepted(12, vcpu=1), accepted(15, vcpu=2), entry(20), accepted(25, vcpu=1)]
    assert found(tmp_path, rows, "ipi-accept") == [
        (0, 1, "vector 0x30", 0, 1, 2),
        (0, 2, "vector 0x30", 0, 2, 5),
    ]
    frame = spans(tiny_store(tmp_path / "u.hvt", rows), Question(vcpu=2), "ipi-accept")
    assert frame.select("vcpu", "sender").rows() == [(2, 0)]


def test_ipis_of_two_senders_may_overlap(tmp_path: Path) -> None:
    """The same vector to the same target: each thread's acceptance is its own."""
    rows = [
        sent(10),
        sent(11, vcpu=1),
        accepted(14, vcpu=2, tid=101),
        accepted(19, vcpu=2, tid=100),
        entry(20),
        entry(21, vcpu=1),
    ]
    assert [span[3:] for span in found(tmp_path, rows, "ipi-accept")] == [(0, 3, 9), (1, 2, 3)]


def test_an_ipi_is_injected_once_for_several_senders(tmp_path: Path) -> None:
    """Both waited for that injection."""
    rows = [sent(10), accepted(12, vcpu=1), entry(13), sent(20), accepted(22, vcpu=1), entry(23)]
    rows += [injected(40, vcpu=1)]
    assert [span[3:] for span in found(tmp_path, rows, "ipi-inject")] == [(0, 6, 30), (3, 6, 20)]


def test_an_ipi_that_nobody_accepts_is_counted_as_such(tmp_path: Path) -> None:
    """The call failed, or addressed no one; what another thread raises is no IPI of this one."""
    rows = [sent(10), entry(12), sent(20), accepted(22, vcpu=1, tid=555), entry(30)]
    answer = latency(tiny_store(tmp_path / "t.hvt", rows), Question(measures=("ipi-accept",)))
    assert (answer.rows, answer.counted[0]["excluded"]["unpaired"]) == ([], 2)


def test_ipis_are_sent_in_four_ways(tmp_path: Path) -> None:
    """Two hypercalls of Hyper-V, the APIC's command register, KVM's own hypercall; with their delivery modes."""
    own = {"tid": 100}
    rows: list[Row] = [
        (10, "kvm_hv_send_ipi_ex", 0, 0, {"vector": 0x31, "format": 1, **own}),
        accepted(11, 0x31, vcpu=1),
        entry(12),
        (20, "kvm_apic_ipi", 0, 0, {"icr_low": 0x0C4600 | 0x10, **own}),
        accepted(22, 0x10, vcpu=1, dm=0x600),
        entry(23),
        (30, "kvm_hypercall", 0, 0, {"nr": 10, "a0": 2, "a1": 0, "a2": 0, "a3": 0x33, **own}),
        accepted(33, 0x33, vcpu=1),
        entry(34),
        (40, "kvm_hypercall", 0, 0, {"nr": 5, "a0": 2, "a1": 0, "a2": 0, "a3": 0x33, **own}),
        accepted(43, 0x33, vcpu=1),
    ]
    subjects = [(span[2], span[-1]) for span in found(tmp_path, rows, "ipi-accept")]
    assert subjects == [("vector 0x31", 1), ("SIPI 0x10", 2), ("vector 0x33", 3)]


def test_an_acceptance_traced_twice_is_one(tmp_path: Path) -> None:
    """With APICv there may be both tracepoints; what was posted is not injected."""
    rows = [
        sent(10),
        accepted(12, vcpu=1),
        accepted(13, vcpu=1, posted=True),
        entry(14),
        injected(90, vcpu=1),
    ]
    assert [span[3:] for span in found(tmp_path, rows, "ipi-accept")] == [(0, 1, 2)]
    assert found(tmp_path / "2", rows, "ipi-inject") == []


def test_vms_are_apart(tmp_path: Path) -> None:
    """The same vCPU id and vector in another VM is another machine."""
    rows = [injected(10), injected(12), eoi(20), eoi(23)]
    rows[1][4]["vm"] = rows[2][4]["vm"] = 1
    assert found(tmp_path, rows, "inject-eoi") == [
        (0, 0, "vector 0x30", 0, 3, 13),
        (1, 0, "vector 0x30", 1, 2, 8),
    ]
