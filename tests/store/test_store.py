"""A store on disk, as its readers see it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hvtrace.errors import HvtraceError, InputError
from hvtrace.store import Manifest, Store, StoreWriter


def batch(*seqs: int, name: str = "x") -> pa.RecordBatch:
    names = pa.array([name] * len(seqs)).dictionary_encode()
    return pa.RecordBatch.from_arrays([pa.array(seqs, pa.uint64()), names], names=["seq", "comm"])


def test_rows_added_in_windows_make_one_table_in_their_order(tmp_path: Path) -> None:
    """Windows may bring names the ones before did not have."""
    with StoreWriter(tmp_path / "a.hvt") as writer:
        writer.append("kvm_entry", batch(0, 1))
        writer.append("kvm_exit", batch(2))
        writer.append("kvm_entry", batch(3, name="y"))
        writer.finish(Manifest(events={"kvm_entry": 3, "kvm_exit": 1}))
    store = Store(tmp_path / "a.hvt")
    assert store.tracepoints == ("kvm_entry", "kvm_exit")
    assert store.scan("kvm_entry").collect().rows() == [(0, "x"), (1, "x"), (3, "y")]
    assert store.scan("lost").collect().rows() == []


def test_a_store_has_its_name_only_when_whole(tmp_path: Path) -> None:
    """Until `finish` there is nothing under the name; after a failure nothing at all."""
    target = tmp_path / "a.hvt"
    with pytest.raises(RuntimeError), StoreWriter(target) as writer:
        writer.append("kvm_entry", batch(0))
        assert not target.exists()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_encoding_is_not_swallowed(tmp_path: Path) -> None:
    """What a worker raises comes out of `finish`."""

    def fail(name: str, table: pa.Table) -> pa.Table:
        raise ValueError(name)

    with (
        pytest.raises(ValueError, match="kvm_entry"),
        StoreWriter(tmp_path / "a.hvt", prepare=fail) as writer,
    ):
        writer.append("kvm_entry", batch(0))
        writer.finish(Manifest())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../evil", "", "..", "a/b", "new\nline"])
def test_a_recording_cannot_choose_where_files_are_written(tmp_path: Path, name: str) -> None:
    """An event's name from a file never becomes a path."""
    with pytest.raises(HvtraceError, match="cannot name a table"), StoreWriter(tmp_path / "a.hvt") as writer:
        writer.append(name, batch(0))


def test_columns_are_encoded_for_their_readers(tmp_path: Path) -> None:
    """zstd; `seq` as differences, names as dictionary."""
    with StoreWriter(tmp_path / "a.hvt") as writer:
        writer.append("kvm_entry", batch(*range(1000)))
        writer.finish(Manifest())
    meta = pq.ParquetFile(tmp_path / "a.hvt/events/kvm_entry.parquet").metadata.row_group(0)
    assert "DELTA_BINARY_PACKED" in meta.column(0).encodings
    assert "RLE_DICTIONARY" in meta.column(1).encodings
    assert meta.column(0).compression == "ZSTD"


UNUSABLE = [
    ("", "not JSON"),
    ("{}", "not a manifest of an hvtrace store"),
    ('{"format_version": 99}', "store format 99; this hvtrace reads format 1"),
]


@pytest.mark.parametrize(("text", "message"), UNUSABLE)
def test_an_unusable_manifest_is_named(tmp_path: Path, text: str, message: str) -> None:
    """One error that names the file and what is wrong with it."""
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=message):
        Store(tmp_path)


def test_keys_a_newer_hvtrace_added_are_passed_over(tmp_path: Path) -> None:
    """The same format version may gain keys."""
    (tmp_path / "manifest.json").write_text(json.dumps({"format_version": 1, "total": 5, "novelty": True}))
    assert Store(tmp_path).manifest.total == 5
