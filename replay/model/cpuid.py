"""A guest's CPUID read in the hypervisor's range (kvm_cpuid in arch/x86/kvm/cpuid.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hvtrace.abi.cpuid import INTERFACE, LIMITS, NESTED, VENDOR
from hvtrace.abi.cpuid import RECOMMENDATIONS as HINTS

if TYPE_CHECKING:
    from hvtrace.replay.model.exposure import Exposure
    from hvtrace.replay.model.machine import Vcpu

__all__ = ["REGISTERS", "Answer", "contradictions", "may_vary", "text_of"]

REGISTERS = ("eax", "ebx", "ecx", "edx")

#: Registers of a vendor leaf that say "XenVMMXenVMM".
XEN = (0x566E_6558, 0x6558_4D4D, 0x4D4D_566E)

#: Leaves that every hypervisor with Hyper-V's interface has (TLFS, Feature and interface discovery).
NEEDED = range(INTERFACE, LIMITS + 1)

#: EVMCS in the recommendations; the nested leaf's versions of it.
EVMCS, EVMCS_VERSIONS = 14, 0xFFFF


@dataclass(slots=True)
class Answer:
    """One answer. `before` is what the same vCPU got for this leaf earlier, `other` what another vCPU of the VM got,
    with its number (None: nobody read it). `basic` is true where the highest basic leaf answered instead: `given` is
    what the guest got, and `values`, which the leaf itself has, are zeros then.
    """

    vcpu: Vcpu
    leaf: int
    values: tuple[int, ...]
    given: tuple[int, ...]
    found: bool | None
    basic: bool | None
    before: tuple[int, ...] | None
    other: tuple[int, tuple[int, ...]] | None


def text_of(values: tuple[int, ...]) -> str:
    """The four registers, as people write them."""
    return " ".join(f"{name} 0x{value:x}" for name, value in zip(REGISTERS, values, strict=True))


def may_vary(exposure: Exposure, leaf: int) -> bool | None:
    """Whether a leaf's answer depends on more than its number: Xen's have sub-leaves and change with the clock.
    None: whose range it is was not read.
    """
    if leaf & 0xFF < 3:
        return False
    if leaf < 0x4000_0100 and exposure.hyperv:
        return False
    vendor = exposure.answers.get(leaf & ~0xFF)
    if not vendor:
        return None
    return next(iter(vendor.values()))[1:4] == XEN


def contradictions(answer: Answer, exposure: Exposure) -> list[str] | None:
    """What a Hyper-V leaf and the other leaves that were read do not agree on; None: nothing to compare with."""
    if not exposure.hyperv or not VENDOR <= answer.leaf <= VENDOR | 0xFF:
        return None
    highest = exposure.leaves.get((VENDOR, "eax"))
    wrong: list[str] = []
    if highest is not None:
        if answer.found is False and answer.leaf <= highest and answer.leaf in NEEDED:
            wrong.append(f"leaf 0x{answer.leaf:x} is missing and 0x{highest:x} is said to be the highest")
        if answer.found and any(answer.values) and answer.leaf > highest:
            wrong.append(f"leaf 0x{answer.leaf:x} is there and 0x{highest:x} is said to be the highest")
        if answer.leaf == HINTS and answer.values[0] >> EVMCS & 1 and highest < NESTED:
            wrong.append(f"EVMCS is recommended and the highest leaf is 0x{highest:x}, below the nested one")
    if answer.leaf == NESTED:
        hints = exposure.leaves.get((HINTS, "eax"))
        if hints is not None and hints >> EVMCS & 1 and not answer.values[0] & EVMCS_VERSIONS:
            wrong.append("EVMCS is recommended and the nested leaf names no version of it")
    if answer.leaf == LIMITS and answer.found:
        vcpus = len(answer.vcpu.vm.vcpus)
        if answer.values[0] < vcpus:
            wrong.append(f"at most {answer.values[0]} virtual processors are said to be there, not {vcpus}")
    if answer.leaf == VENDOR and not _is_text(answer.values[1:4]):
        wrong.append("the vendor is not made of twelve printable characters, zeros at its end")
    compared = highest is not None or answer.leaf in (VENDOR, LIMITS)
    return wrong if compared or wrong else None


def _is_text(words: tuple[int, ...]) -> bool:
    name = b"".join(word.to_bytes(4, "little") for word in words).rstrip(b"\0")
    return bool(name) and all(0x20 <= letter < 0x7F for letter in name)
