"""Recording → store, as a user sees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from recordings import get
from tapes import window

from hvtrace.errors import HvtraceError, InputError
from hvtrace.pipeline.ingest import ingest
from hvtrace.pipeline.merge import merge

COMMON = ["seq", "ts_ns", "cpu", "tid", "comm", "vm", "vcpu"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("ingest") / "synic.hvt"
    ingest([get("kut-hyperv_synic") / "trace.dat"], target)
    return target


def test_every_table_starts_with_the_common_columns_and_is_sorted(store: Path) -> None:
    """`seq` is unique and gapless over all tables; within a table rows are in its order and in time."""
    seqs = []
    for path in (store / "events").iterdir():
        table = pl.read_parquet(path)
        assert table.columns[:7] == COMMON
        assert table["seq"].is_sorted()
        assert table["ts_ns"].is_sorted()
        seqs.append(table["seq"])
    together = pl.concat(seqs).sort()
    assert together.to_list() == list(range(len(together)))


def test_fields_keep_the_kernels_names_width_and_sign(store: Path) -> None:
    """u64 stays uint64; decoded names stand beside the number."""
    table = pl.read_parquet(store / "events/kvm_exit.parquet")
    assert dict(table.schema) | {
        "exit_reason": pl.UInt32,
        "info1": pl.UInt64,
        "vcpu_id": pl.UInt32,
        "exit_reason_name": pl.Categorical,
    } == dict(table.schema)
    assert set(table.filter(pl.col("exit_reason") == 0x7C)["exit_reason_name"].cast(pl.String)) == {"msr"}


def test_the_manifest_says_what_there_is(store: Path) -> None:
    """Source, clock, kernel, host facts from meta.json, counts, time, VMs."""
    manifest = json.loads((store / "manifest.json").read_text())
    assert manifest["format_version"] == 1
    assert manifest["sources"][0]["name"] == "trace.dat"
    assert manifest["sources"][0]["format"] == "trace.dat 7"
    assert manifest["clock"] == {"name": "local", "unit": "ns", "raw": False}
    assert manifest["kernel"] == "6.1.0-56-amd64"
    assert manifest["host"]["module_parameters"]["kvm"]["halt_poll_ns"] == "200000"
    assert manifest["total"] == sum(manifest["events"].values()) == 21318
    assert [[v["vcpu"] for v in vm["vcpus"]] for vm in manifest["vms"]] == [[0, 1]]


def test_x86_tsc_takes_its_frequency_from_the_metadata(tmp_path: Path) -> None:
    """meta.json beside the recording knows the TSC's frequency: `ts_ns` is ns, `ts_raw` the cycles."""
    manifest = ingest([get("clock-x86-tsc") / "trace.dat"], tmp_path / "tsc.hvt")
    assert manifest.clock == {"name": "x86-tsc", "unit": "ns", "raw": True}
    table = pl.read_parquet(tmp_path / "tsc.hvt/events/kvm_entry.parquet")
    assert table.columns[:8] == [*COMMON, "ts_raw"]
    khz = int(manifest.host["tsc_khz"])
    assert (table["ts_raw"] * 1_000_000 // khz - table["ts_ns"]).abs().max() <= 1


def test_without_metadata_tsc_stamps_stay_ticks(tmp_path: Path) -> None:
    """Nothing knows the frequency: the manifest's clock says ticks."""
    alone = tmp_path / "alone.dat"
    alone.write_bytes((get("clock-x86-tsc") / "trace.dat").read_bytes())
    manifest = ingest([alone], tmp_path / "ticks.hvt")
    assert manifest.clock == {"name": "x86-tsc", "unit": "ticks", "raw": False}


def test_a_store_is_replaced_only_when_asked(tmp_path: Path) -> None:
    """An existing store needs `force`; anything else that exists is left alone."""
    recording = get("baseline-hvmut-stimer") / "trace.dat"
    target = tmp_path / "x.hvt"
    ingest([recording], target)
    with pytest.raises(InputError, match="exists already"):
        ingest([recording], target)
    ingest([recording], target, force=True)
    other = tmp_path / "dear.hvt"
    other.mkdir()
    (other / "letter").write_text("dear")
    with pytest.raises(InputError, match="is no hvtrace store"):
        ingest([recording], other, force=True)
    assert (other / "letter").read_text() == "dear"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dear.hvt", "x.hvt"]


def test_nothing_is_left_of_an_ingest_that_failed(tmp_path: Path) -> None:
    """A recording without events is an error that leaves no store and no scratch."""
    path = tmp_path / "in" / "cut.dat"
    path.parent.mkdir()
    path.write_bytes((get("kut-hyperv_synic") / "trace.dat").read_bytes()[:3000])
    with pytest.raises(HvtraceError):
        ingest([path], tmp_path / "out" / "cut.hvt")
    assert not list(tmp_path.glob("out/*"))
    assert not list(tmp_path.glob("out/.*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_ingest_leaves_nothing(tmp_path: Path, number: int) -> None:
    """Ctrl-C and kill: the process ends, no store and no scratch remain."""
    code = (
        "import sys, os, signal, threading\n"
        "import hvtrace.store.writer as w\n"
        "import hvtrace.cli.main as m\n"
        # A background job starts with Ctrl-C ignored; a terminal's does not.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "old = w.StoreWriter.append\n"
        "def slow(self, name, batch):\n"
        "    print('writing', flush=True); sys.stdin.readline(); return old(self, name, batch)\n"
        "w.StoreWriter.append = slow\n"
        "m.main(sys.argv[1:])\n"
    )
    recording = str(get("kut-hyperv_synic") / "trace.dat")
    process = subprocess.Popen(
        [sys.executable, "-c", code, "ingest", recording, "-o", str(tmp_path / "x.hvt")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    assert [p.name.startswith(".x.hvt.partial") for p in tmp_path.iterdir()] == [True]
    os.kill(process.pid, number)
    assert process.wait(timeout=100) not in (0, 1)
    process.communicate()
    assert list(tmp_path.iterdir()) == []


def test_several_recordings_of_one_run_become_one(tmp_path: Path) -> None:
    """Windows of two recordings are merged by time, ties in the order given; `seq` is gapless."""
    one = [window("10 0 7 kvm_fpu load=1\n30 0 7 kvm_fpu load=1"), window("50 0 7 kvm_fpu load=1")]
    two = [window("20 1 8 kvm_fpu load=0\n30 1 8 kvm_fpu load=0\n60 1 8 kvm_fpu load=0")]
    rows = []
    base = 0
    for merged in merge([iter(one), iter(two)]):
        table = merged.tables["kvm_fpu"]
        rows += [
            (base + s, t, i)
            for s, t, i in zip(*(table.column(c).to_pylist() for c in ("seq", "ts_ns", "tid")), strict=True)
        ]
        base += merged.events
    assert rows == [(0, 10, 7), (1, 20, 8), (2, 30, 7), (3, 30, 8), (4, 50, 7), (5, 60, 8)]


def test_the_same_recording_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two ingests write identical tables."""
    recording = get("baseline-hvmut-stimer") / "trace.dat"
    for name in ("a.hvt", "b.hvt"):
        ingest([recording], tmp_path / name)
    for path in (tmp_path / "a.hvt/events").iterdir():
        assert path.read_bytes() == (tmp_path / "b.hvt/events" / path.name).read_bytes()


def test_a_packed_recording_is_read_like_a_plain_one(tmp_path: Path) -> None:
    """gzip, zstd and xz are recognised by content."""
    import gzip
    import lzma

    import zstandard

    data = (get("baseline-hvmut-stimer") / "trace.dat").read_bytes()
    for pack in (gzip.compress, lzma.compress, zstandard.compress):
        path = tmp_path / "packed"
        path.write_bytes(pack(data))
        assert ingest([path], tmp_path / "p.hvt", force=True).total == 20944
