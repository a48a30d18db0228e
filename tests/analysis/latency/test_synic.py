"""Interrupts and messages of synthetic sources, until the guest is done with them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from builders.store import Row, tiny_store

from hvtrace.analysis.latency import Question, latency, spans

EOM, SCONTROL = 0x40000084, 0x40000080
SINT, VECTOR = 2, 0xF2


def raised(ts: int, sint: int = SINT, vector: int = VECTOR, *, ret: int = 1, tid: int = 100) -> Row:
    return ts, "kvm_hv_synic_set_irq", 0, 0, {"sint": sint, "vector": vector, "ret": ret, "tid": tid}


def injected(ts: int, vector: int = VECTOR) -> Row:
    return ts, "kvm_inj_virq", 0, 0, {"vector": vector, "soft": False, "reinjected": False}


def eoi(ts: int, vector: int = VECTOR) -> Row:
    return ts, "kvm_eoi", 0, 0, {"vector": vector}


def wrote(ts: int, msr: int = EOM, *, host: bool = False) -> Row:
    return ts, "kvm_hv_synic_set_msr", 0, 0, {"msr": msr, "data": 0, "host": host}


def found(path: Path, rows: Iterable[Row], measure: str) -> list[tuple[Any, ...]]:
    """Spans as (subject, seq, end_seq, ns)."""
    frame = spans(tiny_store(path / "t.hvt", rows), Question(), measure)
    return frame.select("subject", "seq", "end_seq", "ns").rows()


def test_a_source_is_served_by_the_eoi_of_its_injection(tmp_path: Path) -> None:
    """Of the same vector."""
    rows = [raised(10), injected(15), eoi(20, 0x30), eoi(31)]
    assert found(tmp_path, rows, "sint-eoi") == [("SINT 2 (vector 0xf2)", 0, 3, 21)]


def test_what_is_raised_while_in_service_is_served_by_the_next_injection(tmp_path: Path) -> None:
    """The first EOI is the first one's."""
    rows = [raised(10), injected(15), raised(18), eoi(20), injected(22), eoi(30)]
    assert [span[1:] for span in found(tmp_path, rows, "sint-eoi")] == [(0, 3, 10), (2, 5, 12)]


def test_what_is_raised_while_waiting_is_served_with_the_first(tmp_path: Path) -> None:
    """The APIC has one bit a vector: one injection serves both."""
    rows = [raised(10), raised(12), injected(15), eoi(20)]
    assert [span[1:] for span in found(tmp_path, rows, "sint-eoi")] == [(0, 3, 10), (1, 3, 8)]


def test_what_the_apic_did_not_take_is_no_delivery(tmp_path: Path) -> None:
    """ret 0 or below."""
    rows = [raised(5, ret=0), raised(6, ret=-22), raised(10), injected(15), eoi(20)]
    assert [span[1:] for span in found(tmp_path, rows, "sint-eoi")] == [(2, 4, 10)]


def test_sources_with_auto_eoi_have_no_end(tmp_path: Path) -> None:
    """The next injection comes without an EOI before it."""
    rows = [raised(10), injected(15), raised(20), injected(25), eoi(26, 0x30)]
    answer = latency(tiny_store(tmp_path / "t.hvt", rows), Question(measures=("sint-eoi",)))
    assert (answer.rows, answer.counted[0]["excluded"]["unpaired"]) == ([], 2)


def test_a_message_lasts_until_eom(tmp_path: Path) -> None:
    """The last one delivered before the guest's write; those that needed none are not counted."""
    rows = [raised(10), raised(20), wrote(25, SCONTROL), wrote(26, host=True), wrote(33)]
    assert found(tmp_path, rows, "message-eom") == [("SINT 2", 1, 4, 13)]


def test_a_second_eom_is_about_no_message(tmp_path: Path) -> None:
    """It is counted as one without a message."""
    rows = [raised(10), wrote(15), wrote(30)]
    answer = latency(tiny_store(tmp_path / "t.hvt", rows), Question(measures=("message-eom",)))
    assert [row["time_ns"] for row in answer.rows] == [5]
    assert answer.counted[0]["excluded"]["unpaired"] == 1


def test_eom_is_for_the_source_that_a_timer_found_busy(tmp_path: Path) -> None:
    """Though another source got a message since."""
    timer = {"timer_index": 0}
    rows: list[Row] = [
        (0, "kvm_hv_stimer_set_config", 0, 0, {**timer, "config": SINT << 16 | 1}),
        raised(10),
        raised(20, 3, 0xF3),
        (30, "kvm_hv_stimer_expiration", 0, 0, {**timer, "direct": 0, "msg_send_result": -11}),
        wrote(45),
    ]
    assert found(tmp_path, rows, "message-eom") == [("SINT 2", 1, 4, 35)]


def test_signals_of_channels_are_no_messages(tmp_path: Path) -> None:
    """Other threads raise them; messages come from the vCPU's own."""
    rows = [raised(10), raised(20, tid=999), wrote(25)]
    assert found(tmp_path, rows, "message-eom") == [("SINT 2", 0, 2, 15)]
