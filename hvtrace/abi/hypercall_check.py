"""What KVM checks before it serves a hypercall, in its order, and what the caller gets where a check fails.

Source: kvm_hv_hypercall, kvm_hv_flush_tlb, kvm_hv_send_ipi, kvm_hvcall_signal_event in arch/x86/kvm/hyperv.c; QEMU
target/i386/kvm/hyperv.c and hw/hyperv/hyperv.c for the calls that userspace completes; kvm_emulate_hypercall in
arch/x86/kvm/x86.c; Documentation/virt/kvm/x86/hypercalls.rst.
"""

from __future__ import annotations

from dataclasses import dataclass

from hvtrace.abi.hypercall import Fast, Handler, Hypercall

__all__ = ["ERRNO", "UD", "Check", "checks_of", "statuses_of", "xmm_of"]

#: Instead of a status: the call raises #UD and never completes.
UD = "#UD"

SUCCESS, BAD_CODE, BAD_INPUT, MISALIGNED, BAD_PARAMETER, DENIED, REFUSED = 0x0, 0x2, 0x3, 0x4, 0x5, 0x6, 0x8
NO_MEMORY, BAD_CONNECTION, NO_BUFFERS, NO_DATA = 0xB, 0x12, 0x13, 0x1B
EPERM, EFAULT, EINVAL, EOPNOTSUPP, ENOSYS = -1, -14, -22, -95, -1000

#: Names of the negative results of KVM's own calls (include/uapi/linux/kvm_para.h).
ERRNO: dict[int, str] = {
    EPERM: "KVM_EPERM",
    EFAULT: "KVM_EFAULT",
    EINVAL: "KVM_EINVAL",
    EOPNOTSUPP: "KVM_EOPNOTSUPP",
    ENOSYS: "KVM_ENOSYS",
}


@dataclass(frozen=True, slots=True)
class Check:
    """A condition, in words, and what the caller gets: a status, UD, or a negative errno of KVM's own calls. `by` says
    who checks where it is not KVM, or which kernels do.
    """

    when: str
    gives: int | str
    by: str = ""


_FIRST = (Check("the caller is not in ring 0, or in real mode", UD),)
_GATE = Check("CPUID is enforced and a bit above is clear", DENIED)
_RESERVED = Check("bits 63:60, 47:44 or 31:27 of the control word are set", BAD_INPUT, "since 5.17")
_XMM = Check("fast, CPUID is enforced and 0x40000003.EDX[4] is clear", UD, "since 5.14")

_NO_VAR = Check("a variable header is given", BAD_INPUT, "since 5.17")
_NO_REP = Check("a repetition count or start index is given", BAD_INPUT)
_REPS = Check("the repetition count is 0, or a start index is given", BAD_INPUT)
_NO_APIC = Check("the APIC is not in the kernel", BAD_INPUT, "since 6.14, back-ported")
_UNREADABLE = Check("slow input cannot be read", BAD_INPUT)
_BANKS = Check("the header's size is not the number of valid banks", BAD_INPUT, "since 5.17")
_VECTOR = Check("the vector is below 0x10 or above 0xff", BAD_INPUT)
_LIST = Check("a fast list is longer than the XMM registers hold", BAD_INPUT, "since 6.2")
_DEBUG = (
    Check("the debugger is not allowed (0x40000082.EAX[1])", BAD_CODE),
    Check("bit 2 of SYNDBG_OPTIONS is clear", REFUSED),
)
_QEMU_DEBUG = (
    Check("no debugger listens", BAD_CODE, "QEMU"),
    Check("a buffer cannot be mapped", NO_MEMORY, "QEMU"),
)


def _many(banks: int) -> Check:
    return Check(f"fast with more than {banks} banks, or more than 64 banks", BAD_INPUT)


#: What each call checks after the common checks.
_HYPERV: dict[int, tuple[Check, ...]] = {
    0x02: (_NO_VAR, _NO_REP, _UNREADABLE),
    0x03: (_NO_VAR, _REPS, _UNREADABLE, _LIST),
    0x08: (_NO_REP, _NO_VAR),
    0x0B: (
        _NO_VAR,
        _NO_REP,
        _NO_APIC,
        _UNREADABLE,
        Check("fast, and bits 63:32 of the first word are set", BAD_INPUT),
        _VECTOR,
    ),
    0x13: (
        _NO_REP,
        _UNREADABLE,
        _BANKS,
        Check("sparse with no banks: nothing is flushed", SUCCESS),
        _many(10),
    ),
    0x14: (
        _REPS,
        _UNREADABLE,
        _BANKS,
        Check("sparse with no banks: nothing is flushed", SUCCESS),
        _many(10),
        _LIST,
    ),
    0x15: (
        _NO_REP,
        _NO_APIC,
        _UNREADABLE,
        _BANKS,
        Check("sparse with no banks: nothing is sent, the vector is not looked at", SUCCESS),
        _many(11),
        _VECTOR,
    ),
    0x5C: (
        _NO_REP,
        _NO_VAR,
        Check("the SynIC is not active", BAD_INPUT),
        Check("fast", BAD_CODE, "QEMU"),
        Check("the input is not aligned to 8 bytes or crosses a page", MISALIGNED, "QEMU"),
        Check("the input cannot be mapped", NO_MEMORY, "QEMU"),
        Check("the payload is longer than 240 bytes", BAD_INPUT, "QEMU"),
        Check("nobody listens on the connection", BAD_CONNECTION, "QEMU"),
        Check("the listener's buffers are full", NO_BUFFERS, "QEMU"),
    ),
    0x5D: (
        _NO_REP,
        _NO_VAR,
        Check("slow input is misaligned, crosses a page or cannot be read", MISALIGNED),
        Check("bits 63:48 or 31:24 of the input are set", BAD_INPUT),
        Check("no eventfd is registered, or a flag number is given: userspace decides", "userspace"),
        Check("so, and the SynIC is not active", BAD_INPUT),
        Check("nobody listens on the connection", BAD_CONNECTION, "QEMU"),
    ),
    0x69: (
        Check("fast", BAD_PARAMETER),
        *_DEBUG,
        *_QEMU_DEBUG,
        Check("the count is too large", BAD_PARAMETER, "QEMU"),
        Check("not everything was taken", NO_BUFFERS, "QEMU"),
    ),
    0x6A: (
        Check("fast", BAD_PARAMETER),
        *_DEBUG,
        *_QEMU_DEBUG,
        Check("nothing is there to be read", NO_DATA, "QEMU"),
    ),
    0x6B: (*_DEBUG, *_QEMU_DEBUG),
}

_EXTENDED = (
    Check("before 6.3: unknown code", BAD_CODE),
    Check("fast", BAD_PARAMETER),
    Check("QEMU serves none of them", BAD_CODE, "QEMU"),
)

_RING = Check("the caller is not in ring 0", EPERM)
_FEATURE = Check("PV CPUID is enforced and the bit above is clear", ENOSYS)

_KVM: dict[int, tuple[Check, ...]] = {
    2: (Check("always: it was removed", ENOSYS),),
    9: (
        Check("another clock than the wall clock, or the host's clock is not the TSC", EOPNOTSUPP),
        Check("the structure cannot be written", EFAULT),
    ),
    10: (
        Check("no map of APICs", EOPNOTSUPP),
        Check("the ICR has a destination or a shorthand", EINVAL),
    ),
    12: (
        Check("userspace did not ask for the exit", ENOSYS),
        Check("the address is not page-aligned, the count 0, or the range wraps", EINVAL),
    ),
}

#: Fast input of more than two words: where each half of an XMM register goes.
_FLUSH = "RDX address_space, R8 flags, "
_XMM_LAYOUT: dict[int, str] = {
    0x02: _FLUSH + "XMM0 low processor_mask",
    0x03: _FLUSH + "XMM0 low processor_mask, then at most 11 list entries (since 6.2)",
    0x13: _FLUSH + "XMM0 low format, XMM0 high valid_bank_mask, then at most 10 banks",
    0x14: _FLUSH + "XMM0 low format, XMM0 high valid_bank_mask, then at most 10 banks and the list",
    0x15: "RDX low half vector, R8 format, XMM0 low valid_bank_mask, then at most 11 banks",
}


def checks_of(call: Hypercall) -> tuple[Check, ...]:
    """What KVM, and QEMU after it, look at for a call, in order."""
    if call.is_kvm:
        gated = (_FEATURE,) if call.gates else ()
        return (_RING, *gated, *_KVM.get(call.code, ()))
    gated = (_GATE,) if call.gates or call.gate_note else ()
    xmm = (_XMM,) if call.fast is Fast.XMM else ()
    if call.handler is Handler.NOBODY:
        own: tuple[Check, ...] = (Check("always: KVM serves no such call", BAD_CODE),)
    else:
        own = _HYPERV.get(call.code, _EXTENDED if call.code >= 0x8000 else ())
    return (*_FIRST, *gated, _RESERVED, *xmm, *own)


def statuses_of(call: Hypercall) -> tuple[int, ...]:
    """The statuses, or results of a KVM call, that a caller may see, success first."""
    told = {check.gives for check in checks_of(call) if isinstance(check.gives, int)}
    succeeds = call.handler is not Handler.NOBODY
    return tuple(
        sorted(told | ({SUCCESS} if succeeds else set()), key=lambda value: (value != 0, abs(value)))
    )


def xmm_of(call: Hypercall) -> str | None:
    """Layout of fast input with XMM registers; None where the call takes none."""
    return None if call.is_kvm else _XMM_LAYOUT.get(call.code)
