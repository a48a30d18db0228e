"""Cases of the advices on enlightenments, clocks and timers: AD1xx and AD2xx."""

from __future__ import annotations

from collections.abc import Iterator

from builders.store import Row

from advice_cases.case import Built, Case, Recorded

__all__ = ["CASES"]

SECOND = 1_000_000_000
CPUID_EXIT, IO_EXIT, MSR_EXIT = 0x72, 0x7B, 0x7C

MICROSOFT = {"rbx": 0x7263694D, "rcx": 0x666F736F, "rdx": 0x76482074}
#: GUEST_OS_ID of Windows 10: vendor 1, system 4, version 10.0, build 19041.
WINDOWS = 1 << 48 | 4 << 40 | 10 << 32 | 19041


def unit(at: int, reason: int, tracepoint: str, **fields: object) -> Iterator[Row]:
    """An exit of vCPU 0 that takes 20 µs, and what it was about."""
    yield at, "kvm_exit", 0, 0, {"isa": 2, "exit_reason": reason}
    yield at + 5_000, tracepoint, 0, 0, fields
    yield at + 20_000, "kvm_entry", 0, 0, {}


def leaf(at: int, number: int, **registers: int) -> Iterator[Row]:
    """A CPUID read that found its leaf."""
    values = {"rax": 0, "rbx": 0, "rcx": 0, "rdx": 0} | registers
    yield from unit(at, CPUID_EXIT, "kvm_cpuid", function=number, index=0, found=True, **values)


def wrmsr(at: int, index: int, value: int) -> Iterator[Row]:
    yield from unit(at, MSR_EXIT, "kvm_msr", write=1, ecx=index, data=value, exception=0)


def guest(features: int, recommendations: int = 0, identity: int = WINDOWS) -> list[Row]:
    """The start of a guest: it reads what Hyper-V offers it, and tells what it is."""
    return [
        (0, "kvm_entry", 0, 0, {}),
        *leaf(100_000, 0x4000_0000, rax=0x4000_0005, **MICROSOFT),
        *leaf(200_000, 0x4000_0001, rax=0x3123_7648),
        *leaf(300_000, 0x4000_0003, rax=features),
        *leaf(400_000, 0x4000_0004, rax=recommendations, rbx=0xFFFF_FFFF),
        *wrmsr(500_000, 0x4000_0000, identity),
    ]


def reads(port: int, rate: int, seconds: int) -> list[Row]:
    """A guest that reads a port so many times a second, all the time."""
    rows: list[Row] = [(0, "kvm_entry", 0, 0, {})]
    for n in range(rate * seconds):
        rows += unit(
            SECOND + n * SECOND // rate, IO_EXIT, "kvm_pio", port=port, rw=0, size=1, count=1, val=n % 256
        )
    return rows


#: Bits of 0x40000003.EAX: hypercalls, synthetic timers, SynIC, reference time.
HYPERCALL, STIMER, SYNIC, TIME = 1 << 5, 1 << 3, 1 << 2, 1 << 1 | 1 << 9
RELAXED = 1 << 5

NO_WINDOWS = "no recording of a Windows guest is at hand"

CASES: dict[str, Case] = {
    "AD101": Case(
        Recorded("linux-plain"),
        Built("a guest of which nothing is known", [(0, "kvm_entry", 0, 0, {}), (9, "kvm_exit", 0, 0, {})]),
        silent=True,
    ),
    "AD102": Case(Recorded("linux-tick-hpet-1s"), Recorded("linux-plain")),
    "AD103": Case(Recorded("linux-hv-passthrough-boot"), Recorded("linux-hv-kvmon-boot")),
    "AD104": Case(Recorded("linux-hv-kvmon-boot"), Recorded("linux-hv-min-boot")),
    "AD105": Case(
        Built("QEMU refuses to offer timers without a SynIC", guest(HYPERCALL | STIMER | TIME)),
        Recorded("linux-vmbus-msg"),
    ),
    "AD111": Case(Recorded("linux-hv-min-boot"), Recorded("linux-vmbus-msg")),
    "AD112": Case(Recorded("lossy"), Recorded("linux-vmbus-msg")),
    "AD113": Case(Built(NO_WINDOWS, guest(HYPERCALL)), Built(NO_WINDOWS, guest(HYPERCALL, RELAXED))),
    "AD114": Case(Recorded("linux-hv-min-boot"), Recorded("linux-vmbus-msg")),
    "AD201": Case(
        Recorded("linux-clock-hpet-1s"),
        Built("every guest's start reads the RTC", reads(port=0x3FD, rate=10, seconds=2)),
    ),
    "AD202": Case(Recorded("linux-clock-hpet-1s"), Recorded("linux-plain")),
    "AD203": Case(Recorded("linux-clock-pm-timer-1s"), Recorded("linux-plain")),
    "AD204": Case(Recorded("linux-clock-hvmsr-1s"), Recorded("linux-vmbus-msg")),
    "AD205": Case(
        Built("no guest at hand has the PIT as its clock", reads(port=0x40, rate=300, seconds=4)),
        Recorded("linux-plain"),
    ),
    "AD206": Case(
        Built("no guest at hand polls the RTC", reads(port=0x71, rate=300, seconds=4)),
        # It reads the RTC to acknowledge its ticks.
        Recorded("linux-tick-rtc-2s"),
    ),
    "AD211": Case(Recorded("linux-tick-rtc-2s"), Recorded("linux-plain")),
    "AD212": Case(Recorded("linux-tick-pit-2s"), Recorded("linux-plain")),
    "AD213": Case(Recorded("linux-tick-hpet-1s"), Recorded("linux-plain")),
    "AD214": Case(Recorded("linux-clock-pm-timer-1s"), Recorded("linux-plain")),
    "AD215": Case(Recorded("linux-vmbus-msg"), Recorded("lossy")),
}
