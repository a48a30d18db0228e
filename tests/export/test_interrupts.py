"""Interrupts by vector: from injection to EOI."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import drawing as d
from builders.store import Row

from hvtrace.export.streams import Which

VECTOR = ("VM 0", "vCPU 0", "Interrupts", "vector 0x51")


def test_an_interrupt_lasts_until_its_eoi(tmp_path: Path) -> None:
    """How long it waited for its injection, since it was raised, is an argument."""
    timeline = d.draw(tmp_path, [d.accept(700, 0x51), d.inject(1_000, 0x51), d.eoi(1_400, 0x51)])
    assert timeline.on(*VECTOR) == [(1_000, 1_400, 0, "vector 0x51")]
    assert timeline.slices[0].arguments == {"vector": 0x51, "waited_ns": 300, "raised": 1}


def test_raisings_coalesce(tmp_path: Path) -> None:
    """What is raised again before it is injected is injected once; it waited since the first of them."""
    rows = [
        d.accept(700, 0x51),
        d.accept(800, 0x51),
        d.inject(1_000, 0x51),
        d.accept(1_100, 0x51),
        d.eoi(1_400, 0x51),
        d.inject(1_500, 0x51),
        d.eoi(1_600, 0x51),
    ]
    first, second = d.draw(tmp_path, rows).slices
    assert first.arguments == {"vector": 0x51, "waited_ns": 300, "raised": 2}
    assert second.arguments == {"vector": 0x51, "waited_ns": 400, "raised": 1}
    assert len({*first.flows, *second.flows}) == 3


def test_the_same_interrupt_again_is_not_counted(tmp_path: Path) -> None:
    """Neither one injected again after a fault, nor the guest's own INT n, begins an interrupt."""
    rows = [
        d.inject(1_000, 0x51),
        d.inject(1_100, 0x51, reinjected=True),
        d.inject(1_200, 0x51, soft=True),
        d.eoi(1_400, 0x51),
        d.inject(1_500, 0x51, soft=True),
    ]
    timeline = d.draw(tmp_path, rows)
    assert [s[:2] for s in timeline.on(*VECTOR)] == [(1_000, 1_400)]
    assert not timeline.instants


def test_an_eoi_that_was_not_traced(tmp_path: Path) -> None:
    """Such an interrupt (auto-EOI, or virtualised by hardware) is an instant: nobody knows how long it took."""
    rows = [d.inject(1_000, 0x51), d.inject(2_000, 0x51), d.eoi(2_500, 0x51), d.inject(3_000, 0x51)]
    timeline = d.draw(tmp_path, rows)
    assert [s[:2] for s in timeline.on(*VECTOR)] == [(2_000, 2_500)]
    assert timeline.instants_on(*VECTOR) == [(1_000, "vector 0x51"), (3_000, "vector 0x51")]


def test_an_eoi_of_nothing(tmp_path: Path) -> None:
    """EOIs without an interrupt in service, and those of one injected before the recording, draw nothing."""
    timeline = d.draw(
        tmp_path, [d.eoi(500, 0x51), d.inject(1_000, 0x51), d.eoi(1_200, -1), d.eoi(1_400, 0x51)]
    )
    assert [s[:2] for s in timeline.on(*VECTOR)] == [(1_000, 1_400)]


def test_interrupts_that_interrupt_each_other(tmp_path: Path) -> None:
    """Each vector has a track, so that times may overlap in any way."""
    rows = [
        d.inject(1_000, 0x51),
        d.inject(1_100, 0xE1),
        d.inject(1_150, 0xF0, vcpu=1),
        d.eoi(1_200, 0xE1),
        d.eoi(1_250, 0xF0, vcpu=1),
        d.eoi(1_400, 0x51),
    ]
    drawn = {s.track[1:]: (s.start, s.end) for s in d.draw(tmp_path, rows).slices}
    assert drawn == {
        ("vCPU 0", "Interrupts", "vector 0x51"): (1_000, 1_400),
        ("vCPU 0", "Interrupts", "vector 0xe1"): (1_100, 1_200),
        ("vCPU 1", "Interrupts", "vector 0xf0"): (1_150, 1_250),
    }


@pytest.mark.parametrize(("dm", "raised"), [(0, 1), (0x100, 1), (0x400, 0), (0x500, 0), (0x700, 0)])
def test_delivery_modes(tmp_path: Path, dm: int, raised: int) -> None:
    """Fixed and lowest priority raise a vector; NMI, INIT and ExtINT have none, whatever the field says."""
    timeline = d.draw(tmp_path, [d.accept(700, 0x51, dm=dm), d.inject(1_000, 0x51), d.eoi(1_400, 0x51)])
    assert len(timeline.slices[0].flows) == raised
    assert ("waited_ns" in timeline.slices[0].arguments) is bool(raised)


def test_a_part_knows_what_was_taken_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the time before the part wanted, a raising that was injected then does not wait any longer."""
    monkeypatch.setattr("hvtrace.export.streams.LOOKED_BACK", 0)
    rows = [
        d.accept(100, 0x51),
        d.inject(200, 0x51),
        d.inject(250, 0x51, reinjected=True),
        d.eoi(300, 0x51),
        d.accept(1_100, 0x51),
        d.inject(1_200, 0x51),
        d.eoi(1_300, 0x51),
    ]
    (interrupt,) = d.draw(tmp_path, rows, Which(first_ns=1_000)).slices
    assert interrupt.arguments == {"vector": 0x51, "waited_ns": 100, "raised": 1}


def test_very_many_raisings(tmp_path: Path) -> None:
    """No more than a few flows lead to one interrupt."""
    rows = [*(d.accept(100 + i, 0x51) for i in range(200)), d.inject(1_000, 0x51), d.eoi(1_400, 0x51)]
    (interrupt,) = d.draw(tmp_path, rows).slices
    assert interrupt.arguments["waited_ns"] == 900
    assert len(interrupt.flows) == 32


def test_a_loss_cuts(tmp_path: Path) -> None:
    """Between injection and EOI another pair may have been lost, on any CPU."""
    rows = [d.inject(1_000, 0x51), d.eoi(2_000, 0x51), d.inject(3_000, 0x51), d.eoi(4_000, 0x51)]
    lost = [{"cpu": 5, "from_ns": 1_500, "to_ns": 1_501, "count": None}]
    assert [s[:2] for s in d.draw(tmp_path, rows, lost=lost).on(*VECTOR)] == [(3_000, 4_000)]


DAMAGED: list[Row] = [
    (1_200, "kvm_eoi", 0, 0, {}),
    d.eoi(1_200, 0x151),
    d.eoi(1_200, -0xAF),
    d.inject(1_200, 0x151),
    d.inject(1_200, 0xFFFF_FF51),
    (1_200, "kvm_inj_virq", 0, 0, {}),
    (1_200, "kvm_inj_virq", None, 0, {"vector": 0x51}),
    (1_200, "kvm_apic_accept_irq", 0, 0, {}),
    (1_200, "kvm_apic_accept_irq", 0, 0, {"dm": 0}),
]


@pytest.mark.parametrize("row", DAMAGED, ids=[f"{r[1]} {r[4]}" for r in DAMAGED])
def test_a_vector_that_cannot_be_is_left_out(tmp_path: Path, row: Row) -> None:
    """It is no event of another vector."""
    timeline = d.draw(tmp_path, [d.inject(1_000, 0x51), row, d.eoi(2_000, 0x51)])
    assert [s[:2] for s in timeline.on(*VECTOR)] == [(1_000, 2_000)]
    assert not timeline.instants


def test_fields_that_a_recording_lacks(tmp_path: Path) -> None:
    """Kernels that do not say whether an interrupt is injected again: each injection is drawn."""
    rows: list[Row] = [(1_000, "kvm_inj_virq", 0, 0, {"vector": 0x51}), d.eoi(2_000, 0x51)]
    assert [s[:2] for s in d.draw(tmp_path, rows).on(*VECTOR)] == [(1_000, 2_000)]


def test_vcpu_ids_above_255(tmp_path: Path) -> None:
    """Each has tracks of its own."""
    rows = [d.inject(1_000, 0x51, vcpu=4095), d.inject(1_100, 0x51, vcpu=255), d.eoi(1_200, 0x51, vcpu=4095)]
    timeline = d.draw(tmp_path, rows)
    assert timeline.slices[0].track == ("VM 0", "vCPU 4095", "Interrupts", "vector 0x51")
    assert timeline.instants[0].track[1] == "vCPU 255"
