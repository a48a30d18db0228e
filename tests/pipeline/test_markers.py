"""Events that QEMU wrote as markers into the host's recording become tables."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from recordings import get

from hvtrace.pipeline.ingest import ingest
from hvtrace.store import Store


def text(*markers: str) -> str:
    """ftrace's text: a line an event, one µs apart."""
    lines = [
        f" qemu-system-x86-77      [001] .....     1.{us:06}: tracing_mark_write: {marker}"
        for us, marker in enumerate(markers)
    ]
    return "# tracer: nop\n" + "\n".join(lines) + "\n"


def test_a_marker_that_is_an_event_has_a_table_with_the_marker_s_rank(tmp_path: Path) -> None:
    """Other markers stay what they were; the recorded `print` rows are all there."""
    (tmp_path / "t.txt").write_text(
        text(
            "vmbus_msg_cb message status -11",
            "a note",
            "vmbus_terminate_offers ",
            "vmbus_msg_cb message status 0",
        )
    )
    manifest = ingest([tmp_path / "t.txt"], tmp_path / "t.hvt")
    store = Store(tmp_path / "t.hvt")
    assert (manifest.events, manifest.total) == ({"print": 4}, 4)
    assert manifest.decoded == {"vmbus_msg_cb": 2, "vmbus_terminate_offers": 1}
    assert store.decoded == ("vmbus_msg_cb", "vmbus_terminate_offers")
    rows = store.scan("vmbus_msg_cb").select("seq", "ts_ns", "tid", "status").collect().rows()
    assert rows == [(0, 1_000_000_000, 77, -11), (3, 1_000_003_000, 77, 0)]


def test_a_marker_with_an_event_s_name_and_other_words_is_no_event(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(text("vmbus_msg_cb was here", "vmbus_msg_cb message status 5"))
    manifest = ingest([tmp_path / "t.txt"], tmp_path / "t.hvt")
    assert manifest.decoded == {"vmbus_msg_cb": 1}
    assert manifest.sources[0]["not_understood"]["count"] == 1


def test_a_recording_without_markers_has_no_such_tables(tmp_path: Path) -> None:
    ingest([get("kut-hyperv_connections") / "trace.dat"], tmp_path / "t.hvt")
    assert Store(tmp_path / "t.hvt").decoded == ()
    assert not (tmp_path / "t.hvt/decoded").exists()


def test_every_marker_of_a_real_recording_is_decoded(tmp_path: Path) -> None:
    """Every line that begins with the name of an event: printed again from its columns it is the line."""
    ingest([get("vmbus-balloon-ftrace") / "trace.dat"], tmp_path / "t.hvt")
    store = Store(tmp_path / "t.hvt")
    printed = store.scan("print").select("seq", pl.col("buf").cast(pl.String)).collect()
    known = printed.filter(pl.col("buf").str.contains("^(vmbus|hv_balloon|balloon|memory_device)_"))
    assert known.height == 201
    decoded = {seq: name for name in store.decoded for seq in store.scan(name).collect()["seq"]}
    assert decoded == {seq: line.split()[0] for seq, line in known.rows()}
    messages = store.scan("vmbus_post_msg").select("seq", "type", "size").collect()
    lines = dict(known.rows())
    assert [lines[seq] for seq in messages["seq"]] == [
        f"vmbus_post_msg type {kind} size {size}" for _, kind, size in messages.rows()
    ]
