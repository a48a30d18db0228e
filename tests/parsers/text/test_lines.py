"""The part of a line before the event's text, in all forms that tracers and their tools write."""

from __future__ import annotations

from typing import Any

import pytest

from hvtrace.errors import InputError
from hvtrace.parsers.text import sniff_text

from .helpers import recording, rows

QEMU = ("qemu-system-x86", 206, 1, 16_754_942_000)
QEMU_NS = ("qemu-system-x86", 206, 1, 16_754_942_517)
VCPU = ("CPU 0/KVM", 206, 1, 16_754_942_000)

#: What the line is: the line up to the event's name, and the comm, tid, cpu and stamp (ns) it tells.
LINES = {
    "ftrace with five flags": (" qemu-system-x86-206     [001] d..1.    16.754942: ", QEMU),
    "ftrace with four flags": (" qemu-system-x86-206     [001] d..1    16.754942: ", QEMU),
    "ftrace without flags": (" qemu-system-x86-206     [001]    16.754942: ", QEMU),
    "thread group": ("       CPU 0/KVM-206     (    200) [001] d..1.    16.754942: ", VCPU),
    "thread group not known": ("       CPU 0/KVM-206     (-------) [001] d..1.    16.754942: ", VCPU),
    "idle": ("          <idle>-0       [000] d.h1.   812.010003: ", ("<idle>", 0, 0, 812_010_003_000)),
    "name not known": ("           <...>-77      [000] .....     1.000000: ", (None, 77, 0, 1_000_000_000)),
    "name with a CPU in it": (
        "  foo-12 [3] bar-9912345 [127] dNh1.     1.000000: ",
        ("foo-12 [3] bar", 9912345, 127, 1_000_000_000),
    ),
    "name with a colon": (
        "  kworker/u4:0-e-9       [000] .....     1.000000: ",
        ("kworker/u4:0-e", 9, 0, 1_000_000_000),
    ),
    "no name": ("                -9       [000] .....     1.000000: ", ("", 9, 0, 1_000_000_000)),
    "pasted without its margin": ("qemu-system-x86-206     [001] d..1.    16.754942: ", QEMU),
    "pasted with blanks squeezed": ("CPU 0/KVM-206 [001] d..1. 16.754942: ", VCPU),
    "report": (" qemu-system-x86-206   [001]    16.754942: ", QEMU),
    "report -t": (" qemu-system-x86-206   [001]    16.754942517: ", QEMU_NS),
    "report with flags": (" qemu-system-x86-206   [001] d..1.    16.754942: ", QEMU),
    "report -l": ("qemu-sys-206     1d..1.    16.754942: ", ("qemu-sys", *QEMU[1:])),
    "report of several buffers": ("kvmbuf:  qemu-system-x86-206   [001]    16.754942: ", QEMU),
    "report, the first of several": ("         qemu-system-x86-206   [001]    16.754942: ", QEMU),
    "quoted in a mail": (">  qemu-system-x86-206     [001] d..1.    16.754942: ", QEMU),
    "perf script": (" qemu-system-x86   206 [001]    16.754942:        kvm:", QEMU),
    "perf script --ns": (" qemu-system-x86   206 [001]    16.754942517:        kvm:", QEMU_NS),
    "perf script -F +pid": ("       CPU 0/KVM   200/206   [001]    16.754942:        kvm:", VCPU),
    "perf script -F -cpu": ("       CPU 0/KVM   206    16.754942:        kvm:", (*VCPU[:2], None, VCPU[3])),
    "perf script, thread gone": (
        "             :-1    -1 [001]     9.672271:  kvm:",
        (None, -1, 1, 9_672_271_000),
    ),
    "perf script squeezed": ("CPU 0/KVM 206 [001] 16.754942: kvm:", VCPU),
}
FTRACE = LINES["ftrace with five flags"][0]
REPORT = LINES["report"][0]
PERF = LINES["perf script"][0]


@pytest.mark.parametrize("end", ["\n", "\r\n", ""], ids=["lf", "crlf", "cut"])
@pytest.mark.parametrize("form", LINES)
def test_line_forms(form: str, end: str) -> None:
    """Thread, CPU and stamp of each form; line ends of another system, or none, change nothing."""
    start, expected = LINES[form]
    (row,) = rows(f"{start}kvm_fpu: load{end}")
    assert (row["comm"], row["tid"], row["cpu"], row["ts_ns"]) == expected
    assert (row["event"], row["load"]) == ("kvm_fpu", 1)


def test_thread_groups_and_names_are_kept() -> None:
    """What the lines say of threads is there when the recording has been read."""
    text = (
        "     CPU 0/KVM-4242  (   4230) [001] d..1.   812.000104: kvm_fpu: load\n"
        "           <...>-4243  (-------) [001] d..1.   812.000105: kvm_fpu: load\n"
    )
    opened = recording(text)
    list(opened.windows())
    assert opened.threads.tgids == {4242: 4230}
    assert opened.threads.comms == {4242: "CPU 0/KVM"}


def test_a_thread_s_last_name_counts() -> None:
    """Threads change their names; one that is not known for a while is no new name."""
    line = "  {:>14}-77      [000] .....     1.00000{}: kvm_fpu: load\n"
    opened = recording(
        "".join(line.format(name, i) for i, name in enumerate(["a", "CPU 0/KVM", "a", "<...>"]))
    )
    list(opened.windows())
    assert opened.threads.comms == {77: "a"}


def test_perf_tells_thread_groups_when_asked() -> None:
    opened = recording(LINES["perf script -F +pid"][0] + "kvm_fpu: load\n")
    list(opened.windows())
    assert opened.threads.tgids == {206: 200}


def test_interrupt_flags_are_kept_where_attribution_needs_them() -> None:
    """The third flag tells whether an event was recorded in an interrupt."""
    text = (
        "          <idle>-0       [000] d.h1.   812.010003: kvm_hv_stimer_callback: vcpu_id 1 timer 0\n"
        "          <idle>-0       [000] d..1.   812.010004: kvm_hv_stimer_callback: vcpu_id 1 timer 0\n"
    )
    assert [row["irq"] for row in rows(text)] == [True, False]


STAMPS = [
    ("ftrace, x86-tsc", " qemu-system-x86-204     [000] dN.1.  35939145308: ", "ticks", 35939145308),
    ("ftrace, counter", " qemu-system-x86-204     [000] dN.1.            7: ", "ticks", 7),
    ("report, x86-tsc", " qemu-system-x86-204   [000]  35939145308: ", "ticks", 35939145308),
    ("ftrace, seconds", " qemu-system-x86-204     [000] dN.1.     0.000007: ", "ns", 7000),
]


@pytest.mark.parametrize(("line", "unit", "ts"), [case[1:] for case in STAMPS], ids=[c[0] for c in STAMPS])
def test_stamps_keep_their_unit(line: str, unit: str, ts: int) -> None:
    """Whole numbers are ticks, and the recording says so."""
    assert recording(line + "kvm_fpu: load").clock.unit == unit
    assert [row["ts_ns"] for row in rows(line + "kvm_fpu: load")] == [ts]


def test_trace_cmd_prints_the_first_second_without_a_point() -> None:
    """Until one second trace-cmd report prints whole microseconds (ns with -t): seconds in the same file tell."""
    micro = (
        " qemu-system-x86-204   [000]        999983: kvm_fpu:              load\n"
        " qemu-system-x86-204   [000]     1.000012: kvm_fpu:              load\n"
    )
    nano = (
        " qemu-system-x86-204   [000]     999983417: kvm_fpu:              load\n"
        " qemu-system-x86-204   [000]     1.000012001: kvm_fpu:              load\n"
    )
    assert [row["ts_ns"] for row in rows(micro)] == [999_983_000, 1_000_012_000]
    assert [row["ts_ns"] for row in rows(nano)] == [999_983_417, 1_000_012_001]


def test_tsc_stamps_are_converted_where_the_frequency_is_known() -> None:
    """Cycles become ns, and are kept as they were; counts that are no cycles stay counts."""
    line = " qemu-system-x86-204     [000] dN.1. {:12d}: kvm_fpu: load\n"
    cycles = rows(line.format(2_600_000_000) + line.format(2_600_002_600), tsc_khz=2_600_000)
    assert [(row["ts_ns"], row["ts_raw"]) for row in cycles] == [
        (1_000_000_000, 2_600_000_000),
        (1_000_001_000, 2_600_002_600),
    ]
    counted = recording(line.format(7) + line.format(8), tsc_khz=2_600_000)
    assert (counted.clock.unit, counted.clock.raw) == ("ticks", False)


def test_lines_out_of_order_are_put_in_order() -> None:
    """trace_pipe writes CPU by CPU: rows follow the stamps, and equal stamps the file."""
    line = " qemu-system-x86-{}     [00{}] .....    16.{:06d}: kvm_set_irq: gsi {} level 1 source 0\n"
    text = "".join(line.format(*v) for v in [(206, 1, 5, 0), (206, 1, 9, 1), (207, 0, 5, 2), (207, 0, 7, 3)])
    assert [(row["seq"], row["gsi"]) for row in rows(text)] == [(0, 0), (1, 2), (2, 3), (3, 1)]


FORMATS: list[tuple[str, bytes, str | None]] = [
    ("header", b"# tracer: nop\n#\n# entries-in-buffer/entries-written: 0/0   #P:2\n", "ftrace text"),
    ("no header", f"{FTRACE}kvm_fpu: load\n".encode(), "ftrace text"),
    ("report's first line", b"cpus=2\n", "trace-cmd report text"),
    ("report without it", f"{REPORT}kvm_fpu:              load\n".encode(), "trace-cmd report text"),
    ("perf", f"{PERF}kvm_fpu: load\n".encode(), "perf script text"),
    (
        "perf's comments first",
        f"# ========\n# os release : 6.1.0\n{PERF}kvm_fpu: load".encode(),
        "perf script text",
    ),
    ("prose", b"This is not a recording at all.\nNot even nearly: no.\n", None),
    ("binary", bytes(range(256)) * 20, None),
    ("nothing", b"", None),
]


@pytest.mark.parametrize(("head", "kind"), [case[1:] for case in FORMATS], ids=[case[0] for case in FORMATS])
def test_formats_are_told_by_content(head: bytes, kind: str | None) -> None:
    assert sniff_text(head) == kind


def test_a_text_without_events_is_an_error() -> None:
    """The error names the file and what it begins with."""
    with pytest.raises(InputError, match=r"some\.txt.*Dear"):
        recording("Dear reader,\nthere is nothing here.\n")
    with pytest.raises(InputError, match="no event"):
        rows("# tracer: nop\n#\nnothing\n")


def test_perf_headers_tell_the_kernel() -> None:
    text = "# hostname : host7\n# os release : 6.1.0-56-amd64\n#\n" + PERF + "kvm_fpu: load" + "\n"
    opened = recording(text)
    list(opened.windows())
    assert (opened.kernel, opened.facts) == ("6.1.0-56-amd64", {"hostname": "host7"})


def test_foreign_lines_are_counted_and_shown() -> None:
    """Lines that are no events cost nothing but themselves: they are counted, some are kept with their number."""
    good = FTRACE + "kvm_fpu: load"
    cut = " qemu-system-x86-206     [001] d..1.    16.754943: kvm_msr: msr_wri"
    text = f"{good}\nhello\n\n{good}\n[  12.3] a kernel message\n{cut}\n"
    opened = recording(text)
    tables: list[dict[str, Any]] = [w.tables for w in opened.windows()]
    assert tables[0]["kvm_fpu"].num_rows == 2
    assert opened.not_understood.count == 3
    assert opened.not_understood.samples == [
        "line 6: kvm_msr: msr_wri",
        "line 2: hello",
        "line 5: [  12.3] a kernel message",
    ]


def test_undeclared_tracepoints_keep_their_text() -> None:
    """A tracepoint that is not declared has one column of its own."""
    (row,) = rows("          <idle>-0       [000] d.h1.   812.010003: irq_handler_entry: irq=4 name=ttyS0\n")
    assert row == {
        "event": "irq_handler_entry", "seq": 0, "ts_ns": 812_010_003_000, "cpu": 0, "tid": 0,
        "comm": "<idle>", "irq": True, "text": "irq=4 name=ttyS0",
    }  # fmt: skip


def test_call_chains_are_passed_over() -> None:
    """perf script -g prints them after the sample."""
    text = (
        PERF
        + "kvm_fpu: load"
        + "\n        ffffffff81234567 kvm_load+0x17 ([kernel.kallsyms])\n\n"
        + PERF
        + "kvm_fpu: load"
        + "\n"
    )
    opened = recording(text)
    assert sum(w.events for w in opened.windows()) == 2
    assert opened.not_understood.count == 0


def test_text_may_be_of_any_bytes() -> None:
    """Bytes that are not UTF-8 do no harm: names are readable as far as they can be."""
    line = b" qemu-syst\xff\xfe-x86-206     [001] d..1.    16.754942: some_event: caf\xc3\xa9 \xff\n"
    (row,) = rows(line)
    assert row["text"] == "caf?? ?"
    assert row["comm"] == "qemu-syst\ufffd\ufffd-x86"
