"""The tape: a store's tables as one stream of events in time order."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from hvtrace.replay.tape import NO_PLACE, OTHER_MSR, Table, events, place_of, text_of


def table(rows: list[dict[str, object]]) -> Table:
    """A table of rows, read in batches of two."""
    whole = pa.Table.from_pylist(rows)

    def read(columns: list[str], size: int) -> Iterator[pa.RecordBatch]:
        yield from whole.select(columns).to_batches(max_chunksize=2)

    return Table(len(rows), read)


def row(seq: int, vm: int | None = 0, vcpu: int | None = 0, **fields: object) -> dict[str, object]:
    return {"seq": seq, "ts_ns": 10 * seq, "vm": vm, "vcpu": vcpu, "tid": 7, **fields}


def test_tables_are_merged_by_seq_and_counted() -> None:
    """Events come in the order of seq, whatever table they are in; each with its place and its fields."""
    tables = {
        "kvm_entry": table([row(n, rip=n) for n in (0, 3, 4, 9, 10)]),
        "kvm_hv_stimer_callback": table([row(n, vm=None, vcpu=1, timer_index=2) for n in (5, 6)]),
        "kvm_hv_hypercall_done": table([row(8, vm=None, vcpu=None, result=0)]),
    }
    counts: dict[str, int] = {}
    found = [event for window in events(tables, counts) for event in window]
    assert [event[0] for event in found] == [0, 3, 4, 5, 6, 8, 9, 10]
    assert found[0] == (0, 0, "kvm_entry", place_of(0, 0), 7, 0)
    assert found[3] == (5, 50, "kvm_hv_stimer_callback", place_of(None, 1), 7, 2)
    assert found[5][3] == NO_PLACE
    assert counts == {"kvm_entry": 5, "kvm_hv_stimer_callback": 2, "kvm_hv_hypercall_done": 1}


def test_only_synthetic_registers_and_hypervisor_leaves_are_on_it() -> None:
    """CPUID leaves of the processor are left out; accesses to other MSRs have another name and are not counted."""
    msr = {"write": 1, "data": 0, "exception": 0}
    cpuid = {"rax": 0, "rbx": 0, "rcx": 0, "rdx": 0, "found": True, "used_max_basic": False}
    tables = {
        "kvm_msr": table([row(n, ecx=e, **msr) for n, e in enumerate((0x6E0, 0x40000020, 0x4B564D01, 0x12))]),
        "kvm_cpuid": table([row(9, function=0x1, **cpuid), row(10, function=0x40000003, **cpuid)]),
    }
    counts: dict[str, int] = {}
    told = [event for window in events(tables, counts) for event in window]
    assert [event[0] for event in told] == [0, 1, 2, 3, 10]
    assert [event[0] for event in told if event[2] == OTHER_MSR] == [0]
    assert counts == {"kvm_msr": 3, "kvm_cpuid": 1}


def test_fields_that_are_not_there_are_none() -> None:
    """A null in the table is None in the event."""
    found = [
        event
        for window in events({"kvm_entry": table([row(0, rip=None), row(1, rip=5)])})
        for event in window
    ]
    assert [event[5] for event in found] == [None, 5]


def test_an_event_in_words_has_its_fields() -> None:
    """Addresses and register values are hexadecimal, counts are not."""
    event = (3, 30, "kvm_hv_stimer_set_config", 0, 7, 1, 0x20003, False)
    assert text_of(event) == "3 kvm_hv_stimer_set_config timer_index=1 config=0x20003 host=0"


def test_rows_without_a_field_the_model_needs_are_left_out() -> None:
    """A callback of no timer says nothing; it neither counts nor crashes."""
    rows = [row(0, timer_index=None), row(1, timer_index=3)]
    counts: dict[str, int] = {}
    found = [
        event[0] for window in events({"kvm_hv_stimer_callback": table(rows)}, counts) for event in window
    ]
    assert (found, counts) == ([1], {"kvm_hv_stimer_callback": 1})
