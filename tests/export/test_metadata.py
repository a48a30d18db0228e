"""Facts of a recording in its timeline: metadata, the slice that says what was recorded, processes and threads."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from builders.store import Row, tiny_store
from builders.timeline import Timeline, read_timeline
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace

from hvtrace import __version__
from hvtrace.export.perfetto import write_trace
from hvtrace.export.streams import Which
from hvtrace.export.texts import plain
from hvtrace.store import Store

EXIT: Row = (1000, "kvm_exit", 0, 0, {"exit_reason": 0x78, "isa": 2})
ENTRY: Row = (9000, "kvm_entry", 0, 0, {})


def store_of(path: Path, **manifest: Any) -> Store:
    """A store of one exit, 1 µs to 9 µs, whose manifest has these keys."""
    store = tiny_store(path / "s.hvt", [EXIT, ENTRY])
    file = store.path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | manifest))
    return Store(store.path)


def drawn(store: Store, which: Which | None = None) -> Timeline:
    out = io.BytesIO()
    write_trace(store, out, which)
    return read_timeline(out.getvalue())


def metadata(store: Store, which: Which | None = None) -> tuple[Any, dict[str, Any], tuple[int, int]]:
    """System information, other facts by name, the trace's uuid."""
    out = io.BytesIO()
    write_trace(store, out, which)
    packets = Trace.FromString(out.getvalue()).packet
    (info,) = [p.system_info for p in packets if p.HasField("system_info")]
    (uuid,) = [p.trace_uuid for p in packets if p.HasField("trace_uuid")]
    (facts,) = [p.chrome_events.metadata for p in packets if p.HasField("chrome_events")]
    values = {f.name: f.int_value if f.HasField("int_value") else f.string_value for f in facts}
    return info, values, (uuid.msb, uuid.lsb)


HOST = {
    "kernel": "6.1.0-test #1 SMP Debian",
    "cpu": "model name\t: A CPU",
    "tsc_khz": "2600000",
    "qemu_version": "QEMU 7.2",
    "qemu_command": "qemu -cpu host,hv-time -object secret,data=1234",
    "module_parameters": {"kvm": {"halt_poll_ns": "200000", "tdp_mmu": "Y"}},
}
SOURCE = {
    "name": "trace.dat",
    "size": 123,
    "format": "trace.dat 7",
    "facts": {"uname": "Linux h 6.1.0-test x86_64", "trace-cmd version": "3.1.6"},
    "damaged": 2,
    "damage": [{"offset": 7, "message": "cut short", "cut": True}],
}


def test_what_was_recorded_is_a_slice_over_all_of_it(tmp_path: Path) -> None:
    """Named after the recording; host, clock, guest flags, losses, damage and module parameters are its arguments."""
    lost = [
        {"cpu": 0, "from_ns": 1, "to_ns": 2, "count": 5},
        {"cpu": 1, "from_ns": 1, "to_ns": 2, "count": None},
    ]
    (source,) = drawn(store_of(tmp_path, host=HOST, sources=[SOURCE], lost=lost)).sources
    assert (source.track, source.name) == (("Recording", "Source"), "trace.dat")
    assert (source.start, source.end) == (1000, 9000)
    assert source.arguments == {
        "hvtrace": __version__,
        "host_kernel": "6.1.0-test",
        "kernel_version": "6.1.0-test #1 SMP Debian",
        "host_cpu": "A CPU",
        "tsc_khz": 2_600_000,
        "qemu_version": "QEMU 7.2",
        "machine": "x86_64",
        "trace_clock": "local",
        "clock_unit": "ns",
        "guest_flags": "-cpu host,hv-time",
        "vms": 1,
        "events": 2,
        "lost_events": "at least 6",
        "losses": 2,
        "format": "trace.dat 7",
        "size_bytes": 123,
        "damage": 2,
        "first_damage": "byte 7: cut short",
        "uname": "Linux h 6.1.0-test x86_64",
        "trace-cmd_version": "3.1.6",
        "kvm_halt_poll_ns": 200_000,
        "kvm_tdp_mmu": "Y",
    }


def test_of_several_recordings_each_has_its_slice(tmp_path: Path) -> None:
    """One beneath the other; a part of the recording has them over that part."""
    store = store_of(tmp_path, sources=[SOURCE, SOURCE | {"name": "b.dat"}])
    names = [
        (s.depth, s.name, s.start, s.end) for s in drawn(store, Which(first_ns=2000, last_ns=8000)).sources
    ]
    assert sorted(names) == [(0, "trace.dat", 2000, 8000), (1, "b.dat", 2000, 8000)]


def test_perfetto_is_told_host_and_maker(tmp_path: Path) -> None:
    """The kernel as uname says it; other facts under their names."""
    info, facts, _ = metadata(store_of(tmp_path, host=HOST, sources=[SOURCE]))
    assert info.tracing_service_version == f"hvtrace {__version__}"
    name = info.utsname
    assert (name.sysname, name.release, name.version) == ("Linux", "6.1.0-test", "#1 SMP Debian")
    assert name.machine == "x86_64"
    assert facts["recording"] == "trace.dat"
    assert facts["guest flags"] == "-cpu host,hv-time"
    assert facts["tsc khz"] == 2_600_000


def test_different_timelines_have_different_identities(tmp_path: Path) -> None:
    """The same store gives the same; another part of it, and another store, do not."""
    store, other = store_of(tmp_path / "a"), store_of(tmp_path / "b", kernel="6.2")
    parts = (Which(), Which(), Which(vcpu=0), Which(last_ns=5000))
    first, again, *others = [metadata(store, which)[2] for which in parts]
    assert first == again
    assert len({first, *others, metadata(other)[2]}) == 4


def vm(number: int, tids: list[int], **more: Any) -> dict[str, Any]:
    """A VM whose vCPUs have these threads, one each."""
    vcpus = [{"vcpu": n, "tids": [tid]} for n, tid in enumerate(tids)]
    return {"vm": number, "name": None, "vcpus": vcpus, "first_seq": 0, "last_seq": None, "tgid": None} | more


UNKNOWN = (4 << 20) + 1


@pytest.mark.parametrize(
    ("vms", "processes", "threads"),
    [
        # The process is known, and has a name.
        ([vm(0, [11, 12], tgid=10, name="win")], {10: "win"}, {11: (10, "vCPU 0"), 12: (10, "vCPU 1")}),
        # It is not known: a number no process can have.
        ([vm(0, [11])], {UNKNOWN: "VM 0"}, {11: (UNKNOWN, "vCPU 0")}),
        # One process, and one thread, was two VMs in turn: they stay two.
        (
            [vm(0, [10], tgid=10), vm(1, [10], tgid=10)],
            {10: "VM 0", UNKNOWN + 1: "VM 1"},
            {10: (10, "vCPU 0")},
        ),
        # No thread's numbers.
        ([vm(0, [0, -1], tgid=-1)], {UNKNOWN: "VM 0"}, {}),
    ],
)  # fmt: skip
def test_vms_are_processes_and_vcpus_are_threads(
    tmp_path: Path,
    vms: list[dict[str, Any]],
    processes: dict[int, str],
    threads: dict[int, tuple[int, str]],
) -> None:
    """By the numbers they had on the host."""
    timeline = drawn(store_of(tmp_path, vms=vms))
    assert timeline.processes == processes
    assert timeline.threads == threads


@pytest.mark.parametrize(
    ("command", "vms", "lines"),
    [
        ("qemu -cpu host,hv-time -object secret,data=1", 1, [["VM 0", "-cpu", "host,hv-time"]]),
        ("qemu -cpu a & qemu -cpu b", 2, []),
        ("qemu -cpu a & qemu -cpu a", 2, [["VM 0", "-cpu", "a"], ["VM 1", "-cpu", "a"]]),
    ],
)
def test_a_process_shows_the_flags_that_are_its_own(
    tmp_path: Path, command: str, vms: int, lines: list[list[str]]
) -> None:
    """Nothing else of the command line; nothing where it is not known which flags are whose."""
    store = store_of(tmp_path, host={"qemu_command": command}, vms=[vm(n, [n + 5]) for n in range(vms)])
    out = io.BytesIO()
    write_trace(store, out)
    trees = [p.process_tree for p in Trace.FromString(out.getvalue()).packet if p.HasField("process_tree")]
    assert [list(p.cmdline) for tree in trees for p in tree.processes] == lines
    about = read_timeline(out.getvalue()).tracks["VM 0",].description
    assert ("Guest flags" in about) == bool(lines)
    assert "secret" not in out.getvalue().decode("latin-1")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 日本", "plain é 日本"),
        ("two\nlines\tx", "two lines x"),
        ("\x1b[31m\x00", "\\x1b[31m\\x00"),
        ("\ud800 \u202egnp.exe", "\\ud800 \\u202egnp.exe"),
        ("a" * 1001, "a" * 999 + "…"),
        ("\x00" * 1000, ("\\x00" * 250)[:999] + "…"),
        (None, "None"),
        (7, "7"),
    ],
)
def test_what_a_recording_says_is_shown_as_one_line(text: object, shown: str) -> None:
    """Control characters, half characters and those that turn the line around are escaped; length has a bound."""
    assert plain(text) == shown


def test_a_recording_may_say_anything(tmp_path: Path) -> None:
    """Names and facts that are no text, no numbers or no end do not break the timeline."""
    evil = "\ud800\x1b\n" + "x" * 5000
    host = {"kernel": evil, "cpu": [evil], "tsc_khz": {"a": 1}, "qemu_command": f"-cpu {evil}"}
    host |= {"module_parameters": {evil: {evil: evil}, "kvm": 7, "many": {str(n): n for n in range(500)}}}
    source = {"name": evil, "size": -1, "format": None, "facts": {evil: evil, "": None}, "damage": [7]}
    facts: dict[str, Any] = {"kernel": evil, "clock": {"name": evil, "unit": "ns"}, "host": host}
    store = store_of(tmp_path, sources=[source, {}] * 30, vms=[vm(0, [5], name=evil)], **facts)
    timeline = drawn(store)
    assert len(timeline.sources) == 20
    texts = [str(v) for s in timeline.sources for pair in s.arguments.items() for v in pair]
    texts += [track.name for track in timeline.tracks.values()] + [*timeline.processes.values()]
    assert all(text.isprintable() and len(text) <= 1000 for text in texts)
