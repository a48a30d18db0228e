"""Which VM and vCPU an event belongs to: what the evidence forces, and nothing more."""

from __future__ import annotations

from collections import Counter

import polars as pl
import pytest
from recordings import get
from tapes import window

from hvtrace.parsers.recording import Threads
from hvtrace.pipeline.attribution import Attributor
from hvtrace.pipeline.ingest import ingest

Rows = dict[str, list[tuple[int | None, int | None]]]


def attribute(*texts: str, threads: Threads | None = None) -> tuple[Rows, Attributor]:
    """(vm, vcpu) of each event, by tracepoint, after as many readings as it takes."""
    attributor = Attributor(threads or Threads())
    rows: Rows = {}
    for _ in range(2):
        rows, base = {}, 0
        for text in texts:
            w = window(text)
            for name, (vm, vcpu) in attributor.attribute(w.tables, base, w.events).items():
                rows.setdefault(name, []).extend(zip(vm.to_pylist(), vcpu.to_pylist(), strict=True))
            base += w.events
        if not attributor.stale:
            break
        attributor = attributor.again()
    return rows, attributor


def test_events_without_a_vcpu_take_it_from_their_thread() -> None:
    """kvm_entry tells what the thread runs; kvm_msr, which names no vCPU, follows."""
    rows, _ = attribute("""
        10 0 7 kvm_entry vcpu_id=0
        11 0 7 kvm_msr write=1 ecx=0x40000000
        12 1 8 kvm_entry vcpu_id=1
        13 1 8 kvm_msr write=1 ecx=0x40000000
    """)
    assert rows["kvm_msr"] == [(0, 0), (0, 1)]


def test_a_thread_that_creates_vcpus_for_others_runs_its_own() -> None:
    """One thread creates two vCPUs and runs the first; what it does without a name is that vCPU's."""
    rows, _ = attribute("""
        10 0 7 kvm_write_tsc_offset vcpu_id=0 previous_tsc_offset=0 next_tsc_offset=9
        11 0 7 kvm_track_tsc vcpu_id=0 online_vcpus=1
        12 0 7 kvm_write_tsc_offset vcpu_id=2 previous_tsc_offset=0 next_tsc_offset=9
        13 0 7 kvm_track_tsc vcpu_id=2 online_vcpus=2
        20 0 7 kvm_entry vcpu_id=0
        21 0 7 kvm_msr write=1 ecx=0x40000000
        22 1 8 kvm_entry vcpu_id=2
        23 1 8 kvm_msr write=1 ecx=0x40000000
    """)
    assert rows["kvm_entry"] == rows["kvm_msr"] == [(0, 0), (0, 2)]


def test_a_thread_that_is_no_vcpu_belongs_to_the_only_vm() -> None:
    """A host thread's event is the VM's where there is one VM; it has no vCPU unless it names one."""
    rows, _ = attribute("""
        10 0 7 kvm_entry vcpu_id=0
        11 1 5 kvm_set_irq gsi=4 level=1
        12 1 5 kvm_hv_synic_set_irq vcpu_id=0 sint=2 vector=60 ret=1
    """)
    assert rows["kvm_set_irq"] == [(0, None)]
    assert rows["kvm_hv_synic_set_irq"] == [(0, 0)]


def test_vcpu_ids_that_collide_are_different_vms() -> None:
    """Without thread groups, threads in ascending order of ids make up VMs; that is only a conclusion."""
    rows, attributor = attribute("""
        10 0 20 kvm_entry vcpu_id=0
        11 1 21 kvm_entry vcpu_id=1
        12 0 30 kvm_entry vcpu_id=0
        13 1 31 kvm_entry vcpu_id=1
    """)
    assert rows["kvm_entry"] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [vm.certain for vm in attributor.machines.vms] == [False, False]


def test_thread_groups_decide_where_they_are_known() -> None:
    """perf.data and record-tgid know the process: no order of threads is needed."""
    threads = Threads(tgids={20: 1, 31: 1, 30: 2, 21: 2, 2: 2})
    rows, attributor = attribute(
        """
        10 0 20 kvm_entry vcpu_id=0
        11 1 31 kvm_entry vcpu_id=1
        12 0 30 kvm_entry vcpu_id=0
        13 1 21 kvm_entry vcpu_id=1
        14 0 2 kvm_set_irq gsi=4 level=1
    """,
        threads=threads,
    )
    assert rows["kvm_entry"] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert rows["kvm_set_irq"] == [(1, None)]
    assert all(vm.certain for vm in attributor.machines.vms)


BORN = """
    {0} 0 {1} kvm_write_tsc_offset vcpu_id={2} previous_tsc_offset=0 next_tsc_offset={4}
    {0} 0 {1} kvm_track_tsc vcpu_id={2} online_vcpus={3}
"""


def test_creation_in_the_recording_groups_by_the_tsc_offset() -> None:
    """Two VMs come up at once; the second vCPU joins the VM whose TSC offset it shares."""
    rows, attributor = attribute(
        BORN.format(1, 13, 0, 1, 500)
        + BORN.format(2, 14, 0, 1, 600)
        + BORN.format(3, 15, 1, 2, 500)
        + "4 0 13 kvm_entry vcpu_id=0\n5 0 14 kvm_entry vcpu_id=0\n6 0 15 kvm_entry vcpu_id=1"
    )
    assert rows["kvm_entry"] == [(0, 0), (1, 0), (0, 1)]
    assert all(vm.certain for vm in attributor.machines.vms)


def test_one_thread_may_run_one_vm_after_the_other() -> None:
    """A new VM begins where the trace shows a first vCPU created; what the thread did before is the old VM's."""
    life = "{0} 0 7 kvm_entry vcpu_id=0\n{0} 0 7 kvm_msr write=0 ecx=1\n"
    rows, attributor = attribute(
        BORN.format(1, 7, 0, 1, 5) + life.format(2) + BORN.format(3, 7, 0, 1, 6) + life.format(4)
    )
    assert rows["kvm_msr"] == [(0, 0), (1, 0)]
    assert [(vm.number, vm.until is None) for vm in attributor.machines.vms] == [(0, False), (1, True)]


def test_a_later_tsc_write_is_no_new_vm() -> None:
    """On a reset the offset is written again, and was not 0 before."""
    again = """
        5 0 7 kvm_write_tsc_offset vcpu_id=0 previous_tsc_offset=9 next_tsc_offset=9
        5 0 7 kvm_track_tsc vcpu_id=0 online_vcpus=1
        6 0 7 kvm_entry vcpu_id=0
    """
    _, attributor = attribute(BORN.format(1, 7, 0, 1, 9) + "2 0 7 kvm_entry vcpu_id=0\n" + again)
    assert len(attributor.machines.vms) == 1


def test_what_is_learnt_late_is_applied_from_the_start() -> None:
    """A thread that shows itself as a vCPU only in the second window was one in the first."""
    rows, _ = attribute("1 0 7 kvm_msr write=0 ecx=1", "2 0 7 kvm_entry vcpu_id=3")
    assert rows["kvm_msr"] == [(0, 3)]


TIMER = "{0} 0 {1} kvm_hv_stimer_start_one_shot vcpu_id=0 timer_index=0 time_now=1000 count={2}\n"
TWO_VMS = "1 0 20 kvm_entry vcpu_id=0\n2 1 30 kvm_entry vcpu_id=0\n"


def test_a_callback_belongs_to_the_vm_whose_timer_was_armed() -> None:
    """Whatever thread the interrupt found: here a vCPU thread of the other VM."""
    rows, _ = attribute(
        TWO_VMS + TIMER.format(10, 20, 2000) + "200000 1 30! kvm_hv_stimer_callback vcpu_id=0 timer_index=0"
    )
    assert rows["kvm_hv_stimer_callback"] == [(0, 0)]


def test_a_callback_that_could_be_either_vms_has_no_vm() -> None:
    """Both timers are armed and due: nothing is guessed."""
    both = TIMER.format(10, 20, 2000) + TIMER.format(11, 30, 2000)
    rows, _ = attribute(TWO_VMS + both + "200000 1 30! kvm_hv_stimer_callback vcpu_id=0 timer_index=0")
    assert rows["kvm_hv_stimer_callback"] == [(None, 0)]


def test_a_callback_belongs_to_the_timer_that_is_due() -> None:
    """Both are armed, one of them for a second later; the state is carried from window to window."""
    rows, _ = attribute(
        TWO_VMS + TIMER.format(10, 20, 2000) + TIMER.format(11, 30, 10_002_000),
        "200000 1 30! kvm_hv_stimer_callback vcpu_id=0 timer_index=0",
    )
    assert rows["kvm_hv_stimer_callback"] == [(0, 0)]


def test_scheduler_events_belong_to_no_vm() -> None:
    """sched_switch on a vCPU thread is the host's."""
    rows, _ = attribute("1 0 7 kvm_entry vcpu_id=0\n2 0 7 sched_wakeup pid=3")
    assert rows["sched_wakeup"] == [(None, None)]


def test_two_real_vms(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two guests at once: vCPU events all have their VM; every callback's VM has the expiration's thread."""
    store = tmp_path_factory.mktemp("two") / "two.hvt"
    manifest = ingest([get("two-vms") / "trace.dat"], store)
    assert [[v["vcpu"] for v in vm["vcpus"]] for vm in manifest.vms] == [[0], [0, 1]]
    entries = pl.read_parquet(store / "events/kvm_entry.parquet")
    assert entries["vm"].null_count() == 0
    callbacks = pl.read_parquet(store / "events/kvm_hv_stimer_callback.parquet")
    assert Counter(callbacks["vm"].to_list()) == {1: 6639}


def test_dozens_of_vms_by_one_thread(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The selftest makes 65 VMs with one vCPU each, one after the other, in one thread."""
    store = tmp_path_factory.mktemp("many") / "many.hvt"
    manifest = ingest([get("selftest-hyperv_features") / "trace.dat"], store)
    assert [[v["vcpu"] for v in vm["vcpus"]] for vm in manifest.vms] == [[0]] * 65
    entries = pl.read_parquet(store / "events/kvm_entry.parquet")
    assert entries["vm"].null_count() == 0
    assert entries["vm"].is_sorted()


def test_what_a_damaged_record_says_breaks_nothing() -> None:
    """A negative thread, a vCPU id no kernel gives: no VM is made of the one, and no vCPU of the other."""
    rows, attributor = attribute("""
        1 0 -5 kvm_entry vcpu_id=0
        2 0 7 kvm_entry vcpu_id=70000
        3 0 8 kvm_entry vcpu_id=0
    """)
    assert rows["kvm_entry"] == [(None, None), (0, None), (0, 0)]
    assert [sorted(vm.vcpus) for vm in attributor.machines.vms] == [[0, 70000]]
