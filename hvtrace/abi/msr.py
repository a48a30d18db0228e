"""Every synthetic MSR: the Hyper-V ones KVM answers for, those it refuses, and KVM's own.

The words are in `register`, the rows in `msr_hyperv`, `msr_synic` and `msr_kvm`.
"""

from __future__ import annotations

from hvtrace.abi.msr_hyperv import BASE_MSRS
from hvtrace.abi.msr_kvm import KVM_MSRS
from hvtrace.abi.msr_synic import SYNIC_MSRS
from hvtrace.abi.register import Msr

__all__ = [
    "DISPATCHED",
    "KVM_RANGE",
    "MSRS",
    "SYNTHETIC_RANGE",
    "by_index",
    "by_name",
    "is_synthetic",
    "msr_name",
]

MSRS: tuple[Msr, ...] = tuple(sorted((*BASE_MSRS, *SYNIC_MSRS, *KVM_MSRS), key=lambda msr: msr.index))

#: Indices (both inclusive) that belong to Hyper-V, known or not.
SYNTHETIC_RANGE = (0x4000_0000, 0x4000_01FF)
#: Indices (both inclusive) of KVM's own range.
KVM_RANGE = (0x4B56_4D00, 0x4B56_4DFF)

#: Where KVM's Hyper-V code itself answers for every index: an unknown one raises #GP whatever the module
#: parameter
#: ignore_msrs says (the case ranges of kvm_set_msr_common). Both ends inclusive.
DISPATCHED: tuple[tuple[int, int], ...] = (
    (0x4000_0000, 0x4000_009F),
    (0x4000_00B0, 0x4000_00B7),
    (0x4000_00F1, 0x4000_00F5),
    (0x4000_00FF, 0x4000_00FF),
    (0x4000_0100, 0x4000_0108),
)

_BY_INDEX: dict[int, Msr] = {msr.index: msr for msr in MSRS}
_BY_NAME: dict[str, Msr] = {msr.name: msr for msr in MSRS}


def by_index(index: int) -> Msr | None:
    """The row of an index; None where no row has it."""
    return _BY_INDEX.get(index)


def by_name(name: str) -> Msr | None:
    """The row of a name, in any case, in full or without its prefix (HV_X64_MSR_, MSR_KVM_); None: no such
    row.
    """
    upper = name.upper()
    for prefix in ("", "HV_X64_MSR_", "MSR_KVM_", "HV_X64_MSR_SYNDBG_"):
        if (row := _BY_NAME.get(prefix + upper)) is not None:
            return row
    return None


def msr_name(index: int) -> str | None:
    """Name of an index, None where it is none of ours."""
    row = _BY_INDEX.get(index)
    return None if row is None else row.name


def is_synthetic(index: int) -> bool:
    """Whether an index is in Hyper-V's or KVM's range, or one of KVM's two old ones."""
    low = SYNTHETIC_RANGE[0] <= index <= SYNTHETIC_RANGE[1]
    return low or KVM_RANGE[0] <= index <= KVM_RANGE[1] or index in (0x11, 0x12)
