"""The endings a hypercall may have: KVM's checks in their order (kvm_hv_hypercall, kvm_hv_flush_tlb, kvm_hv_send_ipi).

Each check is a step: whether it applies (None: it cannot be told) and how the call ends where it does. The first step
that surely applies is the last one that is possible.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from hvtrace.abi.cpuid import FEATURES, NESTED
from hvtrace.abi.hypercall import EXTENDED, by_code
from hvtrace.abi.register import Gate
from hvtrace.replay.model.access import DEBUG_ALLOWED
from hvtrace.replay.model.hypercall import ANY, INPUTS, Call, Ending, Mismatch

__all__ = [
    "ACCESS_DENIED",
    "ALL_EMPTY",
    "HEADERS",
    "PAGE",
    "WORD",
    "compare",
    "denied",
    "endings",
    "is_nested",
]

SUCCESS, INVALID_CODE, INVALID_INPUT, INVALID_ALIGNMENT = 0, 2, 3, 4
INVALID_PARAMETER, ACCESS_DENIED, OPERATION_DENIED = 5, 6, 8

#: 0x40000003.EDX[4]: input in XMM registers. EBX[20]: extended calls.
XMM_INPUT, EXTENDED_CALLS = Gate(FEATURES, "edx", 4), Gate(FEATURES, "ebx", 20)

#: 0x4000000A.EAX[17]: flushes of a nested guest are served without its hypervisor.
DIRECT_FLUSH = Gate(NESTED, "eax", 17)

SPIN_WAIT, SEND_IPI, SEND_IPI_EX, POST_MESSAGE, SIGNAL_EVENT = 0x08, 0x0B, 0x15, 0x5C, 0x5D
FLUSHES, FLUSH_LISTS, FLUSHES_EX = (
    frozenset({2, 3, 0x13, 0x14}),
    frozenset({3, 0x14}),
    frozenset({0x13, 0x14}),
)
DEBUG_CALLS, RESET_DEBUG = frozenset({0x69, 0x6A, 0x6B}), 0x6B

#: SignalEvent's input: connection id in bits 23:0, flag number in bits 47:32, the rest reserved.
CONNECTION, FLAG_NUMBER = 0xFF_FFFF, 0xFFFF_0000_0000

#: HV_X64_MSR_SYNDBG_OPTIONS, and its bit that allows hypercalls.
SYNDBG_OPTIONS, USE_HYPERCALLS = 0x4000_00FF, 1 << 2

#: Statuses of QEMU (kvm_hv_handle_exit, hyperv_hcall_post_message, hyperv_hcall_signal_event). It leaves the
#: connections that it knows to KVM.
QEMU_POST, QEMU_FAST_POST, QEMU_SIGNAL = (
    frozenset({0, 2, 3, 4, 0x0B, 0x12, 0x13}),
    frozenset({2}),
    frozenset({2, 3, 4, 0x11, 0x12}),
)

#: Vectors an IPI may have.
LOWEST_VECTOR, HIGHEST_VECTOR = 0x10, 0xFF

#: 64-bit halves of XMM0 to XMM5; entries of a flush's list that KVM queues one by one.
HALVES, QUEUED = 12, 15

#: Formats of a VP set: banks, or all processors.
SPARSE, ALL = 0, 1

PAGE, WORD = 4096, 8

#: Size of the input in guest memory, without banks and list.
HEADERS = {2: 24, 3: 24, 0x13: 32, 0x14: 32, 0x0B: 16, 0x15: 24}

UNCHECKED, XMM_UNCHECKED, FLUSH_BANKS, ALL_EMPTY, FAST_REFUSED = (
    "control-word-unchecked",
    "xmm-unchecked",
    "fast-flush-banks",
    "ipi-ex-all-empty",
    "fast-ipi-ex",
)


#: Endings that are the same for every call; the last three after the input was read and traced.
DENIED, SUCCEEDED, NO_CALL, UNDEFINED = (
    Ending(ACCESS_DENIED),
    Ending(SUCCESS),
    Ending(INVALID_CODE),
    Ending(None, fault=True),
)
REFUSED, UNREAD, MISPLACED, USERSPACE = (
    Ending(INVALID_INPUT),
    Ending(INVALID_INPUT, hidden=True),
    Ending(INVALID_ALIGNMENT),
    Ending(None, userspace=True),
)
READ_REFUSED, READ_UNREAD, READ_DONE = (
    Ending(INVALID_INPUT, shown=True),
    Ending(INVALID_INPUT, shown=True, hidden=True),
    Ending(SUCCESS, shown=True),
)


class Step(NamedTuple):
    """One check. A kernel with the known bug `bug` lacks it, or, where it is `added`, no other kernel makes it."""

    holds: bool | None
    ending: Ending
    bug: str = ""
    added: bool = False


def endings(call: Call, bug: str = "") -> list[Ending]:
    """Every way in which a call may end, as far as is known now; on a kernel that has a known bug."""
    found: list[Ending] = []
    for step in _steps(call):
        if step.added != bool(bug and step.bug == bug):
            continue
        if step.holds is not False and step.ending not in found:
            found.append(step.ending)
        if step.holds:
            break
    return found


def compare(call: Call) -> Mismatch:
    """Hold a call that is complete against the endings it may have."""
    found = _compare(call, endings(call))
    if found.what or call.status:
        for bug in sorted({step.bug for step in _steps(call)} - {""}):
            if call.vcpu.bench.profile.is_fixed(bug):
                continue
            if bool(_compare(call, endings(call, bug)).what) != bool(found.what):
                found.bug = bug
                break
    return found


def _compare(call: Call, possible: list[Ending]) -> Mismatch:
    fitting = [ending for ending in possible if ending.gives(call.status or 0)]
    if not fitting:
        gated = call.status == ACCESS_DENIED or {ending.status for ending in possible} == {ACCESS_DENIED}
        return Mismatch(call, "gate" if gated else "status", possible)
    if call.is_traced("kvm_userspace_exit"):
        agreeing = [ending for ending in fitting if ending.userspace == call.userspace]
        if not agreeing:
            return Mismatch(call, "userspace", fitting)
        fitting = agreeing
    name = INPUTS.get(call.code)
    if name is not None and call.is_traced(name):
        agreeing = [ending for ending in fitting if ending.shown == (call.shown is not None)]
        if not agreeing:
            # The input was read where it may be: it is the status that is wrong.
            read = [ending for ending in possible if ending.shown and call.shown is not None]
            return Mismatch(call, "status" if read else "input", read or fitting)
        fitting = agreeing
    # Userspace may report repetitions.
    if call.reserved or not any(ending.status is None or ending.reps == call.reps for ending in fitting):
        return Mismatch(call, "reps", fitting)
    return Mismatch(call, "", possible, hidden=all(ending.hidden for ending in fitting))


def denied(call: Call) -> bool | None:
    """Whether a CPUID bit that the call needs is clear, enforced or not; None: not known."""
    exposure, code = call.vcpu.vm.exposure, call.code
    if code == SPIN_WAIT:
        return _not(exposure.spins())
    if EXTENDED[0] <= code <= EXTENDED[1]:
        return _and(call.vcpu.bench.profile.fact("extended_hypercalls"), _not(exposure.has(EXTENDED_CALLS)))
    row = by_code(code)
    if row is None or not row.gates:
        return False
    missing = _not(_all(*(exposure.has(gate) for gate in row.gates)))
    # Without the debugger the answer is that there is no such call.
    return _and(exposure.has(DEBUG_ALLOWED), missing) if code in DEBUG_CALLS else missing


def _steps(call: Call) -> Iterator[Step]:
    profile, exposure, code = call.vcpu.bench.profile, call.vcpu.vm.exposure, call.code
    enforced = _and(profile.fact("enforces"), exposure.conclude())
    yield Step(_and(enforced, denied(call)), DENIED)
    # The control word's reserved bits are not traced. Kernels that look at them trace the header's size (5.17).
    yield Step(None if call.var_cnt is not None else False, UNREAD)
    if call.by_xmm:
        yield Step(_not(profile.fact("xmm_input")), REFUSED)
        yield Step(_and(enforced, _not(exposure.has(XMM_INPUT))), UNDEFINED, XMM_UNCHECKED)
    if code in FLUSHES:
        yield from _flush(call)
    elif code in (SEND_IPI, SEND_IPI_EX):
        yield from _send_ipi(call)
    elif code == SPIN_WAIT:
        yield from _plain(call)
    elif code == SIGNAL_EVENT:
        yield from _plain(call)
        yield from _signal_event(call)
    elif code == POST_MESSAGE:
        yield from _plain(call)
        yield from _to_userspace(call, QEMU_FAST_POST if call.fast else QEMU_POST)
    elif code in DEBUG_CALLS:
        yield from _debug(call)
    elif EXTENDED[0] <= code <= EXTENDED[1]:
        yield Step(_not(profile.fact("extended_hypercalls")), NO_CALL)
        yield Step(call.fast, Ending(INVALID_PARAMETER))
        yield Step(True, USERSPACE)
    else:
        yield Step(True, NO_CALL)
    yield Step(True, SUCCEEDED)


def _plain(call: Call) -> Iterator[Step]:
    """Neither repetitions nor a variable header."""
    yield Step(call.rep, REFUSED)
    yield _no_header(call)


def _no_header(call: Call) -> Step:
    return Step(_differ(call, 0), REFUSED, UNCHECKED)


def _to_userspace(call: Call, statuses: frozenset[int]) -> Iterator[Step]:
    """Userspace is not bothered where the SynIC is not active. `statuses` are those that QEMU gives."""
    yield Step(_not(call.vcpu.synic), REFUSED)
    choice = ANY if call.vcpu.bench.offer is None else statuses
    yield Step(True, Ending(None, userspace=True, choice=choice))


def _signal_event(call: Call) -> Iterator[Step]:
    """A connection that KVM has no eventfd for is userspace's; so is a flag number."""
    word = call.ingpa
    if not call.fast:
        yield Step(bool(word % 8) or word % PAGE > PAGE - 8, MISPLACED)
        yield Step(_is_unreadable(call, 0, WORD), Ending(INVALID_ALIGNMENT, hidden=True))
        yield Step(None, REFUSED)
        yield Step(None, SUCCEEDED)
    elif not word & FLAG_NUMBER:
        yield Step(bool(word & ~CONNECTION), REFUSED)
        yield Step(None, SUCCEEDED)
    yield from _to_userspace(call, QEMU_SIGNAL)


def _debug(call: Call) -> Iterator[Step]:
    vm = call.vcpu.vm
    yield Step(_not(call.vcpu.bench.profile.fact("syndbg")), NO_CALL)
    if call.code != RESET_DEBUG:
        yield Step(call.fast, Ending(INVALID_PARAMETER))
    yield Step(_not(vm.exposure.has(DEBUG_ALLOWED)), NO_CALL)
    options = vm.debugger.values.get(SYNDBG_OPTIONS)
    yield Step(None if options is None else not options & USE_HYPERCALLS, Ending(OPERATION_DENIED))
    yield Step(True, USERSPACE)


def _flush(call: Call) -> Iterator[Step]:
    profile, seen = call.vcpu.bench.profile, call.shown
    extended, listed = call.code in FLUSHES_EX, call.code in FLUSH_LISTS
    if not extended:
        yield _no_header(call)
    yield Step(not call.rep_cnt or call.rep_idx != 0 if listed else call.rep, REFUSED)
    if not call.fast:
        yield Step(_is_unreadable(call, 0, HEADERS[call.code]), UNREAD)
    # From here on the input's event is traced.
    done, used = replace(READ_DONE, reps=call.rep_cnt) if call.rep_cnt else READ_DONE, 1
    if extended:
        banks = None if seen is None else int(seen[5]).bit_count()
        sparse = None if seen is None else seen[6] == SPARSE
        yield Step(_differ(call, banks), READ_REFUSED, UNCHECKED)
        yield Step(_and(sparse, None if banks is None else banks == 0), done)
        yield from _banks(call, sparse, banks, HALVES - 2, FLUSH_BANKS)
        used = 2 + (call.var_cnt or 0)
    if listed and call.rep_cnt <= QUEUED:
        read = profile.fact("gva_list_read")
        if call.fast:
            yield Step(_and(read, call.rep_cnt > HALVES - used), READ_REFUSED)
        else:
            start = HEADERS[call.code] + WORD * (used - 2 if extended else 0)
            yield Step(_and(read, _is_unreadable(call, start, WORD * call.rep_cnt)), READ_UNREAD)
    if seen is None or seen[-1]:
        # Of a nested guest's call: its hypervisor's assist page cannot be read.
        yield Step(None, READ_REFUSED)
    yield Step(True, done)


def _send_ipi(call: Call) -> Iterator[Step]:
    seen, extended = call.shown, call.code == SEND_IPI_EX
    if not extended:
        yield _no_header(call)
    yield Step(call.rep, REFUSED)
    if not call.vcpu.vm.has_apic:
        yield Step(None, REFUSED)
    if not call.fast:
        yield Step(_is_unreadable(call, 0, HEADERS[call.code]), UNREAD)
    elif extended:
        yield Step(True, REFUSED, FAST_REFUSED, added=True)
    else:
        yield Step(call.ingpa >> 32 != 0, REFUSED)
    bug = ""
    if extended:
        banks = None if seen is None else int(seen[7]).bit_count()
        sparse = None if seen is None else seen[6] != ALL
        empty = None if banks is None else banks == 0
        yield Step(_differ(call, banks), READ_REFUSED, UNCHECKED)
        yield Step(_and(sparse, empty), READ_DONE)
        yield from _banks(call, sparse, banks, HALVES - 1)
        bug = ALL_EMPTY if sparse is False and empty else ""
    vector = None if seen is None else not LOWEST_VECTOR <= seen[5] <= HIGHEST_VECTOR
    yield Step(vector, READ_REFUSED, bug)
    yield Step(True, READ_DONE)


def _banks(call: Call, sparse: bool | None, banks: int | None, halves: int, bug: str = "") -> Iterator[Step]:
    """The banks of a sparse set: no more than the XMM registers left hold, or in memory that can be read."""
    if call.fast:
        yield Step(_and(sparse, None if banks is None else banks > halves), READ_REFUSED, bug)
    else:
        unread = _is_unreadable(call, HEADERS[call.code], WORD * (banks or 1))
        yield Step(_and(sparse, unread), READ_UNREAD)


def _is_unreadable(call: Call, offset: int, size: int) -> bool | None:
    """Whether input in guest memory cannot be read: not where input was read from the same pages before."""
    if is_nested(call):
        return None
    pages = range((call.ingpa + offset) // PAGE, (call.ingpa + offset + size - 1) // PAGE + 1)
    return False if all(page in call.vcpu.vm.input_pages for page in pages) else None


def is_nested(call: Call) -> bool:
    """Whether a nested guest may have made the call: its addresses are others."""
    if call.shown is not None and call.code in FLUSHES and call.shown[-1]:
        return True
    vcpu = call.vcpu
    impossible = vcpu.bench.profile.fact("nested_flush") is False or vcpu.outermost
    return not impossible and vcpu.vm.exposure.has(DIRECT_FLUSH) is not False


def _differ(call: Call, banks: int | None) -> bool | None:
    """Whether the variable header has another size. Kernels that do not trace it do not look at it (until 5.16)."""
    if call.var_cnt is None:
        return False
    return None if banks is None else call.var_cnt != banks


def _not(known: bool | None) -> bool | None:
    return None if known is None else not known


def _and(one: bool | None, other: bool | None) -> bool | None:
    """Both; what is not known stays open."""
    if one is False or other is False:
        return False
    return True if one and other else None


def _all(*known: bool | None) -> bool | None:
    if False in known:
        return False
    return None if None in known else True
