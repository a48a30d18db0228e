"""The interface tables agree with themselves and with published values."""

from __future__ import annotations

from itertools import pairwise

import pytest

from hvtrace.abi.cpuid import BITS, bit_name
from hvtrace.abi.flags import FLAGS, flag_by_name
from hvtrace.abi.hypercall import HYPERV_HYPERCALLS, KVM_HYPERCALLS, hypercall_name, kvm_hypercall_name
from hvtrace.abi.msr import DISPATCHED, MSRS, by_index, by_name, is_synthetic, msr_name
from hvtrace.abi.register import Access, Exit, Group, Kind, Msr, Reserved, Store
from hvtrace.abi.status import STATUSES, status_name

#: Index, name, guest access, scope, gate, value after reset.
PUBLISHED = [
    (0x40000000, "HV_X64_MSR_GUEST_OS_ID", "RW", "VM", "0x40000003.EAX[5]", 0),
    (0x40000001, "HV_X64_MSR_HYPERCALL", "RW", "VM", "0x40000003.EAX[5]", 0),
    (0x40000002, "HV_X64_MSR_VP_INDEX", "R", "vCPU", "0x40000003.EAX[6]", None),
    (0x40000010, "HV_X64_MSR_VP_RUNTIME", "R", "vCPU", "0x40000003.EAX[0]", None),
    (0x40000020, "HV_X64_MSR_TIME_REF_COUNT", "R", "VM", "0x40000003.EAX[1]", None),
    (0x40000021, "HV_X64_MSR_REFERENCE_TSC", "RW", "VM", "0x40000003.EAX[9]", 0),
    (0x40000070, "HV_X64_MSR_EOI", "W", "vCPU", "0x40000003.EAX[4]", None),
    (0x40000080, "HV_X64_MSR_SCONTROL", "RW", "vCPU", "0x40000003.EAX[2]", 1),
    (0x40000081, "HV_X64_MSR_SVERSION", "R", "vCPU", "0x40000003.EAX[2]", 1),
    (0x4000009F, "HV_X64_MSR_SINT15", "RW", "vCPU", "0x40000003.EAX[2]", 0x10000),
    (0x400000B0, "HV_X64_MSR_STIMER0_CONFIG", "RW", "vCPU", "0x40000003.EAX[3]", 0),
    (0x400000B7, "HV_X64_MSR_STIMER3_COUNT", "RW", "vCPU", "0x40000003.EAX[3]", 0),
    (0x400000F1, "HV_X64_MSR_SYNDBG_CONTROL", "RW", "VM", "0x40000003.EDX[11]", 0),
    (0x40000105, "HV_X64_MSR_CRASH_CTL", "RW", "VM", "0x40000003.EDX[10]", 0),
    (0x40000118, "HV_X64_MSR_TSC_INVARIANT_CONTROL", "RW", "VM", "0x40000003.EAX[15]", 0),
    (0x4B564D05, "MSR_KVM_POLL_CONTROL", "RW", "vCPU", "0x40000001.EAX[12]", 1),
]


@pytest.mark.parametrize(("index", "name", "access", "scope", "gate", "reset"), PUBLISHED)
def test_registers_have_their_published_values(
    index: int, name: str, access: str, scope: str, gate: str, reset: int | None
) -> None:
    """Index, name, access, scope, CPUID bit and reset value."""
    row = by_index(index)
    assert row is not None
    assert (row.name, row.access.value, row.scope.value, str(row.gate), row.reset) == (
        name, access, scope, gate, reset,
    )  # fmt: skip


@pytest.mark.parametrize("row", MSRS, ids=lambda row: row.name)
def test_a_register_agrees_with_itself(row: Msr) -> None:
    """Fields do not overlap; what reads back and what faults follow from them; it says where it comes from."""
    fields = sorted(row.fields, key=lambda field: field.low)
    for lower, upper in pairwise(fields):
        assert lower.mask & upper.mask == 0, (lower.name, upper.name)
        assert (lower.high if lower.high is not None else lower.low) < upper.low
    assert row.fault_mask & row.kept_mask == 0
    assert row.spec
    assert row.doc.endswith(".")
    assert (row.kind is Kind.FIXED) == (row.reads is not None)
    assert (row.kind is Kind.NOTHING) == (not row.access.reads)
    assert (row.exits is Exit.NONE) == (row.exit_when == "")
    if row.reset is not None:
        assert row.reset & ~row.kept_mask == 0
    if row.group is Group.ABSENT:
        assert row.access is Access.NONE
    if row.kind is Kind.STORED and row.store is Store.VALUE:
        assert row.fields


def test_indices_and_names_are_unique_and_found() -> None:
    """By index, by name with and without its prefix."""
    assert len({row.index for row in MSRS}) == len({row.name for row in MSRS}) == len(MSRS) == 73
    assert all(by_index(row.index) is by_name(row.name) is row for row in MSRS)
    assert by_name("stimer0_config") is by_index(0x400000B0)
    assert msr_name(0x40000020) == "HV_X64_MSR_TIME_REF_COUNT"
    assert msr_name(0x174) is None
    assert by_name("nonsense") is None
    assert [is_synthetic(index) for index in (0x11, 0x40000000, 0x4B564D08, 0x6E0)] == [
        True,
        True,
        True,
        False,
    ]
    assert all(low <= high for low, high in DISPATCHED)


def test_every_reserved_field_says_what_a_read_gives_and_a_write_must_hold() -> None:
    """EOI's upper half must be zero; a SINT's upper bits come back as written."""
    eoi, sint = by_name("EOI"), by_name("SINT3")
    assert eoi is not None
    assert sint is not None
    assert eoi.fault_mask == 0xFFFFFFFF_00000000
    assert sint.field("reserved19").reserved is Reserved.STORED_ANY
    assert sint.kept_mask == (1 << 64) - 1
    with pytest.raises(KeyError, match="has no field"):
        sint.field("nonsense")


def test_hypercalls_have_unique_codes_and_names() -> None:
    """Both tables."""
    for calls in (HYPERV_HYPERCALLS, KVM_HYPERCALLS):
        assert len({call.code for call in calls}) == len({call.name for call in calls}) == len(calls)
        assert all(call.input for call in calls)
    assert hypercall_name(0x5C) == "HvCallPostMessage"
    assert hypercall_name(0x7777) is None
    assert kvm_hypercall_name(10) == "KVM_HC_SEND_IPI"


def test_flags_set_bits_that_have_names_and_need_flags_that_exist() -> None:
    """Every bit a flag sets or a register demands is in BITS; every flag it needs is in FLAGS."""
    assert [str(gate) for flag in FLAGS for gate in flag.sets if bit_name(gate) is None] == []
    assert [name for flag in FLAGS for name in flag.needs if flag_by_name(name) is None] == []
    hyperv = [row for row in MSRS if row.group is not Group.KVM and row.gate is not None]
    assert [row.name for row in hyperv if row.gate is not None and bit_name(row.gate) is None] == []
    assert len({bit.gate for bit in BITS}) == len(BITS)
    assert flag_by_name("hv_apicv") is flag_by_name("hv-avic")


def test_statuses_are_found_by_the_low_bits_of_a_result() -> None:
    """The elements done in bits 43:32 do not matter."""
    assert status_name(0x0000_0002_0000_0003) == "HV_STATUS_INVALID_HYPERCALL_INPUT"
    assert status_name(0x77) is None
    assert len({status.value for status in STATUSES}) == len(STATUSES)
