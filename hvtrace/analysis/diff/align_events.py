"""Which events two runs of the same program must share, and by which fields. A new kind is a new row of KINDS.

What time decides is no part of an event's identity: clocks, counts and deadlines, how often something was polled, when
an interrupt came. So each vCPU has several sequences. `program` is what the guest does in its own order: CPUID, MSRs
that configure. What interrupts and timers bring in between (EOI, EOM, deadlines, IPIs) would stand elsewhere in it in
each run: each of these has a sequence of its own, and so have hypercalls, by code. Of equal events that follow each
other in a sequence the first counts. Guest physical addresses are the guest allocator's choice and do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from hvtrace.abi import msr
from hvtrace.abi.msr_synic import STIMERS
from hvtrace.abi.register import Kind as Register
from hvtrace.abi.status import status_name
from hvtrace.schema.names import NAME_TABLES

__all__ = ["BELONGS", "KINDS", "PROGRAM", "Kind", "by_chance", "described", "sequence_name"]

#: The sequence of what the guest does in its own order.
PROGRAM = 0

#: Where other sequences' numbers begin; the low 32 bits say which one.
_MSR, _HYPERCALL, _KVM_CALL, _SINT, _USERSPACE, _PERIOD, _GROWTH, _SHRINKAGE = (
    kind << 32 for kind in range(1, 9)
)

#: Of these, time decides whether there are any events at all.
_BY_CHANCE = (_MSR, _PERIOD, _GROWTH, _SHRINKAGE)

_LOW = 0xFFFFFFFF


def _indices(*names: str) -> tuple[int, ...]:
    return tuple(row.index for name in names if (row := msr.by_name(name)) is not None)


#: IA32_TSC, MPERF, APERF, TSC_DEADLINE, and the counts of the x2APIC's timer.
_X86_CLOCKS = (0x10, 0xE7, 0xE8, 0x6E0, 0x838, 0x839)

_COUNTS = _indices(*(f"STIMER{timer}_COUNT" for timer in range(STIMERS)))

#: Read, these never go back; when they are read, and how far they have come, time decides.
_CLOCKS = tuple(row.index for row in msr.MSRS if row.kind is Register.CLOCK)

#: Whose values time decides, or the host's calibration, or what an interrupt wants that time brought about.
_VALUELESS = (*_CLOCKS, *_COUNTS, *_X86_CLOCKS, *_indices("TSC_FREQUENCY", "ICR"), 0x830)

#: The end of an interrupt, by either interface, and of a message.
_EOI, _EOM = (*_indices("EOI"), 0x80B), _indices("EOM")

#: What interrupts and timers bring in between: each has a sequence of its own.
_BETWEEN = (
    *_CLOCKS,
    *_COUNTS,
    *_X86_CLOCKS,
    *_indices("EOI", "ICR", "TPR", "EOM", "ASYNC_PF_ACK"),
    *range(0x800, 0x838),
)

#: CPUID leaves that tell frequencies: the host's calibration decides them.
_FREQUENCIES = (0x15, 0x16, 0x40000010)

#: CPUID leaves whose subleaf counts; for others ECX holds whatever it held.
_WITH_SUBLEAVES = (0x4, 0x7, 0xB, 0xD, 0xF, 0x10, 0x12, 0x14, 0x17, 0x18, 0x1A, 0x1B, 0x1D, 0x1F, 0x8000001D)

#: Tracepoints that say what KVM did about an access, or what a guest set, where both recordings have them.
BELONGS = (
    "kvm_entry",
    "kvm_eoi",
    "kvm_hv_notify_acked_sint",
    "kvm_hv_send_ipi",
    "kvm_apic_accept_irq",
    "kvm_hv_stimer_set_count",
)


#: MSR index → the bits of its value that count, where not all do: an address is the guest allocator's choice.
_MASKS = {
    row.index: gone ^ ((1 << 64) - 1)
    for row in msr.MSRS
    if (gone := sum(own.mask for own in row.fields if own.name in ("gpn", "address")))
}


def _value(index: str, data: str) -> pl.Expr:
    """The part of a register's value that counts; null where time decides it."""
    mask = pl.col(index).replace_strict(
        list(_MASKS), list(_MASKS.values()), default=(1 << 64) - 1, return_dtype=pl.UInt64
    )
    return pl.when(~pl.col(index).is_in(_VALUELESS)).then(pl.col(data) & mask)


_NOT_POLLED = pl.lit(None, pl.UInt64)

#: What is read, and how often a timer had been set before: reads before and after do not wait for the same.
_READ = pl.col("ecx").cast(pl.UInt64) + (
    (pl.col("ecx").is_in(_COUNTS) & (pl.col("write") != 0)).cast(pl.UInt64).cum_sum().over("vm", "vcpu")
    * (1 << 32)
)


@dataclass(frozen=True, slots=True)
class Kind:
    """Events of one tracepoint that count: which sequence each belongs to, and what makes two of them the same.

    `text` says what an event is, of its identity and `shown`. `polled` is what is read, where a guest may read it again
    and again until it is as expected: null for all else.
    """

    tracepoint: str
    sequence: pl.Expr
    identity: dict[str, pl.Expr]
    text: Callable[[Mapping[str, Any]], str]
    where: pl.Expr | None = None
    polled: pl.Expr = _NOT_POLLED
    shown: tuple[str, ...] = ()


def _number(base: int, column: str) -> pl.Expr:
    return pl.lit(base, pl.UInt64) + pl.col(column).cast(pl.UInt64)


def _msr_text(row: Mapping[str, Any]) -> str:
    name = NAME_TABLES["msr"].get(row["ecx"], f"MSR {row['ecx']:#x}")
    what = f"{'write' if row['write'] else 'read'} {name} = {row['shown_data']:#x}"
    what += " (#GP)" if row["exception"] else ""
    what += ", less than before" if row["backwards"] else ""
    if row["answered"] is not None:
        answer = "EOI" if row["ecx"] in _EOI else "acknowledgement"
        what += f", followed by {row['answered']} {answer}{'' if row['answered'] == 1 else 's'}"
    return what


def _hypercall_text(row: Mapping[str, Any]) -> str:
    name = NAME_TABLES["hv_hypercall"].get(row["code"], f"hypercall {row['code']:#06x}")
    status = status_name(row["status"]) or f"{row['status']:#x}"
    return f"{name}{' (fast)' if row['fast'] else ''} → {status}{_MISDIRECTED.get(row['misdirected'], '')}"


_MISDIRECTED = {True: ", not accepted by just those asked for"}


def _cpuid_text(row: Mapping[str, Any]) -> str:
    values = " ".join(f"{name[1:]} {row[f'shown_{name}']:#x}" for name in _REGISTERS)
    subleaf = "" if row["index"] is None else f" subleaf {row['index']:#x}"
    return f"CPUID {row['function']:#x}{subleaf}: {values}"


_REGISTERS = ("rax", "rbx", "rcx", "rdx")

_GUEST = pl.col("ecx")

KINDS: tuple[Kind, ...] = (
    Kind(
        "kvm_cpuid",
        pl.lit(PROGRAM, pl.UInt64),
        {
            "function": pl.col("function"),
            "index": pl.when(pl.col("function").is_in(_WITH_SUBLEAVES)).then(pl.col("index")),
            **{
                name: pl.when(~pl.col("function").is_in(_FREQUENCIES)).then(pl.col(name) & _LOW)
                for name in _REGISTERS
            },
        },
        _cpuid_text,
        shown=_REGISTERS,
    ),
    Kind(
        "kvm_msr",
        pl.when(_GUEST.is_in(_BETWEEN)).then(_number(_MSR, "ecx")).otherwise(pl.lit(PROGRAM, pl.UInt64)),
        {
            "write": pl.col("write"),
            "ecx": _GUEST,
            "exception": pl.col("exception"),
            "data": _value("ecx", "data"),
            # A clock that goes back, though its value does not count.
            "backwards": (
                _GUEST.is_in(_CLOCKS)
                & (pl.col("write") == 0)
                & (pl.col("data") < pl.col("data").shift(1).over("vm", "vcpu", "ecx", "write"))
            ).fill_null(value=False),
            "answered": pl.when(_GUEST.is_in(_EOI) & (pl.col("write") != 0))
            .then(pl.col("eois"))
            .when(_GUEST.is_in(_EOM) & (pl.col("write") != 0))
            .then(pl.col("acks")),
        },
        _msr_text,
        polled=pl.when((pl.col("sequence") == PROGRAM) & (pl.col("write") == 0)).then(_READ),
        shown=("data",),
    ),
    # Traced when the hypercall ends; what it was is filled in from where it began.
    Kind(
        "kvm_hv_hypercall_done",
        _number(_HYPERCALL, "code"),
        {
            "code": pl.col("code"),
            "fast": pl.col("fast"),
            "status": pl.col("result") & 0xFFFF,
            # A call that failed sends nothing.
            "misdirected": pl.when(pl.col("result") & 0xFFFF == 0).then(pl.col("misdirected")),
        },
        _hypercall_text,
    ),
    Kind(
        "kvm_hypercall",
        _number(_KVM_CALL, "nr"),
        {"nr": pl.col("nr")},
        lambda row: NAME_TABLES["kvm_hypercall"].get(row["nr"], f"KVM hypercall {row['nr']}"),
    ),
    Kind(
        "kvm_hv_synic_set_irq",
        _number(_SINT, "sint"),
        {"sint": pl.col("sint"), "vector": pl.col("vector")},
        lambda row: f"SINT {row['sint']} raises vector {row['vector']:#x}",
    ),
    Kind(
        "kvm_hv_synic_set_msr",
        pl.lit(_USERSPACE, pl.UInt64),
        {"msr": pl.col("msr"), "data": _value("msr", "data")},
        lambda row: (
            f"userspace sets {NAME_TABLES['msr'].get(row['msr'], hex(row['msr']))} = {row['shown_data']:#x}"
        ),
        pl.col("host"),
        shown=("data",),
    ),
    Kind(
        "kvm_hv_stimer_set_config",
        pl.lit(_USERSPACE, pl.UInt64),
        {"timer": pl.col("timer_index"), "config": pl.col("config")},
        lambda row: f"userspace sets STIMER{row['timer']}_CONFIG = {row['config']:#x}",
        pl.col("host"),
    ),
    # When a timer expires time decides, but not by how much the next expiry follows.
    Kind(
        "kvm_hv_stimer_start_periodic",
        _number(_PERIOD, "timer_index"),
        {"timer": pl.col("timer_index"), "astray": pl.col("astray").fill_null(value=False)},
        lambda row: (
            f"STIMER{row['timer']} expires at {row['shown_exp_time']}"
            + (
                f", no multiple of its period {row['shown_period']} after the time before"
                if row["astray"]
                else ""
            )
        ),
        shown=("exp_time", "period"),
    ),
    # When a polling time changes time decides, but not from what to what.
    Kind(
        "kvm_halt_poll_ns",
        pl.when("grow").then(_number(_GROWTH, "old")).otherwise(_number(_SHRINKAGE, "old")),
        {"grow": pl.col("grow"), "old": pl.col("old"), "new": pl.col("new")},
        lambda row: (
            f"polling time {'grows' if row['grow'] else 'shrinks'} from {row['old']} to {row['new']} ns"
        ),
    ),
)


def by_chance(number: int) -> bool:
    """Whether time decides if a sequence has events at all."""
    return number - (number & _LOW) in _BY_CHANCE


def described(kind: Kind, row: Mapping[str, Any]) -> str:
    """What an event is, in words; `row` has its identity, and what is `shown` as shown_NAME."""
    return kind.text(row)


def sequence_name(number: int) -> str:
    """Name of a sequence."""
    low = number & _LOW
    names = {
        PROGRAM: "program",
        _MSR: NAME_TABLES["msr"].get(low, f"MSR {low:#x}"),
        _HYPERCALL: NAME_TABLES["hv_hypercall"].get(low, f"hypercall {low:#06x}"),
        _KVM_CALL: NAME_TABLES["kvm_hypercall"].get(low, f"KVM hypercall {low}"),
        _SINT: f"SINT {low}",
        _USERSPACE: "userspace",
        _PERIOD: f"STIMER{low} period",
        _GROWTH: f"polling time grows from {low}",
        _SHRINKAGE: f"polling time shrinks from {low}",
    }
    return names[number - low]
