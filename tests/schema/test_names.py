"""Decoded names beside numbers."""

from __future__ import annotations

import numpy as np
import pytest

from hvtrace.schema.names import decoded
from hvtrace.schema.registry import BY_NAME


def test_exit_reasons_depend_on_the_instruction_set() -> None:
    """VMX reasons are named by their low 16 bits, SVM codes as a whole; an unknown one has no name."""
    (named,) = BY_NAME["kvm_exit"].names
    #                VMX flag + 33, SVM npf, SVM error, no such code, null
    reasons = np.array([0x8000_0021, 0x400, 0xFFFF_FFFF, 9999, 0x400], dtype=np.uint32)
    isa = np.array([1, 2, 2, 2, 2], dtype=np.uint32)
    valid = np.array([True, True, True, True, False])
    names = ["INVALID_STATE", "npf", "invalid_guest_state", None, None]
    assert decoded(named, reasons, isa, valid).to_pylist() == names


@pytest.mark.parametrize(
    ("event", "column", "number", "name"),
    [
        ("kvm_userspace_exit", "reason_name", 27, "KVM_EXIT_HYPERV"),
        ("kvm_userspace_exit", "reason_name", 37, "KVM_EXIT_NOTIFY"),
        ("kvm_msr", "msr_name", 0x4000_00B0, "HV_X64_MSR_STIMER0_CONFIG"),
        ("kvm_msr", "msr_name", 0x1234, None),
        ("kvm_hv_synic_set_msr", "msr_name", 0x4000_0084, "HV_X64_MSR_EOM"),
        ("kvm_hv_hypercall", "code_name", 0x5C, "HvCallPostMessage"),
        ("kvm_hypercall", "nr_name", 10, "KVM_HC_SEND_IPI"),
    ],
)
def test_numbers_have_the_interface_names(event: str, column: str, number: int, name: str | None) -> None:
    (named,) = [n for n in BY_NAME[event].names if n.column == column]
    assert decoded(named, np.array([number], dtype=np.uint64)).to_pylist() == [name]


def test_no_rows_give_no_names() -> None:
    (named,) = BY_NAME["kvm_msr"].names
    assert decoded(named, np.array([], dtype=np.uint32)).to_pylist() == []
