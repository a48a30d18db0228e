"""Synthetic interrupt sources: from delivery to acknowledgement."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import drawing as d
from builders.store import Row

SINT2 = ("VM 0", "vCPU 0", "SynIC", "SINT2")


def test_a_delivery_lasts_until_it_is_acknowledged(tmp_path: Path) -> None:
    """By EOI or by a write of EOM: kvm_hv_notify_acked_sint stands for both."""
    timeline = d.draw(tmp_path, [d.set_irq(1_000, 2, 0x30), d.acked(1_500, 2)])
    assert timeline.on(*SINT2) == [(1_000, 1_500, 0, "delivered (vector 0x30)")]
    assert timeline.slices[0].arguments == {"vector": 0x30, "ret": 1}


def test_eom_acknowledges_all_sixteen(tmp_path: Path) -> None:
    """Those that were delivered end; the others stay empty."""
    eom = [d.acked(2_000 + sint, sint) for sint in range(16)]
    timeline = d.draw(tmp_path, [d.set_irq(1_000, 2, 0x30), d.set_irq(1_100, 15, 0x31), *eom])
    drawn = {s.track[3]: (s.start, s.end) for s in timeline.slices}
    assert drawn == {"SINT2": (1_000, 2_002), "SINT15": (1_100, 2_015)}
    assert not timeline.instants


def test_auto_eoi_is_never_acknowledged(tmp_path: Path) -> None:
    """Deliveries that are followed by the next one, or by nothing, are instants."""
    rows = [d.set_irq(1_000 * i, 2, 0x30) for i in (1, 2, 3)]
    timeline = d.draw(tmp_path, rows)
    assert timeline.instants_on(*SINT2) == [(1_000 * i, "delivered (vector 0x30)") for i in (1, 2, 3)]
    assert not timeline.slices


def test_what_the_apic_did_not_take(tmp_path: Path) -> None:
    """A delivery whose result is 0 says that it was none, and raises no interrupt."""
    timeline = d.draw(tmp_path, [d.accept(900, 0x30), d.set_irq(1_000, 2, 0x30, ret=0)])
    assert timeline.instants_on(*SINT2) == [(1_000, "not delivered (vector 0x30)")]
    assert timeline.instants[0].flows == ()


def test_sints_and_vcpus_are_apart(tmp_path: Path) -> None:
    """An acknowledgement ends the delivery of its own SINT and vCPU alone."""
    rows = [
        d.set_irq(1_000, 2, 0x30),
        d.set_irq(1_100, 3, 0x30),
        d.set_irq(1_200, 2, 0x30, vcpu=1),
        d.acked(2_000, 3),
        d.acked(2_100, 2, vcpu=1),
        d.acked(2_200, 2),
    ]
    drawn = {s.track[1:]: (s.start, s.end) for s in d.draw(tmp_path, rows).slices}
    assert drawn == {
        ("vCPU 0", "SynIC", "SINT2"): (1_000, 2_200),
        ("vCPU 0", "SynIC", "SINT3"): (1_100, 2_000),
        ("vCPU 1", "SynIC", "SINT2"): (1_200, 2_100),
    }


def test_a_loss_cuts(tmp_path: Path) -> None:
    """Where events were lost between the two, nothing is drawn: another delivery may lie between."""
    rows = [d.set_irq(1_000, 2, 0x30), d.acked(2_000, 2), d.set_irq(3_000, 2, 0x30), d.acked(4_000, 2)]
    lost = [{"cpu": 5, "from_ns": 1_500, "to_ns": 1_501, "count": None}]
    assert [s[:2] for s in d.draw(tmp_path, rows, lost=lost).on(*SINT2)] == [(3_000, 4_000)]


@pytest.mark.parametrize("window", [1, 2, 100])
def test_a_delivery_is_on_the_flow_of_its_interrupt(tmp_path: Path, window: int) -> None:
    """That is the one its thread raised just before; one raised by another thread, or for the time before, is not."""
    rows = [
        d.accept(1_000, 0x30),
        d.accept(1_100, 0x30, thread=9),
        d.set_irq(1_200, 2, 0x30),
        d.inject(1_300, 0x30),
        d.acked(1_400, 2),
        d.set_irq(1_500, 2, 0x30),
    ]
    timeline = d.draw(tmp_path, rows, window=window)
    delivered, injected = timeline.slices[0], timeline.instants[0]
    assert (delivered.category, injected.category) == ("synic", "interrupt")
    mine, other = injected.flows
    assert delivered.flows == (mine,) != (other,)
    assert timeline.instants[1].flows == ()


DAMAGED: list[Row] = [
    d.acked(1_500, 16),
    d.acked(1_500, 18),
    (1_500, "kvm_hv_notify_acked_sint", 0, 0, {}),
    (1_500, "kvm_hv_notify_acked_sint", None, 0, {"sint": 2}),
]


@pytest.mark.parametrize("row", DAMAGED, ids=["16", "18", "null", "no vCPU"])
def test_a_sint_that_cannot_be_is_left_out(tmp_path: Path, row: Row) -> None:
    """It is no other SINT's acknowledgement."""
    timeline = d.draw(tmp_path, [d.set_irq(1_000, 2, 0x30), row, d.acked(2_000, 2)])
    assert [s[:2] for s in timeline.on(*SINT2)] == [(1_000, 2_000)]
    assert {track[3] for track in timeline.tracks if len(track) == 4} == {"SINT2"}


def test_fields_that_a_recording_lacks(tmp_path: Path) -> None:
    """A delivery of no known vector is drawn nevertheless."""
    rows: list[Row] = [(1_000, "kvm_hv_synic_set_irq", 0, 0, {"sint": 2}), d.acked(2_000, 2)]
    assert [s[:2] for s in d.draw(tmp_path, rows).on(*SINT2)] == [(1_000, 2_000)]


def test_odd_vectors(tmp_path: Path) -> None:
    """A negative vector, or one above 255, neither fails nor is on another's flow."""
    rows = [d.accept(500, 0x30), d.set_irq(1_000, 2, -1), d.set_irq(2_000, 3, 0x130), d.inject(3_000, 0x30)]
    timeline = d.draw(tmp_path, rows)
    assert [i.flows for i in timeline.instants if i.category == "synic"] == [(), ()]
