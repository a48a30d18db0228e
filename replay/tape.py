"""The tape: the events the model consumes, in time order, one tuple each.

The tables come as Arrow record batches, column by column; a tape holds a few batches a table at a time, so
that
memory does not grow with the recording. An event is

    (seq, ts_ns, tracepoint, place, tid, *fields)

where `place` is `vm << 16 | vcpu`, or `-2 - vcpu` where the VM is not known, or -1 where there is no vCPU,
and `fields` are those of TAPE in their order (None where the recording has none). The `place` of an event of
QEMU's is that of its VM (`home_of`), or -1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hvtrace.abi.msr import KVM_RANGE, SYNTHETIC_RANGE
from hvtrace.replay.fold import ENTRY, MSR, OTHER, Rows, fold, kind_of_exits, kind_of_returns

__all__ = [
    "FIELDS",
    "HOME",
    "NO_PLACE",
    "OTHER_MSR",
    "QEMU_TAPE",
    "TAPE",
    "Event",
    "Table",
    "events",
    "home_of",
    "place_of",
    "text_of",
]

Event = tuple[Any, ...]

#: Trace events of QEMU's that the model consumes, with the fields it looks at.
QEMU_TAPE: dict[str, tuple[str, ...]] = {
    "vmbus_recv_message": ("type", "size"),
    "vmbus_process_incoming_message": ("message_type",),
    "vmbus_initiate_contact": ("major", "minor", "vcpu_field"),
    "vmbus_gpadl_header": ("gpadl_id", "num_gfns"),
    "vmbus_gpadl_body": ("gpadl_id",),
    "vmbus_gpadl_teardown": ("gpadl_id",),
    "vmbus_open_channel": ("chan_id", "gpadl_id"),
    "vmbus_close_channel": ("chan_id",),
    "vmbus_send_offer": ("chan_id",),
    "vmbus_terminate_offers": (),
    "vmbus_gpadl_created": ("gpadl_id",),
    "vmbus_gpadl_torndown": ("gpadl_id",),
    "vmbus_channel_open": ("chan_id", "status"),
    "vmbus_post_msg": ("type", "size"),
    "vmbus_msg_cb": ("status",),
    "vmbus_channel_notify_guest": ("chan_id",),
}

#: The tracepoints the model consumes, with the fields it looks at.
TAPE: dict[str, tuple[str, ...]] = {
    "kvm_entry": ("rip",),
    "kvm_exit": ("exit_reason", "isa"),
    "kvm_userspace_exit": ("reason", "errno"),
    "kvm_msr": ("write", "ecx", "data", "exception"),
    "kvm_cpuid": ("function", "rax", "rbx", "rcx", "rdx", "found", "used_max_basic"),
    "kvm_hypercall": ("nr", "a0", "a1", "a2", "a3"),
    "kvm_hv_hypercall": ("code", "fast", "var_cnt", "rep_cnt", "rep_idx", "ingpa", "outgpa"),
    "kvm_hv_hypercall_done": ("result",),
    "kvm_hv_flush_tlb": ("processor_mask", "address_space", "flags", "guest_mode"),
    "kvm_hv_flush_tlb_ex": ("valid_bank_mask", "format", "address_space", "flags", "guest_mode"),
    "kvm_hv_send_ipi": ("vector", "processor_mask"),
    "kvm_hv_send_ipi_ex": ("vector", "format", "valid_bank_mask"),
    "kvm_hv_synic_set_msr": ("msr", "data", "host"),
    "kvm_hv_synic_set_irq": ("sint", "vector", "ret"),
    "kvm_hv_synic_send_eoi": ("vector",),
    "kvm_hv_notify_acked_sint": ("sint",),
    "kvm_hv_stimer_set_config": ("timer_index", "config", "host"),
    "kvm_hv_stimer_set_count": ("timer_index", "count", "host"),
    "kvm_hv_stimer_start_periodic": ("timer_index", "time_now", "exp_time"),
    "kvm_hv_stimer_start_one_shot": ("timer_index", "time_now", "count"),
    "kvm_hv_stimer_callback": ("timer_index",),
    "kvm_hv_stimer_expiration": ("timer_index", "direct", "msg_send_result"),
    "kvm_hv_stimer_cleanup": ("timer_index",),
    "kvm_hv_syndbg_set_msr": ("msr", "data", "vp_index"),
    "kvm_hv_syndbg_get_msr": ("msr", "data", "vp_index"),
    "kvm_apic": ("rw", "reg", "val"),
    "kvm_apic_ipi": ("icr_low", "dest_id"),
    "kvm_apic_accept_irq": ("vec", "dm", "tm"),
    "kvm_apicv_accept_irq": ("vec", "dm", "tm"),
    "kvm_apicv_inhibit_changed": ("reason", "set", "inhibits"),
    "kvm_eoi": ("vector",),
    "kvm_pv_eoi": ("vector",),
    "kvm_inj_virq": ("vector", "soft", "reinjected"),
    "kvm_inj_exception": ("exception",),
    "kvm_halt_poll_ns": ("grow", "new", "old"),
    "kvm_vcpu_wakeup": ("ns", "waited", "valid"),
    "kvm_update_master_clock": ("use_master_clock", "host_clock", "offset_matched"),
    "kvm_write_tsc_offset": ("previous_tsc_offset", "next_tsc_offset"),
    "kvm_pvclock_update": (
        "version",
        "tsc_timestamp",
        "system_time",
        "tsc_to_system_mul",
        "tsc_shift",
        "flags",
    ),
    "kvm_pv_tlb_flush": ("need_flush_tlb",),
    "kvm_try_async_get_page": ("gva", "gfn"),
    "kvm_async_pf_repeated_fault": ("gva", "gfn"),
    "kvm_async_pf_not_present": ("token", "gva"),
    "kvm_async_pf_ready": ("token", "gva"),
    "kvm_nested_vmenter": ("rip",),
    "kvm_nested_vmexit": ("exit_reason", "isa"),
    "kvm_nested_vmexit_inject": ("exit_code", "isa"),
    **QEMU_TAPE,
}

#: Fields a kernel, a carrier or a layout may lack; without any other, a row cannot be used and is left out.
OPTIONAL = frozenset(
    {
        "rip",
        "exit_reason",
        "isa",
        "reason",
        "errno",
        "found",
        "used_max_basic",
        "vp_index",
        "var_cnt",
        "guest_mode",
        "soft",
        "reinjected",
        "tm",
    }
)

#: Position of an event's first own field, and the `place` of an event that belongs to no vCPU.
FIELDS = 5
NO_PLACE = -1

#: `place` of an event of VM 0 that is no vCPU's; below it are those of the other VMs. (A vCPU's number has 16 bits.)
HOME = -2 - (1 << 16)

#: Name under which an access to another than a synthetic MSR stands on the tape: only that there was one matters.
OTHER_MSR = "kvm_msr of another register"

#: Name of a mark that stands for entries of a vCPU which were left out, and where a vCPU starts.
FOLDED = "entries left out"
RESET_VECTOR = 0xFFF0

#: Tracepoints that must follow a return to userspace where a guest uses what they show.
ASKING = ("kvm_pv_tlb_flush", "kvm_nested_vmenter")

#: Rows of one table held at a time.
BATCH = 1 << 14

_COMMON = ("seq", "ts_ns", "vm", "vcpu", "tid")

#: Columns of a piece that all tables share.
_SHARED = 4


class Table(NamedTuple):
    """One tracepoint's table: its rows, and how to read columns of it in batches of at most some rows."""

    rows: int
    read: Callable[[list[str], int], Iterator[pa.RecordBatch]]


def place_of(vm: int | None, vcpu: int | None) -> int:
    """`place` of an event of a vCPU in a VM, either of which may be unknown."""
    if vcpu is None:
        return NO_PLACE
    return -2 - vcpu if vm is None else vm << 16 | vcpu


def home_of(vm: int | None) -> int:
    """`place` of an event that is a VM's and no vCPU's."""
    return NO_PLACE if vm is None else HOME - vm


def text_of(event: Event) -> str:
    """An event in words, for people: its rank, its tracepoint and its fields."""
    fields = TAPE.get(event[2])
    if fields is None:
        return f"{event[0]} {event[2]}"
    shown = " ".join(
        f"{name}={_shown(name, value)}" for name, value in zip(fields, event[FIELDS:], strict=True)
    )
    return f"{event[0]} {event[2]} {shown}".rstrip()


_HEXADECIMAL = frozenset(
    {"ecx", "msr", "data", "config", "function", "rax", "rbx", "rcx", "rdx", "rip", "result", "code"}
)


def _shown(name: str, value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return f"0x{value:x}" if name in _HEXADECIMAL and isinstance(value, int) else str(value)


def events(
    tables: Mapping[str, Table], counts: dict[str, int] | None = None, *, folding: bool = False
) -> Iterator[list[Event]]:
    """Yield the tape of a store in lists of events, in the order of `seq`.

    `counts` is filled with the number of events of each tracepoint that were put on the tape. With `folding`,
    exits in which nothing happens that the model looks at are replaced by marks: events named FOLDED whose one
    field says how many entries they stand for.
    """
    # Where a return to userspace asks for something, it is not dull.
    inner = not any(name in tables and tables[name].rows for name in ASKING)
    readers = [_Reader(name, tables[name], counts, inner=inner) for name in TAPE if name in tables]
    while live := [reader for reader in readers if reader.fill()]:
        # Every table that has more rows is known up to its last buffered one: up to there the order is
        # certain.
        until = min((r.last for r in live if r.more), default=None)
        pieces = [piece for reader in live if len((piece := reader.take(until)).kind)]
        window: list[Event] = []
        if folding:
            pieces, window = _folded(pieces)
        for piece in pieces:
            window += piece.events()
        # Runs in order already: timsort merges them.
        window.sort(key=itemgetter(0))
        yield window


class _Piece(NamedTuple):
    """Rows of one table: the columns `seq`, `ts_ns`, `place`, `tid` and its own, and what each row is to folding."""

    name: str
    columns: list[npt.NDArray[Any]]
    kind: Rows

    def rows(self, which: slice | npt.NDArray[np.bool_]) -> _Piece:
        """Some of the rows."""
        return _Piece(self.name, [column[which] for column in self.columns], self.kind[which])

    def events(self) -> list[Event]:
        """The rows as events."""
        if self.name != "kvm_msr":
            return _events(self.name, self.columns)
        told = self.kind != MSR
        others = _events(OTHER_MSR, [column[~told] for column in self.columns[:_SHARED]])
        return _events(self.name, [column[told] for column in self.columns]) + others


class _Reader:
    """One table, batch by batch. `inner`: returns to userspace may be dull."""

    def __init__(self, name: str, table: Table, counts: dict[str, int] | None, *, inner: bool) -> None:
        self.name = name
        self.batches = table.read([*_COMMON, *TAPE[name]], BATCH)
        self.piece = _Piece(name, [np.empty(0, dtype=np.int64)], np.empty(0, dtype=np.int64))
        self.more = True
        self.counts = counts
        self.inner = inner

    @property
    def last(self) -> int:
        """Rank of the last row that is held."""
        return int(self.piece.columns[0][-1])

    def fill(self) -> bool:
        """Hold at least one row; False where the table is at its end."""
        while not len(self.piece.kind) and self.more:
            batch = next(self.batches, None)
            if batch is None:
                self.more = False
                continue
            self.piece = self._piece(_complete(self.name, _wanted(self.name, batch)))
            if self.counts is not None:
                told = int(np.count_nonzero(self.piece.kind != MSR))
                self.counts[self.name] = self.counts.get(self.name, 0) + told
        return bool(len(self.piece.kind))

    def take(self, until: int | None) -> _Piece:
        """Hand over the rows up to and with that rank; None: all."""
        piece, seq = self.piece, self.piece.columns[0]
        cut = len(seq) if until is None else int(np.searchsorted(seq, until, side="right"))
        self.piece = piece.rows(slice(cut, None))
        return piece.rows(slice(0, cut))

    def _piece(self, batch: pa.RecordBatch) -> _Piece:
        seq, stamp, tid = (_numbers(batch, name, -1) for name in ("seq", "ts_ns", "tid"))
        own = [_values(batch.column(batch.schema.get_field_index(field))) for field in TAPE[self.name]]
        kind = _kinds(self.name, batch, inner=self.inner)
        place = _homes(batch) if self.name in QEMU_TAPE else _places(batch)
        return _Piece(self.name, [seq, stamp, place, tid, *own], kind)


def _folded(pieces: list[_Piece]) -> tuple[list[_Piece], list[Event]]:
    """The rows of a window that are to be replayed, and the marks that stand for the others."""
    seq, stamp, place, tid = (
        np.concatenate([piece.columns[number] for piece in pieces]) for number in range(_SHARED)
    )
    order = np.argsort(seq, kind="stable")
    kind = np.concatenate([piece.kind for piece in pieces])
    keep = np.ones(len(seq), dtype=np.bool_)
    keep[order], at, entries = fold(place[order], kind[order])
    if not len(at):
        return pieces, []
    at = order[at]
    marks = _events(FOLDED, [seq[at], stamp[at], place[at], tid[at], entries])
    kept = []
    begin = 0
    for piece in pieces:
        wanted = keep[begin : begin + len(piece.kind)]
        begin += len(piece.kind)
        kept.append(piece if wanted.all() else piece.rows(wanted))
    return kept, marks


def _kinds(name: str, batch: pa.RecordBatch, *, inner: bool) -> Rows:
    """What each row is to folding."""
    if name == "kvm_entry":
        return np.where(_numbers(batch, "rip", 0) == RESET_VECTOR, OTHER, ENTRY)
    if name == "kvm_exit":
        return kind_of_exits(_numbers(batch, "exit_reason", -1), _numbers(batch, "isa", -1))
    if name == "kvm_userspace_exit" and inner:
        return kind_of_returns(_numbers(batch, "reason", -1), _numbers(batch, "errno", 0))
    if name == "kvm_msr":
        return np.where(_told(_numbers(batch, "ecx", 0)), OTHER, MSR)
    return np.full(batch.num_rows, OTHER, dtype=np.int64)


def _numbers(batch: pa.RecordBatch, name: str, missing: int) -> Rows:
    """A column as 64-bit numbers; u64 wraps."""
    column = batch.column(batch.schema.get_field_index(name))
    if not column.null_count:
        return np.asarray(column).astype(np.int64)
    if column.null_count == len(column):
        return np.full(len(column), missing, dtype=np.int64)
    numbers = np.asarray(column.fill_null(0)).astype(np.int64)
    numbers[np.asarray(column.is_null())] = missing
    return numbers


def _places(batch: pa.RecordBatch) -> Rows:
    """`place` of each row."""
    vm, vcpu = _numbers(batch, "vm", -1), _numbers(batch, "vcpu", -1)
    return np.where(vcpu < 0, NO_PLACE, np.where(vm < 0, -2 - vcpu, vm << 16 | vcpu))


def _homes(batch: pa.RecordBatch) -> Rows:
    """`place` of each row of an event of QEMU's."""
    vm = _numbers(batch, "vm", -1)
    return np.where(vm < 0, NO_PLACE, HOME - vm)


def _events(name: str, columns: list[npt.NDArray[Any]]) -> list[Event]:
    """Rows as events of a name."""
    seq, stamp, *others = (column.tolist() for column in columns)
    return list(zip(seq, stamp, repeat(name), *others, strict=False))


def _complete(name: str, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Leave out rows that lack a field the model cannot do without."""
    # QEMU does not always say in which thread it traced.
    common = ("seq", "ts_ns") if name in QEMU_TAPE else ("seq", "ts_ns", "tid")
    for field in (*common, *TAPE[name]):
        column = batch.column(batch.schema.get_field_index(field))
        if field not in OPTIONAL and column.null_count:
            batch = batch.filter(column.is_valid())
    return batch


def _values(column: pa.Array) -> npt.NDArray[Any]:
    """A column as values, None where there is none."""
    if not column.null_count:
        return np.asarray(column.to_numpy(zero_copy_only=False))
    values = np.empty(len(column), dtype=np.object_)
    if column.null_count < len(column):
        values[:] = column.to_pylist()
    return values


def _wanted(name: str, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Leave out the leaves that are no hypervisor's."""
    if name == "kvm_cpuid":
        leaf = _numbers(batch, "function", 0)
        return batch.filter(pa.array((leaf >= 0x4000_0000) & (leaf <= 0x4000_01FF)))
    return batch


def _told(number: Rows) -> npt.NDArray[np.bool_]:
    """Which MSRs the model consumes (see `abi.msr.is_synthetic`)."""
    told = (number >= SYNTHETIC_RANGE[0]) & (number <= SYNTHETIC_RANGE[1])
    told |= (number >= KVM_RANGE[0]) & (number <= KVM_RANGE[1])
    told |= (number == 0x11) | (number == 0x12)
    return told
