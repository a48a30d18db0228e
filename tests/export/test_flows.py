"""Flows: from who causes something to what comes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import drawing as d
from builders.store import Row
from builders.timeline import Drawn, Timeline

from hvtrace.export.streams import Which

IPI = 0xFD


def arrows(timeline: Timeline) -> list[tuple[str, str]]:
    """Arrows as "vCPU: name", sorted."""

    def shown(s: Drawn) -> str:
        return f"{s.track[1].removeprefix('vCPU ')} {s.name}"

    return sorted((shown(a), shown(b)) for a, b in timeline.arrows())


def exit_with(ts: int, *within: Row, vcpu: int = 0) -> list[Row]:
    """An exit from `ts` on for 900 ns, and what lies in it."""
    return [d.entry(ts - 100, vcpu), d.leave(ts, vcpu), *within, d.entry(ts + 900, vcpu)]


TIMER_LIFE = [
    *exit_with(
        1_000, d.config(1_100, d.MESSAGE | 8), d.count(1_200, 70), d.cleanup(1_210), d.one_shot(1_300, 1, 70)
    ),
    d.callback(3_000),
    *exit_with(
        3_200,
        d.accept(3_300, 0x30),
        d.set_irq(3_310, 2, 0x30),
        d.expired(3_320),
        d.cleanup(3_330),
        d.inject(3_400, 0x30),
    ),
    *exit_with(5_000, d.eoi(5_100, 0x30), d.acked(5_110, 2)),
    d.leave(7_000),
]


@pytest.mark.parametrize("window", [1, 2, 3, 5, 8, 100])
def test_a_timer_from_its_arming_to_the_eoi(tmp_path: Path, window: int) -> None:
    """Arrows lead from the exit that armed it to all that came of it, whatever the size of windows."""
    timeline = d.draw(tmp_path, TIMER_LIFE, window=window)
    assert arrows(timeline) == [
        ("0 armed (one-shot)", "0 callback"),
        ("0 callback", "0 expired"),
        ("0 delivered (vector 0x30)", "0 expired"),
        ("0 expired", "0 vector 0x30"),
        ("0 msr", "0 armed (one-shot)"),
        ("0 vector 0x30", "0 msr"),
    ]
    armed_in, eoi_in = (s.start for s in timeline.slices if s.category == "exit" and s.flows)
    assert (armed_in, eoi_in) == (1_000, 5_000)


def test_a_flow_goes_through_an_exits_detail(tmp_path: Path) -> None:
    """Where an exit has a detail, that is on the flow, not the exit around it."""
    msr: Row = (1_400, "kvm_msr", 0, 0, {"write": 1, "ecx": 0x400000B1, "data": 70, "exception": 0})
    timeline = d.draw(tmp_path, [*TIMER_LIFE, msr])
    assert ("0 write HV_X64_MSR_STIMER0_COUNT", "0 armed (one-shot)") in arrows(timeline)
    assert ("0 msr", "0 armed (one-shot)") not in arrows(timeline)


def test_each_period_is_a_flow_of_its_own(tmp_path: Path) -> None:
    """A periodic timer that goes on by itself was not armed by the guest's exit. The last one has just begun."""
    rows = [
        *exit_with(1_000, d.config(1_100, d.MESSAGE | 2), d.cleanup(1_110), d.periodic(1_200, 0, 10)),
        d.callback(2_200),
        *exit_with(2_500, d.expired(2_600), d.periodic(2_700, 11, 20)),
        d.callback(4_000),
        *exit_with(4_500, d.expired(4_600), d.periodic(4_700, 21, 30)),
    ]
    timeline = d.draw(tmp_path, rows)
    assert [len(on) for on in timeline.flows().values()] == [4, 3, 1]
    assert [s.start for s in timeline.slices if s.category == "exit" and s.flows] == [1_000]


def test_a_dropped_tick_raised_no_interrupt(tmp_path: Path) -> None:
    """With a busy slot a periodic timer expires in vain: the interrupt before it was another timer's."""
    rows = [
        *(d.config(100 + t, d.MESSAGE | 2, timer=t) for t in (0, 1)),
        d.callback(900),
        d.callback(910, timer=1),
        d.accept(1_000, 0x30),
        d.set_irq(1_010, 2, 0x30),
        d.expired(1_020),
        d.expired(1_030, timer=1),
        d.inject(1_100, 0x30),
    ]
    timeline = d.draw(tmp_path, rows)
    first, second = (s for s in timeline.instants if s.name == "expired")
    assert (first.track[-1], len(first.flows)) == ("STIMER0", 1)
    assert (second.track[-1], len(second.flows)) == ("STIMER1", 0)


def test_a_direct_timer_leads_to_its_vector(tmp_path: Path) -> None:
    """Without SINT and message."""
    rows = [
        d.config(100, d.DIRECT),
        d.accept(1_000, 0xED),
        d.expired(1_010, direct=1),
        d.inject(1_100, 0xED),
        d.eoi(1_200, 0xED),
    ]
    assert arrows(d.draw(tmp_path, rows)) == [("0 expired", "0 vector 0xed")]


SENDERS = [
    ("hypercall", "kvm_hv_send_ipi", {"vector": IPI, "processor_mask": 0b110}),
    ("hypercall with a set", "kvm_hv_send_ipi_ex", {"vector": IPI, "format": 0, "valid_bank_mask": 1}),
    ("ICR", "kvm_apic_ipi", {"icr_low": 0xC0800 | IPI, "dest_id": 0}),
    ("hypercall of KVM", "kvm_hypercall", {"nr": 10, "a0": 6, "a1": 0, "a2": 0, "a3": 1 << 63 | IPI}),
]


@pytest.mark.parametrize(("tracepoint", "fields"), [s[1:] for s in SENDERS], ids=[s[0] for s in SENDERS])
@pytest.mark.parametrize("window", [1, 3, 100])
def test_an_ipi_leads_to_each_target(
    tmp_path: Path, tracepoint: str, fields: dict[str, int], window: int
) -> None:
    """From the sender's exit to the interrupt on each vCPU, and to the exit of its EOI."""
    rows = [
        *exit_with(
            1_000,
            (1_100, tracepoint, 0, 0, fields),
            d.accept(1_200, IPI, vcpu=1, thread=100),
            d.accept(1_210, IPI, vcpu=2, thread=100),
        ),
        *exit_with(1_500, d.inject(1_600, IPI, vcpu=1), vcpu=1),
        *exit_with(3_000, d.eoi(3_100, IPI, vcpu=1), vcpu=1),
        *exit_with(1_550, d.inject(1_700, IPI, vcpu=2), vcpu=2),
    ]
    timeline = d.draw(tmp_path, rows, window=window)
    found = arrows(timeline)
    assert len(found) == 3
    sender = next(a for a, b in found if b == "1 vector 0xfd")
    assert sender.startswith("0 ")
    assert set(found) == {(sender, "1 vector 0xfd"), (sender, "2 vector 0xfd"), ("1 vector 0xfd", "1 msr")}


NOT_SENT = [
    ("another vector", d.accept(1_200, 0x41, vcpu=1, thread=100), 1_100),
    ("another thread", d.accept(1_200, IPI, vcpu=1, thread=7), 1_100),
    ("in a later exit", d.accept(3_200, IPI, vcpu=1, thread=100), 1_100),
    ("before it was sent", d.accept(1_050, IPI, vcpu=1, thread=100), 1_100),
]


@pytest.mark.parametrize(("raised", "sent"), [n[1:] for n in NOT_SENT], ids=[n[0] for n in NOT_SENT])
def test_what_is_no_ipi(tmp_path: Path, raised: Row, sent: int) -> None:
    """An interrupt of another vector, thread or exit does not come from this sender."""
    send: Row = (sent, "kvm_hv_send_ipi", 0, 0, {"vector": IPI, "processor_mask": 2})
    rows = [*exit_with(1_000, send), *exit_with(3_000), raised, d.inject(5_000, raised[4]["vec"], vcpu=1)]
    assert arrows(d.draw(tmp_path, rows)) == []


def test_senders_coalesce(tmp_path: Path) -> None:
    """An interrupt that two vCPUs sent before it was taken is reached from both."""
    rows: list[Row] = []
    for sender in (0, 2):
        ts = 1_000 + sender
        send: Row = (ts + 100, "kvm_hv_send_ipi", sender, 0, {"tid": 100 + sender, "vector": IPI})
        rows += exit_with(ts, send, d.accept(ts + 200, IPI, vcpu=1, thread=100 + sender), vcpu=sender)
    rows += [d.inject(3_000, IPI, vcpu=1), d.eoi(4_000, IPI, vcpu=1)]
    timeline = d.draw(tmp_path, rows)
    assert [(a.split()[0], b) for a, b in arrows(timeline)] == [
        ("0", "1 vector 0xfd"),
        ("2", "1 vector 0xfd"),
    ]


#: Who is reached of vCPUs 0 (the sender), 1, 2, 63, 64 and 300.
FLUSHES = [
    ("a mask", "kvm_hv_flush_tlb", {"processor_mask": 1 << 63 | 0b011, "flags": 0}, [1, 63]),
    ("all processors", "kvm_hv_flush_tlb", {"processor_mask": 0b010, "flags": 1}, [1, 2, 63, 64, 300]),
    ("an empty mask", "kvm_hv_flush_tlb", {"processor_mask": 0, "flags": 0}, [1, 2, 63, 64, 300]),
    ("itself alone", "kvm_hv_flush_tlb", {"processor_mask": 1, "flags": 0}, []),
    ("a set of all", "kvm_hv_flush_tlb_ex", {"format": 1}, [1, 2, 63, 64, 300]),
    ("a sparse set, whose members are not traced", "kvm_hv_flush_tlb_ex", {"format": 0}, []),
    ("fields that a recording lacks", "kvm_hv_flush_tlb", {}, []),
    ("a set of no known format", "kvm_hv_flush_tlb_ex", {}, []),
]


@pytest.mark.parametrize(
    ("tracepoint", "fields", "reached"), [f[1:] for f in FLUSHES], ids=[f[0] for f in FLUSHES]
)
@pytest.mark.parametrize("window", [2, 100])
def test_a_tlb_flush_leads_to_each_targets_next_entry(
    tmp_path: Path, tracepoint: str, fields: dict[str, int], reached: list[int], window: int
) -> None:
    """That is where the target does it; guest time before is not touched."""
    rows = exit_with(1_000, (1_100, tracepoint, 0, 0, fields))
    for vcpu in (1, 2, 63, 64, 300):
        rows += [d.entry(900, vcpu), d.leave(1_500, vcpu), d.entry(2_000, vcpu), d.leave(2_500, vcpu)]
    timeline = d.draw(tmp_path, rows, window=window)
    found = [(a, b) for a, b in timeline.arrows()]
    assert all(a.track[1] == "vCPU 0" and a.start == 1_000 for a, _ in found)
    assert sorted((b.track[1], b.start, b.name) for _, b in found) == sorted(
        (f"vCPU {vcpu}", 2_000, "guest") for vcpu in reached
    )


def test_flows_are_cut_with_the_vcpus(tmp_path: Path) -> None:
    """Of one vCPU alone, no flow leads to another one; and what it received keeps its own."""
    send: Row = (1_100, "kvm_hv_send_ipi", 0, 0, {"vector": IPI, "processor_mask": 2})
    flush: Row = (1_300, "kvm_hv_flush_tlb", 0, 0, {"processor_mask": 2, "flags": 0})
    rows = [
        *exit_with(1_000, send, d.accept(1_200, IPI, vcpu=1, thread=100), flush),
        *exit_with(1_500, d.inject(1_600, IPI, vcpu=1), vcpu=1),
        *exit_with(3_000, d.eoi(3_100, IPI, vcpu=1), vcpu=1),
    ]
    assert arrows(d.draw(tmp_path, rows, Which(vcpu=0))) == []
    assert arrows(d.draw(tmp_path, rows, Which(vcpu=1))) == [("1 vector 0xfd", "1 msr")]


def test_an_exit_that_is_a_gap_is_on_no_flow(tmp_path: Path) -> None:
    """Where the exit around the EOI cannot be drawn, the flow ends at the interrupt."""
    rows = [
        d.accept(900, 0x51),
        d.inject(1_000, 0x51),
        d.leave(1_050),
        d.eoi(1_100, 0x51),
        d.leave(1_200),
        d.entry(1_300),
    ]
    timeline = d.draw(tmp_path, rows)
    assert [[s.name for s in on] for on in timeline.flows().values()] == [["vector 0x51"]]
