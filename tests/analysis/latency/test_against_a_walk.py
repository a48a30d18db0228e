"""Every span, against the same found event by event: on real recordings, and on any sequence of events."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders.latency_walk import in_order, periodic, walk
from builders.store import Row, tiny_store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recordings import BROKEN, UNMODIFIED

from hvtrace.analysis.latency import MEASURES, Question, latency, spans
from hvtrace.errors import InputError
from hvtrace.store import Store


def found(store: Store, name: str) -> list[tuple[Any, ...]]:
    """Spans as the walk gives them; none where the tracepoints are not there."""
    try:
        frame = spans(store, Question(), name)
    except InputError:
        return []
    rows = frame.select("vm", "vcpu", *MEASURES[name].keys, "seq", "end_seq", "ns").rows()
    return sorted(rows, key=in_order)


@pytest.mark.parametrize("name", [folder.name for folder in (*UNMODIFIED, *BROKEN)])
def test_spans_of_real_recordings(recorded: Callable[..., Store], name: str) -> None:
    """Of every measure, with their vCPU, their subject, both events, and the time between them."""
    store = recorded(name)
    expected = walk(store)
    for measure in MEASURES:
        assert found(store, measure) == expected.get(measure, []), measure


PERIODIC = (
    "two-vms",
    "013-periodic-drift",
    "015-count0-not-disabling",
    "baseline-hvmut-stimer",
    "baseline-hvmut-haltbig",
)


@pytest.mark.parametrize("name", PERIODIC)
def test_periodic_timers_of_real_recordings(recorded: Callable[..., Store], name: str) -> None:
    """Ticks that passed and were lost, and how far a timer drifted: by adding up start for start."""
    timers = latency(recorded(name), Question(measures=("stimer-callback",))).timers
    keys, figures = (
        ("vm", "vcpu", "timer", "period_ns"),
        ("starts", "periods", "lost", "drift_ns", "expirations"),
    )
    found = {tuple(row[key] for key in keys): tuple(row[figure] for figure in figures) for row in timers}
    assert len(found) > 0
    assert found == periodic(recorded(name))
    # KVM keeps to the grid; the one that was altered does not.
    assert any(row["drift_ns"] for row in timers) == (name == "013-periodic-drift")


#: Tracepoint → fields, each one of a few values.
TIMER = {"timer_index": [0, 1]}
NUMBERS: dict[str, dict[str, list[Any]]] = {
    "kvm_hv_stimer_set_config": {**TIMER, "config": [0x20001, 0x30003, 0x1401, 0x1301]},
    "kvm_hv_stimer_set_count": {**TIMER, "count": [10, 20]},
    "kvm_hv_stimer_cleanup": TIMER,
    "kvm_hv_stimer_start_one_shot": {**TIMER, "time_now": [100], "count": [90, 100, 130]},
    "kvm_hv_stimer_start_periodic": {**TIMER, "time_now": [100], "exp_time": [105, 110]},
    "kvm_hv_stimer_callback": TIMER,
    "kvm_hv_stimer_expiration": {**TIMER, "direct": [0, 1], "msg_send_result": [0, 0, -11, 1]},
    "kvm_hv_synic_set_irq": {"sint": [2, 3], "vector": [0x30, 0x40], "ret": [1, 1, 0, -22]},
    "kvm_hv_synic_set_msr": {"msr": [0x40000084, 0x40000080], "data": [0], "host": [False, False, True]},
    "kvm_apic_accept_irq": {"vec": [0x30, 0x40], "dm": [0, 0x100, 0x400]},
    "kvm_apicv_accept_irq": {"vec": [0x30, 0x40], "dm": [0]},
    "kvm_inj_virq": {"vector": [0x30, 0x40], "soft": [False], "reinjected": [False, False, True]},
    "kvm_eoi": {"vector": [0x30, 0x40, -1]},
    "kvm_pv_eoi": {"vector": [0x30, 0x40]},
    "kvm_hv_send_ipi": {"vector": [0x30, 0x40], "processor_mask": [3]},
    "kvm_apic_ipi": {"icr_low": [0x30, 0x4430, 0x0C0130], "dest_id": [1]},
    "kvm_hypercall": {"nr": [5, 10], "a0": [3], "a1": [0], "a2": [0], "a3": [0x40]},
    "kvm_hv_hypercall": {"code": [2, 0x13, 0xB]},
    "kvm_hv_hypercall_done": {"result": [0]},
    "kvm_hv_flush_tlb": {"processor_mask": [0, 1, 6], "flags": [0, 1], "address_space": [0]},
    "kvm_hv_flush_tlb_ex": {"valid_bank_mask": [1], "format": [0, 1], "address_space": [0], "flags": [0]},
    "kvm_vcpu_wakeup": {"ns": [0], "waited": [True, False], "valid": [True]},
    "kvm_userspace_exit": {"reason": [2, 6], "errno": [0, 0, -4, None]},
    "kvm_entry": {},
    "kvm_exit": {"isa": [2], "exit_reason": [0x81]},
    "sched_switch": {"prev_pid": [100, 101, 50], "prev_state": [0, 0x100, 1, None], "next_comm": ["perf"]},
    "sched_wakeup": {"pid": [100, 101, 50]},
}

#: What belongs to one another, so that sequences are often about one thing.
_INTERRUPTS = ["kvm_apic_accept_irq", "kvm_apicv_accept_irq", "kvm_inj_virq"]
_THREAD = ["kvm_entry", "kvm_exit", "kvm_userspace_exit"]
FAMILIES = (
    [*(name for name in NUMBERS if "stimer" in name), "kvm_hv_synic_set_irq", *_INTERRUPTS],
    [*(name for name in NUMBERS if "synic" in name or "expiration" in name), *_INTERRUPTS, "kvm_eoi"],
    [*_INTERRUPTS, "kvm_eoi", "kvm_pv_eoi"],
    [*_INTERRUPTS, "kvm_hv_send_ipi", "kvm_apic_ipi", "kvm_hypercall", "kvm_entry"],
    [*_THREAD, "sched_switch", "sched_wakeup", "kvm_vcpu_wakeup"],
    [*_THREAD, *(name for name in NUMBERS if "hypercall" in name or "flush" in name)],
    list(NUMBERS),
)


@st.composite
def events(draw: st.DrawFn) -> list[Row]:
    """A sequence of events of two vCPUs of one VM, one of another, and of none; by three threads."""
    names = draw(st.sampled_from(FAMILIES))
    rows: list[Row] = []
    # So that the VM has two vCPUs with a thread each, whatever follows.
    rows += [(0, "kvm_fpu", vcpu, 0, {"load": 1, "tid": 100 + vcpu}) for vcpu in (0, 1)]
    for number in range(draw(st.integers(2, 40))):
        name = draw(st.sampled_from(names))
        fields = {field: draw(st.sampled_from(values)) for field, values in NUMBERS[name].items()}
        if name == "sched_switch":
            fields["next_pid"] = draw(
                st.sampled_from([pid for pid in (100, 101, 50) if pid != fields["prev_pid"]])
            )
        vm, vcpu, tid = draw(
            st.sampled_from(
                [(0, 0, 100)] * 4
                + [(0, 1, 101)] * 3
                + [(0, 1, 100), (1, 0, 102), (0, 0, 102), (None, 0, 100)]
            )
        )
        if name.startswith("sched_") or draw(st.integers(0, 15)) == 0:
            rows.append((10 * number, name, None, 0, {"tid": tid, **fields}))
        else:
            rows.append((10 * number, name, vcpu, 0, {"vm": vm, "tid": tid, **fields}))
    return rows


@given(events())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_spans_of_any_events(rows: list[Row]) -> None:
    """However they follow one another; measures that lack a tracepoint are told as absent."""
    with tempfile.TemporaryDirectory() as folder:
        store = tiny_store(Path(folder) / "t.hvt", rows)
        expected = walk(store)
        for measure in {row["measure"] for row in latency(store).counted}:
            assert found(store, measure) == expected.get(measure, []), measure


@pytest.mark.parametrize("carrier", ["trace.v6.dat", "ftrace.txt"])
@pytest.mark.parametrize("name", ["kut-hyperv_synic", "linux-hv-sched"])
def test_every_carrier_tells_the_same(recorded: Callable[..., Store], name: str, carrier: str) -> None:
    """As many spans of everything, whatever the recording came in; text has its stamps in µs."""

    def counts(store: Store) -> dict[tuple[str, str], int]:
        return {(row["measure"], row["subject"]): row["count"] for row in latency(store).rows}

    assert counts(recorded(name, carrier)) == counts(recorded(name))
