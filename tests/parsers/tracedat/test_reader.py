"""trace.dat as a recording: built from values, read back."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders.event_format import event_format
from builders.ring_buffer import Absolute, Data, Extend, Page
from builders.trace_dat import Buffer, Option, TraceDat, date, guest, trace_clock, tsc2nsec, uname
from builders.tracing_data import TracingData

from hvtrace.errors import InputError
from hvtrace.parsers.open import open_recording
from hvtrace.parsers.recording import Lost

MSR = event_format(
    "kvm", "kvm_msr", 70, [("unsigned int", "write"), ("u32", "ecx"), ("u64", "data"), ("u8", "exception")]
)
OTHER = event_format(
    "my", "my_event", 71, [("short", "temperature"), ("__data_loc char[]", "name"), ("u8[3]", "raw")]
)
HOST = TracingData((MSR, OTHER), {7: "CPU 0/KVM"})


def msr(index: int, pid: int = 7) -> bytes:
    return MSR.record(pid, write=1, ecx=index, data=0x1_2345_6789)


def write(tmp_path: Path, data: TraceDat) -> Path:
    path = tmp_path / "trace.dat"
    path.write_bytes(data.pack())
    return path


def rows(
    path: Path, table: str = "kvm_msr", *columns: str, tsc_khz: int | None = None
) -> list[tuple[object, ...]]:
    out = []
    for window in open_recording(path, tsc_khz).windows():
        batch = window.tables[table]
        out += list(zip(*(batch.column(c).to_pylist() for c in columns), strict=True))
    return out


ALL_FORMS = [(6, "none"), (7, "none"), (7, "zstd"), (7, "zlib")]


@pytest.mark.parametrize(("version", "compression"), ALL_FORMS)
def test_events_of_two_cpus_come_in_one_time_order(tmp_path: Path, version: int, compression: str) -> None:
    """Ties go to the lower CPU; names of threads come from the saved command lines."""
    cpus = {
        0: [Page(100, (Data(0, msr(1)), Data(10, msr(3))))],
        1: [Page(105, (Data(0, msr(2, 9)), Data(5, msr(4))))],
    }
    path = write(tmp_path, TraceDat(HOST, [Buffer(cpus)], version=version, compression=compression))
    assert rows(path, "kvm_msr", "seq", "ts_ns", "cpu", "tid", "comm", "ecx") == [
        (0, 100, 0, 7, "CPU 0/KVM", 1),
        (1, 105, 1, 9, None, 2),
        (2, 110, 0, 7, "CPU 0/KVM", 3),
        (3, 110, 1, 7, "CPU 0/KVM", 4),
    ]


def test_an_undeclared_event_is_decoded_by_the_format_in_the_file(tmp_path: Path) -> None:
    """Any tracepoint is read: numbers with their width and sign, dynamic strings, arrays as bytes."""
    record = OTHER.record(7, temperature=-40, name="fan", raw=b"\x01\x02\x03")
    path = write(tmp_path, TraceDat(HOST, [Buffer({0: [Page(1, (Data(0, record),))]})]))
    assert rows(path, "my_event", "temperature", "name", "raw") == [(-40, "fan", b"\x01\x02\x03")]


@pytest.mark.parametrize("size", [4096, 8192, 65536])
@pytest.mark.parametrize("version", [6, 7])
def test_sub_buffers_of_any_size(tmp_path: Path, size: int, version: int) -> None:
    """The size comes from the file, not from the host's page size."""
    pages = [Page(n * 1000, tuple(Data(1, msr(n * 100 + k)) for k in range(size // 60))) for n in range(3)]
    host = TracingData((MSR,), {}, sub_buffer=size)
    path = write(tmp_path, TraceDat(host, [Buffer({0: pages}, page_size=size)], version=version))
    assert [r[0] for r in rows(path, "kvm_msr", "ecx")] == [
        n * 100 + k for n in range(3) for k in range(size // 60)
    ]


def test_named_instances_are_read_with_the_top_level_buffer(tmp_path: Path) -> None:
    """`trace-cmd record -B`: the events of all buffers, in one time order."""
    buffers = [
        Buffer({0: [Page(10, (Data(0, msr(1)), Data(20, msr(3))))]}),
        Buffer({0: [Page(20, (Data(0, msr(2)),))]}, "guest"),
    ]
    for version in (6, 7):
        path = write(tmp_path, TraceDat(HOST, buffers, version=version))
        assert [r[0] for r in rows(path, "kvm_msr", "ecx")] == [1, 2, 3]


def test_losses_have_an_interval_and_where_known_a_count(tmp_path: Path) -> None:
    """From the last event before the page to the page's own stamp; None where nobody counted."""
    pages = [
        Page(100, (Data(5, msr(1)),)),
        Page(200, (Data(0, msr(2)),), 12),
        Page(300, (Data(0, msr(3)),), None),
    ]
    windows = list(open_recording(write(tmp_path, TraceDat(HOST, [Buffer({3: pages})]))).windows())
    assert [loss for w in windows for loss in w.lost] == [Lost(3, 105, 200, 12), Lost(3, 200, 300, None)]


def test_absolute_stamps_wrap_at_59_bits(tmp_path: Path) -> None:
    """The upper 5 bits come from the clock before, and are carried on when the 59 bits wrap."""
    top = 1 << 59
    page = Page(top - 4, (Data(0, msr(1)), Absolute(3), Data(0, msr(2)), Extend(top - 1), Data(1, msr(3))))
    path = write(tmp_path, TraceDat(HOST, [Buffer({0: [page]})]))
    assert rows(path, "kvm_msr", "ts_ns") == [(top - 4,), (top + 3,), (2 * top + 3,)]


def test_x86_tsc_stamps_are_converted_where_the_frequency_is_known(tmp_path: Path) -> None:
    """By the TSC2NSEC option, or by the frequency given; `ts_raw` keeps the cycles. Else `ts_ns` holds ticks."""
    buffer = Buffer({0: [Page(3_000_000_000, (Data(0, msr(1)),))]}, clock="x86-tsc")
    known = write(tmp_path, TraceDat(HOST, [buffer], (tsc2nsec(1 << 20, 21),)))
    assert rows(known, "kvm_msr", "ts_ns", "ts_raw") == [(1_500_000_000, 3_000_000_000)]
    unknown = write(tmp_path, TraceDat(HOST, [buffer]))
    assert open_recording(unknown).clock.unit == "ticks"
    assert rows(unknown, "kvm_msr", "ts_ns") == [(3_000_000_000,)]
    assert rows(unknown, "kvm_msr", "ts_ns", "ts_raw", tsc_khz=3_000_000) == [(1_000_000_000, 3_000_000_000)]


CLOCKS = ["local", "global", "perf", "mono", "mono_raw", "boot", "tai", "uptime"]


@pytest.mark.parametrize("version", [6, 7])
@pytest.mark.parametrize("clock", CLOCKS)
def test_nanosecond_clocks(tmp_path: Path, clock: str, version: int) -> None:
    """The clock's name is kept; its stamps are ns."""
    buffer = Buffer({0: [Page(1, (Data(0, msr(1)),))]}, clock=clock)
    recording = open_recording(write(tmp_path, TraceDat(HOST, [buffer], (trace_clock(clock),), version)))
    assert (recording.clock.name, recording.clock.unit, recording.clock.raw) == (clock, "ns", False)


def test_options_the_reader_knows_and_those_it_does_not(tmp_path: Path) -> None:
    """--date shifts stamps, UNAME tells the kernel, GUEST maps threads to vCPUs; an unknown option is passed over."""
    options = (date(2), uname("Linux h 6.9.1-x x86_64"), guest("win", 5, {0: 700}), Option(99, b"\xff" * 50))
    path = write(tmp_path, TraceDat(HOST, [Buffer({0: [Page(10, (Data(0, msr(1)),))]})], options))
    recording = open_recording(path)
    assert recording.kernel == "6.9.1-x"
    assert recording.threads.guests == {700: ("win", 0)}
    assert recording.facts["date offset ns"] == "2000"
    assert rows(path, "kvm_msr", "ts_ns") == [(2010,)]


def test_a_file_cut_inside_its_pages_keeps_what_is_whole(tmp_path: Path) -> None:
    """Events before the cut are there; the missing bytes are reported with their offset."""
    pages = [Page(n, tuple(Data(1, msr(n)) for _ in range(50))) for n in range(4)]
    data = TraceDat(HOST, [Buffer({0: pages})], version=6).pack()
    path = tmp_path / "cut.dat"
    path.write_bytes(data[: len(data) - 4096 - 4096 + 400])
    recording = open_recording(path)
    found = sum(w.events for w in recording.windows())
    assert 100 < found < 150
    assert any("past the end of the file" in d.message for d in recording.damage)
    assert all(d.cut for d in recording.damage)


def test_a_version_7_file_cut_before_its_table_of_buffers_keeps_its_pages(tmp_path: Path) -> None:
    """Compressed runs are found behind the options; as nobody knows what is missing, everything is declared lossy."""
    pages = [Page(n * 100, tuple(Data(1, msr(n)) for _ in range(50))) for n in range(4)]
    data = TraceDat(HOST, [Buffer({0: pages, 1: pages})], compression="zstd", chunk_pages=1).pack()
    path = tmp_path / "cut.dat"
    path.write_bytes(data[: data.rfind(b"\x28\xb5\x2f\xfd")])
    recording = open_recording(path)
    windows = list(recording.windows())
    assert sum(w.events for w in windows) >= 200
    assert Lost(None, None, None, None) in windows[0].lost


@pytest.mark.parametrize("version", [6, 7])
def test_no_events_at_all(tmp_path: Path, version: int) -> None:
    """CPUs without data give no windows, and no complaint."""
    recording = open_recording(write(tmp_path, TraceDat(HOST, [Buffer({0: [], 1: []})], version=version)))
    assert [w.events for w in recording.windows()] == []
    assert recording.damage == []


REFUSED = [
    (b"\x17\x08\x44tracing8\0\0\x08", "trace.dat version '8' is not supported (6 and 7 are)"),
    (b"\x17\x08\x44tracing6\0\x01\x08", "the recording is big-endian, which is not supported"),
    (b"\x17\x08\x44tracing6\0\0\x07", "a long of 7 bytes"),
    (b"\x17\x08\x44tracing6\0\0\x08\0\x10\0\0", "the file ends inside the header"),
    (b"\x17\x08\x44tracing7\0\0\x08\0\x10\0\0lz4\0001\0" + bytes(8), "compression 'lz4' is not supported"),
]


@pytest.mark.parametrize(("data", "message"), REFUSED)
def test_what_cannot_be_read_is_refused_by_name_and_offset(tmp_path: Path, data: bytes, message: str) -> None:
    """One error that names file, offset and reason."""
    path = tmp_path / "bad.dat"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        open_recording(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: offset 0x")
