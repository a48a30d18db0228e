"""The tables are whole: every leaf, flag, register, call, status and exit reason that the interface has."""

from __future__ import annotations

import pytest

from hvtrace.abi.cpuid import BITS, LEAVES
from hvtrace.abi.exit_reasons import SVM, UNPRINTED, USERSPACE, VMX, VMX_FLAGS, VMX_SILENT_FLAGS
from hvtrace.abi.flags import FLAGS, REPORTED, flag_by_name
from hvtrace.abi.hypercall import HYPERV_HYPERCALLS, KVM_HYPERCALLS, Fast, Handler, Hypercall
from hvtrace.abi.hypercall_check import UD, checks_of, statuses_of, xmm_of
from hvtrace.abi.msr import MSRS
from hvtrace.abi.status import STATUSES

CALLS = (*HYPERV_HYPERCALLS, *KVM_HYPERCALLS)


def test_every_leaf_has_its_row() -> None:
    """0x40000000 to 0x4000000a, the debugger's three, KVM's two; every bit lies in one of them."""
    wanted = {*range(0x40000000, 0x4000000B), *range(0x40000080, 0x40000083), 0x40000100, 0x40000101}
    assert {leaf.number for leaf in LEAVES} == wanted
    assert {bit.gate.leaf for bit in BITS} <= wanted
    assert all(leaf.doc.endswith(".") for leaf in LEAVES)
    assert {bit.gate.register for bit in BITS} <= {"eax", "ebx", "ecx", "edx"}


#: Bits 31:0 that have a name, by leaf and register.
NAMED = {
    (0x40000003, "eax"): 0xBFFF,
    (0x40000003, "ebx"): 0x50_19FF,
    (0x40000003, "edx"): 0x88_CD3F,
    (0x40000004, "eax"): 0x24_5E3F,
    (0x4000000A, "eax"): 0x4E_0000,
    (0x4000000A, "ebx"): 0x1,
    (0x40000082, "eax"): 0x2,
    (0x40000101, "eax"): 0x103_FEFF,
    (0x40000101, "edx"): 0x1,
}


@pytest.mark.parametrize("place", NAMED, ids=lambda place: f"{place[0]:x}.{place[1]}")
def test_every_bit_has_its_name(place: tuple[int, str]) -> None:
    """The bits that the documents name, and no others."""
    assert sum(1 << b.gate.bit for b in BITS if (b.gate.leaf, b.gate.register) == place) == NAMED[place]


#: Every flag, the bits it sets and the flags it needs.
WANTED = {
    "hv-relaxed": ("4.EAX[5]", ""),
    "hv-vapic": ("3.EAX[4]", ""),
    "hv-spinlocks": ("", ""),
    "hv-vpindex": ("3.EAX[6]", ""),
    "hv-runtime": ("3.EAX[0]", ""),
    "hv-crash": ("3.EDX[10]", ""),
    "hv-time": ("3.EAX[1] 3.EAX[9]", ""),
    "hv-synic": ("3.EAX[2] 3.EBX[4] 3.EBX[5]", "hv-vpindex"),
    "hv-stimer": ("3.EAX[3]", "hv-synic hv-time"),
    "hv-stimer-direct": ("3.EDX[19]", "hv-stimer"),
    "hv-tlbflush": ("4.EAX[2] 4.EAX[11]", "hv-vpindex"),
    "hv-tlbflush-ext": ("3.EDX[14]", "hv-tlbflush"),
    "hv-tlbflush-direct": ("a.EAX[17]", "hv-vapic"),
    "hv-ipi": ("4.EAX[10] 4.EAX[11]", "hv-vpindex"),
    "hv-reset": ("3.EAX[7]", ""),
    "hv-frequencies": ("3.EAX[11] 3.EDX[8]", ""),
    "hv-reenlightenment": ("3.EAX[13]", ""),
    "hv-evmcs": ("4.EAX[14]", "hv-vapic"),
    "hv-emsr-bitmap": ("a.EAX[19]", ""),
    "hv-avic": ("4.EAX[9]", ""),
    "hv-no-nonarch-coresharing": ("4.EAX[18]", ""),
    "hv-syndbg": ("3.EDX[11] 82.EAX[1]", "hv-synic hv-relaxed"),
    "hv-xmm-input": ("3.EDX[4]", ""),
    "hv-passthrough": ("", ""),
    "hv-enforce-cpuid": ("", ""),
    "hv-vendor-id": ("", ""),
    **{f"hv-version-id-{part}": ("", "") for part in ("build", "major", "minor", "spack", "sbranch", "snumber")},
    "x-hv-max-vps": ("", ""),
    "x-hv-synic-kvm-only": ("", ""),
}  # fmt: skip


def test_every_flag_has_its_row() -> None:
    """Bits and dependencies as QEMU has them; both spellings of the ones that have two."""
    shown = {
        flag.name: (
            " ".join(str(gate).replace("0x400000", "").lstrip("0") for gate in flag.sets),
            " ".join(flag.needs),
        )
        for flag in FLAGS
    }
    assert shown == WANTED
    assert flag_by_name("hv-apicv") is flag_by_name("hv_avic")
    assert flag_by_name("hv-no-noarch-coresharing") is flag_by_name("hv-no-nonarch-coresharing")
    assert {gate for flag in FLAGS for gate in flag.sets} >= REPORTED - {
        gate for gate in REPORTED if str(gate) == "0x40000003.EAX[5]"
    }


def test_every_register_has_its_row() -> None:
    """Hyper-V's 0x40000000 to 0x40000118 and KVM's, the two old ones among them."""
    indices = {msr.index for msr in MSRS}
    assert indices >= {*range(0x40000000, 0x40000004), 0x40000010, *range(0x40000020, 0x40000024)}
    assert indices >= {*range(0x40000070, 0x40000074), *range(0x40000080, 0x40000086)}
    assert indices >= {*range(0x40000090, 0x400000A0), *range(0x400000B0, 0x400000B8)}
    assert indices >= {*range(0x400000F0, 0x400000F6), 0x400000FF, *range(0x40000100, 0x40000109)}
    assert indices >= {0x40000114, 0x40000115, 0x40000118, 0x11, 0x12, *range(0x4B564D00, 0x4B564D09)}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_a_call_says_what_is_checked_and_what_comes_back(call: Hypercall) -> None:
    """Ring, gate, reserved bits, XMM, its own: in this order; only what nobody serves never succeeds."""
    checks = checks_of(call)
    assert len(checks) == len(set(checks))
    served = call.handler is not Handler.NOBODY
    assert (0 in statuses_of(call)) == served
    assert (xmm_of(call) is not None) == (call.fast is Fast.XMM)
    if call.is_kvm:
        assert checks[0].gives == -1
        assert (-1000 in statuses_of(call)) == (bool(call.gates) or call.code in (2, 12))
        return
    assert checks[0].gives == UD
    gated = bool(call.gates or call.gate_note)
    assert (checks[1].gives == 0x6) == gated
    assert checks[1 + gated].gives == 0x3
    known = {status.value for status in STATUSES}
    assert set(statuses_of(call)) <= known
    assert served or statuses_of(call) == (0x2, 0x3)


def test_every_status_is_given_by_some_call() -> None:
    """Those that KVM turns into an exit to userspace apart."""
    given = {value for call in HYPERV_HYPERCALLS for value in statuses_of(call)}
    assert {status.value for status in STATUSES} - given == {0x11}


def test_every_exit_reason_has_a_name() -> None:
    """As many as the uapi headers of 7.1 have; those that are printed as numbers are among them."""
    assert (len(VMX), len(SVM), len(USERSPACE)) == (67, 130, 44)
    assert (VMX[31], SVM[0x7C], USERSPACE[27]) == ("MSR_READ", "msr", "KVM_EXIT_HYPERV")
    assert VMX_FLAGS == {0x80000000: "FAILED_VMENTRY"}
    assert VMX_SILENT_FLAGS == {0x08000000: "SGX_ENCLAVE_MODE"}
    for table, reasons in (("VMX", VMX), ("SVM", SVM), ("userspace", USERSPACE)):
        assert set(reasons) >= UNPRINTED[table]
    assert sorted(USERSPACE) == list(range(44))
