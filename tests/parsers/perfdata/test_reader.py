"""perf.data as a recording: built from values, read back."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from builders import perf_data as perf
from builders.event_format import event_format
from builders.perf_data import Attr, PerfData
from builders.tracing_data import TracingData

from hvtrace.errors import InputError
from hvtrace.parsers.open import open_recording
from hvtrace.parsers.recording import Lost, Recording

MSR = event_format(
    "kvm", "kvm_msr", 70, [("unsigned int", "write"), ("u32", "ecx"), ("u64", "data"), ("u8", "exception")]
)
OTHER = event_format("my", "my_event", 71, [("short", "temperature"), ("__data_loc char[]", "name")])
HOST = TracingData((MSR, OTHER))

#: The ids are those of CPU 0 and CPU 1.
MSRS = Attr(70, (10, 11))
OTHERS = Attr(71, (20, 21), perf.TRACEPOINTS | perf.CALLCHAIN | perf.READ, read_format=1 | 2 | 4)
CYCLES = Attr(0, (30, 31), perf.TRACEPOINTS & ~perf.RAW, type=0)

Row = tuple[object, ...]


def msr(time: int, index: int, *, cpu: int = 0, tid: int = 7, misc: int = 1) -> bytes:
    """A sample of kvm_msr."""
    return perf.sample(MSRS, time, MSR.record(tid, ecx=index), cpu=cpu, pid=5, tid=tid, misc=misc)


def recording(path: Path, records: Sequence[bytes], *attrs: Attr, **features: bytes) -> Recording:
    """A perf.data file of these records, opened."""
    bits = {int(name[1:]): body for name, body in features.items()}
    path = path / "perf.data"
    path.write_bytes(PerfData(attrs or (MSRS,), records, HOST, bits).pack())
    return open_recording(path)


def rows(opened: Recording, table: str, *columns: str) -> list[Row]:
    out: list[Row] = []
    for window in opened.windows():
        if table in window.tables:
            out += zip(*(window.tables[table].column(c).to_pylist() for c in columns), strict=True)
    return out


def lost(opened: Recording) -> list[Lost]:
    return [x for window in opened.windows() for x in window.lost]


def as_file(path: Path, records: list[bytes]) -> Path:
    path.write_bytes(PerfData((MSRS,), records, HOST).pack())
    return path


def as_pipe(path: Path, records: list[bytes]) -> Path:
    path.write_bytes(PerfData((MSRS,), records, HOST).pack_pipe())
    return path


def as_compressed(path: Path, records: list[bytes]) -> Path:
    body = b"".join(records)
    packed = perf.compress(body, (len(body) // 3, len(body) // 2))
    path.write_bytes(PerfData((MSRS,), packed, HOST, perf.compressed_feature()).pack())
    return path


def as_compressed_unannounced(path: Path, records: list[bytes]) -> Path:
    body = b"".join(records)
    packed = perf.compress(body, (len(body) // 3, len(body) // 2), padded=True)
    path.write_bytes(PerfData((MSRS,), packed, HOST).pack_pipe())
    return path


def as_directory(path: Path, records: list[bytes]) -> Path:
    path.mkdir()
    (path / "data").write_bytes(PerfData((MSRS,), records[:1], HOST).pack())
    (path / "data.0").write_bytes(b"".join(records[1:3]))
    (path / "data.1").write_bytes(b"".join(records[3:]))
    return path


@pytest.mark.parametrize("form", [as_file, as_pipe, as_compressed, as_compressed_unannounced, as_directory])
def test_samples_come_in_one_time_order_whatever_the_form(tmp_path: Path, form: object) -> None:
    """Those of one stamp keep the order of the file; the round's end means nothing."""
    records = [
        msr(100, 1),
        msr(130, 4),
        perf.FINISHED_ROUND,
        msr(110, 2, cpu=1),
        msr(130, 5, cpu=1),
        msr(120, 3, cpu=1),
        perf.FINISHED_ROUND,
    ]
    assert callable(form)
    opened = open_recording(form(tmp_path / "perf.data", records))
    assert rows(opened, "kvm_msr", "seq", "ts_ns", "cpu", "tid", "ecx") == [
        (0, 100, 0, 7, 1),
        (1, 110, 1, 7, 2),
        (2, 120, 1, 7, 3),
        (3, 130, 0, 7, 4),
        (4, 130, 1, 7, 5),
    ]
    assert opened.damage == []
    assert opened.threads.tgids == {7: 5}


def test_windows_may_be_read_again(tmp_path: Path) -> None:
    """The second time gives the same, damage and what was not understood included."""
    opened = recording(tmp_path, [msr(100, 1), perf.record(300), msr(110, 2)])
    assert rows(opened, "kvm_msr", "ecx") == rows(opened, "kvm_msr", "ecx") == [(1,), (2,)]
    assert (opened.not_understood.count, opened.not_understood.samples) == (1, ["a record of type 300"])


def test_samples_of_several_layouts_are_told_apart_by_id(tmp_path: Path) -> None:
    """Counter values and call chains stand before the record and vary in length."""
    record = OTHER.record(7, temperature=-4, name="fan")
    records = [
        perf.sample(OTHERS, 110, record, cpu=1, tid=7, chain=(1, 2, 3)),
        msr(100, 1),
        perf.sample(OTHERS, 120, record, tid=7),
    ]
    opened = recording(tmp_path, records, MSRS, OTHERS)
    assert rows(opened, "my_event", "seq", "ts_ns", "cpu", "temperature", "name") == [
        (1, 110, 1, -4, "fan"),
        (2, 120, 0, -4, "fan"),
    ]
    assert rows(opened, "kvm_msr", "seq", "ecx") == [(0, 1)]


def test_a_group_of_counters_is_passed_over(tmp_path: Path) -> None:
    """READ with PERF_FORMAT_GROUP: its length is told by its first number."""
    group = Attr(70, (10, 11), perf.TRACEPOINTS | perf.READ, read_format=1 | 4 | 8)
    opened = recording(tmp_path, [perf.sample(group, 100, MSR.record(7, ecx=1), tid=7)], group)
    assert rows(opened, "kvm_msr", "ts_ns", "ecx") == [(100, 1)]


def test_samples_of_other_events_are_counted(tmp_path: Path) -> None:
    """A hardware event has no record; it is named by EVENT_DESC."""
    name = b"cycles".ljust(64, b"\0")
    body = struct.pack("<II", 1, 128) + CYCLES.pack()
    body += struct.pack("<II", 2, 64) + name + struct.pack("<QQ", *CYCLES.ids)
    records = [perf.sample(CYCLES, 90, b""), msr(100, 1), perf.sample(CYCLES, 110, b"", cpu=1)]
    opened = recording(tmp_path, records, MSRS, CYCLES, _12=body)
    assert rows(opened, "kvm_msr", "ecx") == [(1,)]
    assert opened.not_understood.count == 2
    assert opened.not_understood.samples == ["a sample of cycles: holds no tracepoint's record with its time"]


def test_samples_without_a_format_are_counted_by_name(tmp_path: Path) -> None:
    """Without tracing data the names are those of EVENT_DESC."""
    name = b"kvm:kvm_msr".ljust(64, b"\0")
    body = struct.pack("<II", 1, 128) + MSRS.pack()
    body += struct.pack("<II", 2, 64) + name + struct.pack("<QQ", *MSRS.ids)
    path = tmp_path / "perf.data"
    path.write_bytes(PerfData((MSRS,), [msr(100, 1)], TracingData((OTHER,)), {12: body}).pack())
    opened = open_recording(path)
    assert sum(w.events for w in opened.windows()) == 0
    assert opened.not_understood.samples == ["event id 70 (kvm:kvm_msr): the file has no format of it"]


def test_guest_mode_samples_are_samples(tmp_path: Path) -> None:
    """misc says in which mode the CPU was: guest kernel (4) and guest user (5) are events like others."""
    opened = recording(tmp_path, [msr(100 + n, n, misc=n) for n in (1, 2, 4, 5)])
    assert rows(opened, "kvm_msr", "ecx") == [(1,), (2,), (4,), (5,)]


def test_a_thread_has_the_name_it_had_then(tmp_path: Path) -> None:
    """What perf found at its start (stamp 0) holds always; a fork inherits; a name holds from its stamp on."""
    records = [
        perf.comm(MSRS, 5, 5, "qemu"),
        perf.fork(MSRS, 5, 7, 5, 100),
        perf.comm(MSRS, 5, 7, "CPU 0/KVM", 120),
        *(msr(time, 0, tid=tid) for time in (90, 110, 120, 130) for tid in (5, 7, 0)),
    ]
    opened = recording(tmp_path, records)
    assert rows(opened, "kvm_msr", "ts_ns", "tid", "comm") == [
        (90, 5, "qemu"),
        (90, 7, None),
        (90, 0, "<idle>"),
        (110, 5, "qemu"),
        (110, 7, "qemu"),
        (110, 0, "<idle>"),
        (120, 5, "qemu"),
        (120, 7, "CPU 0/KVM"),
        (120, 0, "<idle>"),
        (130, 5, "qemu"),
        (130, 7, "CPU 0/KVM"),
        (130, 0, "<idle>"),
    ]
    assert opened.threads.comms == {0: "<idle>", 5: "qemu", 7: "CPU 0/KVM"}
    assert opened.threads.tgids[7] == 5


def test_a_loss_lies_after_the_last_sample_of_its_cpu(tmp_path: Path) -> None:
    """LOST is written when there is room again; its own stamp ends the interval."""
    records = [msr(100, 1, cpu=1), msr(110, 2), perf.lost(MSRS, 7, 150, cpu=1), msr(160, 3, cpu=1)]
    assert lost(recording(tmp_path, records)) == [Lost(1, 100, 150, 7)]


def test_totals_at_the_end_count_only_what_was_not_reported(tmp_path: Path) -> None:
    """LOST_SAMPLES without a stamp repeats each event's losses; only the rest is another loss.

    Those a filter dropped on purpose (misc bit 15) are none.
    """
    total = struct.pack("<Q", 9) + perf.trailer(MSRS, 0, cpu=1)
    index = struct.pack("<QQQQQ", 1, 11, 0, 1, (1 << 64) - 1)
    records = [
        perf.record(69, index),
        msr(100, 1, cpu=1),
        perf.lost(MSRS, 7, 150, cpu=1),
        msr(160, 2, cpu=1),
        perf.record(13, total),
        perf.record(13, total, misc=1 << 15),
    ]
    found = lost(recording(tmp_path, records))
    assert [(x.cpu, x.to_ns, x.count) for x in found] == [(1, 150, 7), (1, None, 2)]


def test_data_outside_records_and_unknown_records_are_passed_over(tmp_path: Path) -> None:
    """AUXTRACE says how many bytes follow it, which may look like anything."""
    records = [
        msr(100, 1),
        perf.auxtrace(b"".join(msr(1, 99) for _ in range(300))),
        perf.record(99, b"whatever"),
        perf.record(40, b"kernel"),
        msr(110, 2),
    ]
    opened = recording(tmp_path, records)
    assert rows(opened, "kvm_msr", "ecx") == [(1,), (2,)]
    assert sorted(opened.not_understood.samples) == ["a record of type 40", "a record of type 99"]
    assert opened.damage == []


def test_a_sample_without_cpu_takes_that_of_its_id(tmp_path: Path) -> None:
    """ID_INDEX tells on which CPU an id counts; that the CPU is not recorded is said."""
    attr = Attr(70, (10, 11), perf.TRACEPOINTS & ~perf.CPU)
    index = struct.pack("<QQQQQ", 1, 11, 0, 3, (1 << 64) - 1)
    record = MSR.record(7)
    samples = [perf.sample(attr, 100 + cpu, record, cpu=cpu, tid=7) for cpu in (0, 1)]
    opened = recording(tmp_path, [perf.record(69, index), *samples], attr)
    assert rows(opened, "kvm_msr", "ts_ns", "cpu") == [(100, 0), (101, 3)]
    assert [d.message.split(":")[0] for d in opened.damage] == ["samples do not tell their CPU"]


@pytest.mark.parametrize(
    ("flags", "clockid", "name"),
    [(0, 0, "perf"), (1 << 25, 1, "mono"), (1 << 25, 7, "boot"), (1 << 25, 11, "tai")],
)
def test_the_clock_is_the_one_asked_for(tmp_path: Path, flags: int, clockid: int, name: str) -> None:
    """`perf record -k`; without it perf's own clock."""
    attr = Attr(70, (10, 11), flags=perf.SAMPLE_ID_ALL | flags, clockid=clockid)
    opened = recording(tmp_path, [], attr)
    assert (opened.clock.name, opened.clock.unit) == (name, "ns")


def test_facts(tmp_path: Path) -> None:
    """The kernel's release is the host's; the command line is told, the host's name is not."""
    features = {
        "_3": perf.string("secret"),
        "_4": perf.string("6.1.0-56-amd64"),
        "_11": struct.pack("<I", 2) + perf.string("perf") + perf.string("record"),
    }
    opened = recording(tmp_path, [], **features)
    assert opened.kernel == "6.1.0-56-amd64"
    assert opened.facts == {"arch": "x86_64", "cmdline": "perf record"}


def test_time_of_day_is_told_where_the_recorder_noted_it(tmp_path: Path) -> None:
    """`perf record -k mono` notes the clock's time and the time of day at one moment."""
    features = {"_29": struct.pack("<IIQQ", 1, 1, 1_700_000_000_000_000_000, 5_000_000_000)}
    opened = recording(tmp_path, [], **features)
    assert opened.facts == {
        "arch": "x86_64",
        "clock": "mono",
        "clock ns": "5000000000",
        "time of day ns": "1700000000000000000",
    }


@pytest.mark.parametrize(("magic", "what"), [(b"2ELIFREP", "big-endian"), (b"PERFFILE", "version 1")])
def test_what_is_not_supported_is_said(tmp_path: Path, magic: bytes, what: str) -> None:
    """A file of another byte order or version is no foreign file: the message says what it is."""
    path = tmp_path / "perf.data"
    path.write_bytes(magic + bytes(200))
    with pytest.raises(InputError, match=what):
        open_recording(path)


def test_a_cut_pipe_keeps_what_is_whole(tmp_path: Path) -> None:
    """The last record is cut: where it begins is said."""
    path = tmp_path / "perf.data"
    whole = PerfData((MSRS,), [msr(100, 1), msr(110, 2)], HOST).pack_pipe()
    path.write_bytes(whole[:-5])
    opened = open_recording(path)
    assert rows(opened, "kvm_msr", "ecx") == [(1,)]
    assert [d.offset for d in opened.damage] == [len(whole) - len(msr(110, 2))]


def test_a_recording_that_was_killed_is_read_to_its_end(tmp_path: Path) -> None:
    """Its header says that there are no records, and its features were never written."""
    data = bytearray(PerfData((MSRS,), [msr(100, 1)], HOST).pack())
    struct.pack_into("<Q", data, 48, 0)
    path = tmp_path / "perf.data"
    path.write_bytes(data)
    opened = open_recording(path)
    list(opened.windows())
    assert opened.damage[0].message.startswith("the recorder did not finish the file")
    assert opened.not_understood.samples[0] == "event id 70: the file has no format of it"


@pytest.mark.parametrize("size", [0, 4, 20, 0xFFF8])
def test_a_damaged_size_costs_one_record(tmp_path: Path, size: int) -> None:
    """Records are found again behind it."""
    records = [msr(100 + n, n) for n in range(100)]
    records[50] = records[50][:6] + struct.pack("<H", size) + records[50][8:]
    opened = recording(tmp_path, records)
    assert rows(opened, "kvm_msr", "ecx") == [(n,) for n in range(100) if n != 50]
    (damage,) = opened.damage
    assert damage.message == f"no record begins here: {len(records[50])} bytes are passed over"


def test_a_sample_too_short_for_its_layout_is_left_out(tmp_path: Path) -> None:
    """A record that its size field cuts short is damage of its own place only."""
    short = bytearray(msr(110, 2))
    struct.pack_into("<I", short, 8 + 48, 1 << 20)
    opened = recording(tmp_path, [msr(100, 1), bytes(short), msr(120, 3)])
    assert rows(opened, "kvm_msr", "ecx") == [(1,), (3,)]
    assert [d.message for d in opened.damage] == ["a sample is shorter than its event's layout says"]


def test_damage_between_records_is_a_loss_there(tmp_path: Path) -> None:
    """Samples may have stood in the bytes passed over: of the CPU around them, between its stamps."""
    records = [msr(100 + n, n, cpu=1) for n in range(100)]
    records[50] = records[50][:6] + bytes(2) + records[50][8:]
    assert lost(recording(tmp_path, records)) == [Lost(1, 149, 151, None)]


def test_a_cut_file_has_lost_its_end(tmp_path: Path) -> None:
    """Each CPU's buffer was being written in turn: what is missing may begin after any CPU's last sample."""
    path = tmp_path / "perf.data"
    samples = [msr(100, 1), msr(110, 2, cpu=1), msr(120, 3, cpu=1)]
    path.write_bytes(PerfData((MSRS,), samples, HOST).pack_pipe()[:-8])
    assert lost(open_recording(path)) == [Lost(None, 100, None, None)]


def test_a_sample_that_cannot_be_read_is_a_loss(tmp_path: Path) -> None:
    """Its stamp is known, and that is all."""
    short = bytearray(msr(110, 2))
    struct.pack_into("<I", short, 8 + 48, 1 << 20)
    assert lost(recording(tmp_path, [msr(100, 1), bytes(short)])) == [Lost(None, 110, 110, 1)]


def test_losses_beyond_measure_are_told_by_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory stays bounded: one interval a CPU then holds all its losses."""
    monkeypatch.setattr("hvtrace.parsers.perfdata.index.MAX_LOST", 2)
    records = [msr(100, 1), *(perf.lost(MSRS, n, 100 + 10 * n, cpu=n % 2) for n in range(1, 5)), msr(160, 2)]
    assert sorted(lost(recording(tmp_path, records)), key=str) == [
        Lost(0, 100, 140, 6),
        Lost(1, None, 130, 4),
    ]


def test_names_beyond_measure_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many threads may be named; the others have no name."""
    monkeypatch.setattr("hvtrace.parsers.perfdata.threads.MAX_RENAMES", 1)
    names = [perf.comm(MSRS, 5, 5, "qemu"), perf.comm(MSRS, 5, 7, "CPU 0/KVM")]
    opened = recording(tmp_path, [*names, msr(100, 1, tid=5), msr(110, 2)])
    assert rows(opened, "kvm_msr", "comm") == [("qemu",), (None,)]
    assert opened.not_understood.count == 1


def test_progress_grows_to_the_size_of_the_file(tmp_path: Path) -> None:
    """Both passes over the records count, each half."""
    opened = recording(tmp_path, [msr(100 + n, n) for n in range(1000)])
    told: list[int] = []
    list(opened.windows(told.append))
    assert told == sorted(told)
    assert 0.9 * opened.source.size < told[-1] <= opened.source.size
