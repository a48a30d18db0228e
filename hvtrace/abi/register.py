"""The words in which a synthetic MSR is declared. No numbers and no behaviour here.

A register is one row: everything that a reader, a legaliser, a rule or a look-up needs is computed from it.
For every reserved field two questions are answered apart: what a read returns, and what a write must hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

__all__ = ["Access", "Exit", "Gate", "Group", "Kind", "Msr", "MsrField", "Reserved", "Scope", "Store"]

_U64 = (1 << 64) - 1


class Scope(Enum):
    """How many copies of the register a VM has."""

    VM = "VM"
    VCPU = "vCPU"


class Access(Enum):
    """What a guest may do; everything else raises #GP."""

    READ = "R"
    WRITE = "W"
    READ_WRITE = "RW"
    NONE = "-"

    @property
    def reads(self) -> bool:
        """A guest may read."""
        return self in (Access.READ, Access.READ_WRITE)

    @property
    def writes(self) -> bool:
        """A guest may write."""
        return self in (Access.WRITE, Access.READ_WRITE)


class Reserved(Enum):
    """What KVM does with a reserved field. The first word tells the read, the second the write."""

    #: A read returns what was written; a write may hold anything (the TLFS asks the guest to preserve it).
    STORED_ANY = "reads as written, any value may be written"
    #: A read returns 0; a write of anything but 0 raises #GP.
    ZERO_FAULTS = "reads 0, a write of non-zero raises #GP"
    #: A read returns 0; a write may hold anything and it is dropped.
    ZERO_DROPPED = "reads 0, any value may be written and is dropped"
    #: A read returns what was written; the TLFS wants zeros, KVM does not look.
    STORED_UNCHECKED = "reads as written; the specification wants 0, KVM does not look"


class Kind(Enum):
    """What a read of the register returns."""

    #: The value last accepted by a write.
    STORED = "stored"
    #: Always the same value, given in `reads`.
    FIXED = "fixed"
    #: A value that does not change while the VM runs.
    CONSTANT = "constant"
    #: A running clock.
    CLOCK = "clock"
    #: State of another unit (the APIC), changed by other accesses as well.
    DEVICE = "device"
    #: Nothing: a read raises #GP.
    NOTHING = "nothing"


class Store(Enum):
    """What a guest write that does not fault leaves behind."""

    #: The value, as far as the fields keep it.
    VALUE = "value"
    #: Nothing: the write is a command.
    COMMAND = "command"
    #: The value, unless a condition of the model drops or changes it.
    MODEL = "model"


class Group(Enum):
    """The unit a register belongs to: what must be switched on for it to exist at all."""

    BASE = "base"
    APIC = "apic"
    SYNIC = "synic"
    STIMER = "stimer"
    SYNDBG = "syndbg"
    CRASH = "crash"
    KVM = "kvm"
    ABSENT = "absent"


class Exit(Enum):
    """The exit to userspace that a guest write brings, and its number in struct kvm_run."""

    NONE = 0
    SYSTEM_EVENT = 24
    HYPERV = 27


@dataclass(frozen=True, slots=True)
class Gate:
    """A CPUID bit: leaf, register ("eax" ... "edx") and bit number."""

    leaf: int
    register: str
    bit: int

    def __str__(self) -> str:
        return f"0x{self.leaf:08x}.{self.register.upper()}[{self.bit}]"


@dataclass(frozen=True, slots=True)
class MsrField:
    """Bits `low` to `high`, both inclusive (`high` None: one bit). `reserved` is None for a field in use."""

    name: str
    low: int
    high: int | None = None
    reserved: Reserved | None = None
    doc: str = ""

    @property
    def mask(self) -> int:
        """The field's bits in place."""
        top = self.low if self.high is None else self.high
        return ((1 << (top - self.low + 1)) - 1) << self.low

    def of(self, value: int) -> int:
        """The field's value in a register value."""
        return (value & self.mask) >> self.low


@dataclass(frozen=True)
class Msr:
    """One model-specific register.

    `gate` is the CPUID bit that KVM demands where it enforces CPUID (None: no gate). `reset` is the value
    after
    creation of the vCPU (None: not a constant). `reads` is the value of a FIXED register. `exits` is the
    userspace
    exit a guest write brings, `exit_when` on which condition. `dispatched` is true where KVM's Hyper-V code
    answers
    for the index, false where it falls through to the unknown-MSR path, which the module parameter
    ignore_msrs
    silences. `since` is the first kernel that has it. `storage` is the index of the register whose storage this one
    shares (None: its own). `spec` names the clause, `doc` says what the register does.
    """

    index: int
    name: str
    scope: Scope
    access: Access
    gate: Gate | None
    kind: Kind
    doc: str
    spec: str
    fields: tuple[MsrField, ...] = ()
    reset: int | None = 0
    store: Store = Store.VALUE
    group: Group = Group.BASE
    reads: int | None = None
    exits: Exit = Exit.NONE
    exit_when: str = ""
    dispatched: bool = True
    since: tuple[int, int] | None = None
    storage: int | None = None

    @property
    def home(self) -> int:
        """Index under which the register's value is kept: two registers may share one storage."""
        return self.index if self.storage is None else self.storage

    @cached_property
    def fault_mask(self) -> int:
        """Bits of which a guest write must hold zeros, or it raises #GP."""
        return _or(f.mask for f in self.fields if f.reserved is Reserved.ZERO_FAULTS)

    @property
    def unchecked_mask(self) -> int:
        """Bits that the specification wants zero and KVM does not look at."""
        return _or(f.mask for f in self.fields if f.reserved is Reserved.STORED_UNCHECKED)

    @cached_property
    def kept_mask(self) -> int:
        """Bits of a write that a later read returns."""
        lost = (Reserved.ZERO_FAULTS, Reserved.ZERO_DROPPED)
        return _U64 & ~_or(f.mask for f in self.fields if f.reserved in lost)

    @property
    def legal_mask(self) -> int:
        """Bits that a read can show."""
        return self.kept_mask if self.fields else _U64

    def field(self, name: str) -> MsrField:
        """The field of that name; KeyError where there is none."""
        for f in self.fields:
            if f.name == name:
                return f
        raise KeyError(f"{self.name} has no field {name!r}")


def _or(masks: Iterable[int]) -> int:
    total = 0
    for mask in masks:
        total |= mask
    return total
