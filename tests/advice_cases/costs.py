"""Cases of the advices on costs: AD3xx to AD8xx."""

from __future__ import annotations

from collections.abc import Iterator

from builders.store import Row

from advice_cases.case import Built, Case, Recorded

__all__ = [
    "CASES",
    "EXTERNAL_INTERRUPT",
    "IO",
    "MSR",
    "NPF",
    "PAUSE",
    "SECOND",
    "VMREAD",
    "VMRESUME",
    "VMWRITE",
    "exits",
    "unit",
]

SECOND = 1_000_000_000

#: (isa, exit reason).
MSR, IO, PAUSE, NPF, VINTR, HYPERCALL = (2, 0x7C), (2, 0x7B), (2, 0x77), (2, 0x400), (2, 0x64), (2, 0x81)
HLT = (2, 0x78)
EXTERNAL_INTERRUPT, VMCALL, VMREAD, VMRESUME, VMWRITE = (1, 1), (1, 18), (1, 23), (1, 24), (1, 25)


def unit(
    at: int,
    reason: tuple[int, int],
    *between: tuple[str, dict[str, object]],
    ns: int = 20_000,
    rip: int = 0x1000,
) -> Iterator[Row]:
    """An exit of vCPU 0, what happens in it, and the entry at the instruction that follows."""
    isa, number = reason
    yield at, "kvm_exit", 0, 0, {"isa": isa, "exit_reason": number, "guest_rip": rip, "info1": 0}
    for n, (tracepoint, fields) in enumerate(between, 1):
        yield at + n * ns // (len(between) + 1), tracepoint, 0, 0, fields
    yield at + ns, "kvm_entry", 0, 0, {"rip": rip + 3}


def exits(
    rate: int,
    reason: tuple[int, int],
    *between: tuple[str, dict[str, object]],
    seconds: int = 2,
    first: int = SECOND,
    ns: int = 100_000,
) -> list[Row]:
    """So many of them each second, evenly."""
    rows: list[Row] = [(first - 1_000, "kvm_entry", 0, 0, {"rip": 0})]
    for n in range(rate * seconds):
        rows += unit(first + n * SECOND // rate, reason, *between, ns=ns)
    return rows


def wrmsr(index: int) -> tuple[str, dict[str, object]]:
    return "kvm_msr", {"write": 1, "ecx": index, "data": 0, "exception": 0}


def inhibit(at: int, reason: int, *, on: bool, left: int) -> Row:
    return at, "kvm_apicv_inhibit_changed", 0, 0, {"reason": reason, "set": on, "inhibits": left}


EOI, ICR = 0x80B, 0x830
#: As QEMU has it: no APIC in the kernel at first.
CREATED = [inhibit(0, 2, on=True, left=4), inhibit(10, 2, on=False, left=0)]

NO_APICV = "the CPU of all hosts at hand has no AVIC"
NO_INTEL = "no recording of an Intel CPU is at hand"
NO_PAUSES = "the CPU of all hosts at hand has no pause filter"


def circle(times: int) -> list[Row]:
    """A timer that expires so many times before its vCPU enters the guest again."""
    fired = {"timer_index": 0, "direct": 1, "msg_send_result": 0}
    rows: list[Row] = [(0, "kvm_entry", 0, 0, {}), (1_000, "kvm_exit", 0, 0, {"isa": 2, "exit_reason": 0x60})]
    rows += [(2_000 + n * 1_000, "kvm_hv_stimer_expiration", 0, 0, fired) for n in range(times)]
    return [*rows, (2_000 + times * 1_000, "kvm_entry", 0, 0, {})]


def short_halts() -> list[Row]:
    """Halts of 40 µs, 100 a second, and no polling."""
    rows: list[Row] = [(0, "kvm_entry", 0, 0, {})]
    for n in range(200):
        at = SECOND + n * 10_000_000
        rows += unit(at, HLT, ("kvm_vcpu_wakeup", {"ns": 40_000, "waited": True, "valid": True}), ns=50_000)
    return rows


def nested_calls() -> list[Row]:
    """A nested guest that makes a thousand hypercalls in a second."""
    seen = {"isa": 2, "exit_reason": HYPERCALL[1]}
    return exits(2_000, HYPERCALL, ("kvm_nested_vmexit", dict(seen)), seconds=1)


CASES: dict[str, Case] = {
    "AD301": Case(Recorded("linux-plain"), Built(NO_APICV, [*CREATED, *exits(2_000, MSR, wrmsr(EOI))])),
    "AD302": Case(
        Built(
            NO_APICV,
            [
                *CREATED,
                *exits(100, MSR, wrmsr(EOI)),
                inhibit(4 * SECOND, 1, on=True, left=2),
                *exits(2_000, MSR, wrmsr(EOI), first=5 * SECOND),
            ],
        ),
        Recorded("linux-plain"),
    ),
    "AD303": Case(Recorded("linux-vmbus-msg"), Recorded("lossy")),
    "AD310": Case(
        Built(
            "Linux guests without hv-ipi at hand send few at once",
            exits(2_000, MSR, ("kvm_apic_ipi", {"icr_low": 0xFB, "dest_id": 1}), wrmsr(ICR)),
            cpu="host,hv-vpindex",
        ),
        Recorded("linux-vmbus-msg"),
    ),
    "AD311": Case(
        Built(
            "guests at hand are offered both hypercalls, or none",
            exits(2_000, HYPERCALL, ("kvm_hv_hypercall", {"code": 0x0B, "fast": True})),
            cpu="host,hv-vpindex,hv-ipi",
        ),
        Recorded("lossy"),
    ),
    "AD312": Case(Recorded("baseline-hvmut-enforce2"), Recorded("lossy")),
    # A boot's accesses of PCI's configuration and the console are no storm.
    "AD401": Case(Recorded("linux-port-storm"), Recorded("linux-plain")),
    "AD402": Case(Recorded("linux-stuck-vcpu"), Recorded("linux-plain")),
    "AD403": Case(
        Built("a KVM broken on purpose did so, 17 million times", circle(times=300)),
        Recorded("baseline-hvmut-stimer"),
    ),
    "AD404": Case(
        Built(
            "no recording at hand has such faults",
            exits(
                200,
                NPF,
                ("kvm_page_fault", {"fault_address": 0x1234_5678, "error_code": 7, "guest_rip": 0x1000}),
            ),
        ),
        Recorded("linux-plain"),
    ),
    "AD405": Case(
        Built(
            "no recording at hand has a failed emulation",
            exits(
                2,
                NPF,
                (
                    "kvm_emulate_insn",
                    {"rip": 0x1000, "csbase": 0, "len": 2, "insn": b"\x0f\x0b", "failed": 1},
                ),
            ),
        ),
        Recorded("linux-plain"),
    ),
    "AD406": Case(
        Built(
            "guests at hand get few interrupts",
            exits(2_000, VINTR, ("kvm_inj_virq", {"vector": 0x30, "soft": False, "reinjected": False})),
        ),
        Recorded("linux-plain"),
    ),
    "AD451": Case(Recorded("linux-spin-overcommit"), Recorded("lossy")),
    "AD452": Case(Built(NO_PAUSES, exits(1_500, PAUSE)), Recorded("linux-plain")),
    "AD453": Case(Recorded("linux-spin-overcommit"), Recorded("linux-hv-sched-1s")),
    # Of five seconds with a limit of 20 ms none polled for long.
    "AD501": Case(Recorded("baseline-hvmut-haltbig"), Recorded("linux-hv-bigpoll-5s")),
    "AD502": Case(
        Built("halts on the slow hosts at hand are too long", short_halts(), halt_poll_ns=0),
        Recorded("linux-hv-nopoll-2s"),
    ),
    "AD601": Case(Recorded("linux-tsc-offsets"), Recorded("linux-plain")),
    "AD602": Case(Recorded("linux-tsc-offsets"), Recorded("linux-plain")),
    "AD603": Case(Recorded("029-timeref-backwards"), Recorded("baseline-hvmut-clock")),
    "AD701": Case(
        Built(NO_INTEL, exits(2_000, VMREAD) + exits(100, VMRESUME, first=5 * SECOND)),
        Recorded("linux-plain"),
    ),
    "AD702": Case(
        Built("nested guests at hand make a few hypercalls only", nested_calls(), cpu="host,hv-vapic"),
        Recorded("selftest-hyperv_svm_test"),
    ),
    "AD801": Case(Recorded("lossy"), Recorded("linux-clock-hpet-1s")),
    "AD802": Case(
        Built(
            "QEMU's guests at hand have the APIC in the kernel",
            exits(
                500,
                NPF,
                ("kvm_mmio", {"type": 2, "gpa": 0xFEE00380, "len": 4, "val": 1}),
                ("kvm_userspace_exit", {"reason": 6, "errno": 0}),
            ),
        ),
        Recorded("linux-plain"),
    ),
}
