"""One small whole recording of each format, as bytes: two CPUs, two vCPUs, a few hundred events, a loss."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable, Iterator

import zstandard

from . import perf_data
from . import simpletrace as simple
from .event_format import EventFormat, event_format
from .ring_buffer import Absolute, Discarded, Extend, Page, pages
from .trace_dat import Buffer, TraceDat, cpu_count, trace_clock, uname
from .tracing_data import TracingData

__all__ = ["EVENTS", "SAMPLES"]

#: Events in every sample but those that add a named instance.
EVENTS = 240
START = 5_000_000_000

ENTRY = event_format("kvm", "kvm_entry", 1583, [("unsigned int", "vcpu_id"), ("unsigned long", "rip")])
EXIT = event_format(
    "kvm",
    "kvm_exit",
    1574,
    [
        ("unsigned int", "exit_reason"),
        ("unsigned long", "guest_rip"),
        ("u32", "isa"),
        ("u64", "info1"),
        ("u64", "info2"),
        ("u32", "intr_info"),
        ("u32", "error_code"),
        ("unsigned int", "vcpu_id"),
    ],
)
MSR = event_format(
    "kvm", "kvm_msr", 1570, [("unsigned int", "write"), ("u32", "ecx"), ("u64", "data"), ("u8", "exception")]
)
SWITCH = event_format(
    "sched",
    "sched_switch",
    316,
    [
        ("char[16]", "prev_comm"),
        ("pid_t", "prev_pid"),
        ("int", "prev_prio"),
        ("long", "prev_state"),
        ("char[16]", "next_comm"),
        ("pid_t", "next_pid"),
        ("int", "next_prio"),
    ],
)
PRINT = event_format("ftrace", "print", 5, [("unsigned long", "ip"), ("__data_loc char[]", "buf")])

FORMATS = (ENTRY, EXIT, MSR, SWITCH, PRINT)
COMMS = {200: "qemu-system-x86", 206: "CPU 0/KVM", 207: "CPU 1/KVM"}
OPTIONS = (trace_clock("local"), uname("Linux host 6.1.0-56-amd64 x86_64"), cpu_count(2))


def _records(cpu: int) -> Iterator[tuple[int, int, EventFormat, bytes]]:
    """Stamp, thread, event and record of one CPU: a vCPU that exits, is served, and enters again."""
    tid = 206 + cpu
    stamp = START + 300 * cpu
    for n in range(EVENTS // 8):
        cycle = (
            (EXIT, {"exit_reason": 0x7C, "guest_rip": 0xE9846 + n, "isa": 2, "info1": 1, "vcpu_id": cpu}),
            (MSR, {"write": 1, "ecx": 0x400000B0 + n % 8, "data": n << 20}),
            (SWITCH, {"prev_comm": COMMS[tid], "prev_pid": tid, "next_comm": "qemu", "next_pid": 200})
            if n % 2
            else (PRINT, {"ip": 0x1234, "buf": f"round {n}"}),
            (ENTRY, {"vcpu_id": cpu, "rip": 0xE9848 + n}),
        )
        for event, values in cycle:
            stamp += 1000 + 7 * n
            yield stamp, tid, event, event.record(tid, **values)


def trace_dat(version: int = 7, compression: str = "none", *, instance: bool = False) -> bytes:
    """A trace.dat; its second CPU lost events and has a time extend, an absolute stamp, a discarded event."""
    records = [[(stamp, data) for stamp, _, _, data in _records(cpu)] for cpu in (0, 1)]
    plain, (first,), rest = pages(records[0]), pages(records[1][:4]), pages(records[1][4:])
    odd = Page(
        first.stamp - 50, (Discarded(24, 20), Extend(10), Absolute(first.stamp), *first.events), missed=3
    )
    buffers = [Buffer({0: plain, 1: [odd, *rest]})]
    if instance:
        buffers.append(Buffer({0: [], 1: plain}, name="second"))
    host = TracingData(FORMATS, COMMS)
    return TraceDat(host, buffers, OPTIONS, version, compression, chunk_pages=1).pack()


def perf(*, pipe: bool = False, compressed: bool = False) -> bytes:
    """A perf.data with three kinds of attr, names, forks, a loss, and hardware trace data."""
    layouts = (
        perf_data.TRACEPOINTS,
        perf_data.TRACEPOINTS | perf_data.CALLCHAIN,
        perf_data.TRACEPOINTS | perf_data.READ,
    )
    attrs = {
        e.id: perf_data.Attr(e.id, (20 + 2 * n, 21 + 2 * n), layouts[n % 3], 4) for n, e in enumerate(FORMATS)
    }
    any_attr = attrs[ENTRY.id]
    names = [perf_data.comm(any_attr, 200, tid, name) for tid, name in COMMS.items()]
    first = [
        perf_data.mmap(any_attr, 200, 200, "/usr/bin/qemu"),
        perf_data.fork(any_attr, 200, 208, 200, START),
    ]
    samples = [
        perf_data.sample(
            attrs[event.id], stamp, data, cpu=cpu, pid=200, tid=tid, chain=(1, 2), misc=1 + 3 * (cpu & 1)
        )
        for cpu in (0, 1)
        for stamp, tid, event, data in _records(cpu)
    ]
    last = [
        perf_data.lost(any_attr, 7, START + 40_000, cpu=1),
        perf_data.lost_samples(any_attr, 2, START + 50_000),
        perf_data.auxtrace(b"\x5a" * 64),
        perf_data.exit_(any_attr, 200, 208, START + 60_000),
        perf_data.FINISHED_ROUND,
    ]
    features = {3: perf_data.string("host"), 4: perf_data.string("6.1.0-56-amd64")}
    body = b"".join(samples)
    if compressed:
        samples = perf_data.compress(body, (len(body) // 3, len(body) // 2))
        features |= perf_data.compressed_feature()
    whole = perf_data.PerfData(
        list(attrs.values()), [*names, *first, *samples, *last], TracingData(FORMATS, COMMS), features
    )
    return whole.pack_pipe() if pipe else whole.pack()


#: How each tool begins a line (comm, tid, cpu, stamp in µs) and names an event.
_LINES: dict[str, Callable[[str, int, int, int, str], str]] = {
    "ftrace": lambda comm, tid, cpu, us, name: (
        f"{comm:>16}-{tid:<7} [{cpu:03}] d..1. {us // 10**6:>5}.{us % 10**6:06}: {name}: "
    ),
    "report": lambda comm, tid, cpu, us, name: (
        f"{comm:>16}-{tid:<5} [{cpu:03}] {us // 10**6:>5}.{us % 10**6:06}: {name + ':':<20} "
    ),
    "script": lambda comm, tid, cpu, us, name: (
        f"{comm:>16} {tid:>5} [{cpu:03}] {us // 10**6:>5}.{us % 10**6:06}: {'kvm:' + name:>14}: "
    ),
}
_HEADS = {
    "ftrace": "# tracer: nop\n#\n# entries-in-buffer/entries-written: 240/240   #P:2\n#\n",
    "report": "cpus=2\n",
}


def text(tool: str) -> bytes:
    """What ftrace, trace-cmd report or perf script prints of such a recording."""
    out = _HEADS.get(tool, "")
    rows = sorted((stamp, cpu, tid) for cpu in (0, 1) for stamp, tid, *_ in _records(cpu))
    for n, (stamp, cpu, tid) in enumerate(rows):
        name, body = (
            (
                "kvm_exit",
                f"vcpu {cpu} reason msr rip 0x{0xE9846 + n:x} info1 0x0000000000000001"
                " info2 0x0000000000000000 intr_info 0x00000000 error_code 0x00000000",
            ),
            ("kvm_msr", f"msr_write {0x400000B0 + n % 8:x} = 0x{n << 20:x}"),
            ("kvm_hv_stimer_set_config", f"vcpu_id {cpu} timer 0 config 0x{n:x} host 0"),
            ("kvm_entry", f"vcpu {cpu}, rip 0x{0xE9848 + n:x}"),
        )[n % 4]
        if n == len(rows) // 2:
            out += "CPU:1 [LOST 3 EVENTS]\n" if tool == "ftrace" else ""
        out += _LINES[tool](COMMS[tid], tid, cpu, stamp // 1000, name) + body + "\n"
    return out.encode()


#: Name → writer. Every writer gives the same bytes each time.
def qemu_log(stamp: Callable[[int], str]) -> bytes:
    """EVENTS lines of QEMU's log; `stamp` gives what stands before an event, by its number."""
    texts = (
        "vmbus_recv_message type 14 size 40",
        "vmbus_msg_cb message status -11",
        "hv_balloon_state_change -> S_IDLE",
    )
    lines = [f"{stamp(n)}{texts[n % len(texts)]}\n" for n in range(EVENTS)]
    return "".join(lines).encode()


def simpletrace() -> bytes:
    """A file of QEMU's simple backend with EVENTS events."""
    names = ("vmbus_recv_message", "vmbus_msg_cb", "hv_balloon_state_change")
    arguments: tuple[tuple[int | str, ...], ...] = ((14, 40), (-11,), ("S_IDLE",))
    out = simple.header() + b"".join(simple.name(n, name) for n, name in enumerate(names))
    return out + b"".join(simple.event(n % 3, START + n * 1000, arguments[n % 3]) for n in range(EVENTS))


SAMPLES: dict[str, Callable[[], bytes]] = {
    "trace.dat 6": lambda: trace_dat(6),
    "trace.dat 6 with an instance": lambda: trace_dat(6, instance=True),
    "trace.dat 7": lambda: trace_dat(7),
    "trace.dat 7 zstd": lambda: trace_dat(7, "zstd", instance=True),
    "trace.dat 7 zlib": lambda: trace_dat(7, "zlib"),
    "perf.data": perf,
    "perf.data pipe": lambda: perf(pipe=True),
    "perf.data compressed": lambda: perf(compressed=True),
    "ftrace text": lambda: text("ftrace"),
    "report text": lambda: text("report"),
    "perf script text": lambda: text("script"),
    "QEMU log, threads": lambda: qemu_log(lambda n: f"{200 + n % 2}@5.{n:06}:"),
    "QEMU log, dates": lambda: qemu_log(lambda n: f"2026-11-20T10:00:00.{n:06}Z "),
    "QEMU log, no time": lambda: qemu_log(lambda n: ""),
    "QEMU simpletrace": simpletrace,
    "gzip": lambda: gzip.compress(trace_dat(6), mtime=0),
    "zstd": lambda: zstandard.ZstdCompressor().compress(perf()),
    "xz": lambda: lzma.compress(text("ftrace")),
}
