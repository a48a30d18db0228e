"""Names of the processor's own MSRs."""

from __future__ import annotations

import pytest

from hvtrace.abi.msr import MSRS
from hvtrace.abi.msr_x86 import X86_MSRS, x86_msr_name


@pytest.mark.parametrize(
    ("index", "name"),
    [
        (0x80B, "IA32_X2APIC_EOI"),
        (0x830, "IA32_X2APIC_ICR"),
        (0x6E0, "IA32_TSC_DEADLINE"),
        (0x203, "IA32_MTRR_PHYSMASK1"),
        (0x26F, "IA32_MTRR_FIX4K_F8000"),
        (0x405, "IA32_MC1_STATUS"),
        (0x817, "IA32_X2APIC_ISR7"),
    ],
)
def test_names(index: int, name: str) -> None:
    """As Intel's manual has them."""
    assert x86_msr_name(index) == name


def test_an_index_without_a_name() -> None:
    assert x86_msr_name(0x4000_0000) is None


def test_paravirtual_msrs_have_their_own_table() -> None:
    """No MSR has its name in two places, and no name stands for two MSRs."""
    assert not X86_MSRS.keys() & {row.index for row in MSRS}
    assert len(set(X86_MSRS.values())) == len(X86_MSRS)
