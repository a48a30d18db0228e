"""QEMU's trace output as text becomes the same tables, whichever of its forms it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recordings import get

from hvtrace.errors import InputError
from hvtrace.parsers.open import open_recording
from hvtrace.parsers.recording import Clock, Damage, Recording
from hvtrace.schema.qemu import QEMU_EVENTS

THREADS = """253@1795193279.858814:vmbus_recv_message type 14 size 40
254@1795193279.861394:vmbus_terminate_offers \n253@1795193279.861630:vmbus_msg_cb message status -11
"""
DATES = """2026-11-20T17:27:59.858814Z vmbus_recv_message type 14 size 40
2026-11-20T17:28:00Z vmbus_terminate_offers
2026-11-20T17:28:00.5Z vmbus_msg_cb message status -11
"""
BARE = "vmbus_recv_message type 14 size 40\nvmbus_terminate_offers\nvmbus_msg_cb message status -11\n"


def opened(tmp_path: Path, text: str | bytes) -> Recording:
    path = tmp_path / "qemu.log"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return open_recording(path)


def rows(recording: Recording) -> list[dict[str, Any]]:
    """All events in order, with their table's name."""
    found: list[dict[str, Any]] = []
    for window in recording.windows():
        for name, batch in window.tables.items():
            found += [{"table": name} | row for row in batch.to_pylist()]
    return sorted(found, key=lambda row: int(row["seq"]))


@pytest.mark.parametrize(
    ("text", "stamps", "tids", "clock"),
    [
        (
            THREADS,
            [1795193279_858814000, 1795193279_861394000, 1795193279_861630000],
            [253, 254, 253],
            Clock("realtime"),
        ),
        (
            DATES,
            [1795195679_858814000, 1795195680_000000000, 1795195680_500000000],
            [None] * 3,
            Clock("realtime"),
        ),
        (BARE, [1, 2, 3], [None] * 3, Clock("line", "ticks")),
    ],
    ids=["threads", "dates", "bare"],
)
def test_each_form_gives_events_with_what_it_tells_of_time_and_thread(
    tmp_path: Path, text: str, stamps: list[int], tids: list[int | None], clock: Clock
) -> None:
    recording = opened(tmp_path, text)
    found = rows(recording)
    assert recording.clock == clock
    assert [row["table"] for row in found] == ["vmbus_recv_message", "vmbus_terminate_offers", "vmbus_msg_cb"]
    assert [row["ts_ns"] for row in found] == stamps
    assert [row["tid"] for row in found] == tids
    assert (found[0]["type"], found[0]["size"], found[2]["status"]) == (14, 40, -11)
    assert recording.not_understood.count == 0


def test_lines_with_cr_and_without_a_last_break_are_read(tmp_path: Path) -> None:
    recording = opened(tmp_path, THREADS.strip().replace("\n", "\r\n"))
    assert len(rows(recording)) == 3
    assert recording.damage == []


def test_lines_out_of_order_between_threads_are_put_in_order_of_time(tmp_path: Path) -> None:
    """Lines of one time stay in the file's order."""
    text = "1@5.000002:vmbus_close_channel channel #1\n2@5.000001:vmbus_terminate_offers\n1@5.000001:x_y z\n"
    assert [(row["ts_ns"], row["tid"]) for row in rows(opened(tmp_path, text))] == [
        (5_000_001_000, 2),
        (5_000_001_000, 1),
        (5_000_002_000, 1),
    ]


@pytest.mark.parametrize(
    ("text", "damaged"),
    [
        ("1@5.000002:vmbus_terminate_offers\n1@5.000001:vmbus_terminate_offers\n", 1),
        ("1@5.000002:vmbus_terminate_offers\n2@5.000001:vmbus_terminate_offers\n", 0),
        ("2026-01-01T00:00:01Z vmbus_terminate_offers\n2026-01-01T00:00:00Z vmbus_terminate_offers\n", 1),
        ("2026-01-01T00:00:01Z vmbus_terminate_offers\n2026-01-01T00:00:00.999Z vmbus_terminate_offers\n", 0),
    ],
    ids=["one-thread", "two-threads", "a-second", "a-millisecond"],
)
def test_a_clock_that_was_set_back_is_damage(tmp_path: Path, text: str, damaged: int) -> None:
    """Within one thread stamps never run backwards; between threads only by a little."""
    recording = opened(tmp_path, text)
    assert len(rows(recording)) == 2
    assert len(recording.damage) == damaged
    assert all("backwards" in damage.message and not damage.cut for damage in recording.damage)


def test_an_unknown_event_keeps_its_name_and_text(tmp_path: Path) -> None:
    (row,) = rows(opened(tmp_path, "7@1.000000:virtio_notify vdev 0x55 vq 0x66\n"))
    assert (row["table"], row["event"], row["text"]) == ("qemu_event", "virtio_notify", "vdev 0x55 vq 0x66")


def test_numbers_printed_with_a_sign_are_unsigned_again(tmp_path: Path) -> None:
    """Ids from 2^31 on appear negative."""
    (row,) = rows(opened(tmp_path, "7@1.000000:vmbus_gpadl_created gpadl #-2147483648\n"))
    assert row["gpadl_id"] == 1 << 31


def test_lines_that_are_no_events_are_counted_and_shown(tmp_path: Path) -> None:
    """Other output may be mixed in; an event whose text is of another form is counted too."""
    text = THREADS + "qemu-system-x86_64: warning: something\n1@2.000000:vmbus_msg_cb what\n"
    recording = opened(tmp_path, text)
    assert len(rows(recording)) == 3
    assert recording.not_understood.count == 2
    assert recording.not_understood.samples == [
        "line 4: qemu-system-x86_64: warning: something",
        "line 5: 1@2.000000:vmbus_msg_cb what",
    ]


def test_a_cut_last_line_is_damage_at_its_offset(tmp_path: Path) -> None:
    recording = opened(tmp_path, THREADS + "253@1795193279.9:vmb")
    assert len(rows(recording)) == 3
    assert recording.damage == [Damage(len(THREADS), "the last line is cut", cut=True)]


def test_a_text_without_known_events_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a recording hvtrace knows"):
        opened(tmp_path, "some_words here\nother_words there\n")


@pytest.mark.parametrize("name", ["vmbus-balloon", "vmbus-balloon-simple"])
def test_every_line_of_a_real_log_is_an_event(name: str) -> None:
    """As many rows of each event as lines that begin with its name, in the lines' order, with their stamps."""
    path = get(name) / "qemu-trace.log"
    lines = [line.split("@", 1)[1].split(":", 1) for line in path.read_text().splitlines()]
    recording = open_recording(path)
    found = rows(recording)
    assert [row["table"] for row in found] == [text.split()[0] for _, text in lines]
    assert [row["ts_ns"] for row in found] == [int(stamp.replace(".", "")) * 1000 for stamp, _ in lines]
    assert recording.not_understood.count == 0
    assert recording.damage == []


@given(
    st.lists(
        st.tuples(st.integers(1, 2**31 - 1), st.integers(0, 2**32), st.integers(0, 2**32 - 1)), min_size=1
    )
)
def test_whatever_is_printed_is_read_back(events: list[tuple[int, int, int]]) -> None:
    """Threads, stamps and arguments of messages, as C prints them."""
    from tempfile import TemporaryDirectory

    text = "".join(
        f"{tid}@{us // 10**6}.{us % 10**6:06}:vmbus_recv_message type {_signed(kind)} size {_signed(tid)}\n"
        for tid, us, kind in events
    )
    with TemporaryDirectory() as folder:
        found = rows(opened(Path(folder), text))
    expected = sorted(events, key=lambda event: event[1])
    assert [(r["tid"], r["ts_ns"] // 1000, r["type"], r["size"]) for r in found] == [
        (tid, us, kind, tid) for tid, us, kind in expected
    ]


def _signed(number: int) -> int:
    return number - (1 << 32) if number >> 31 else number


def test_known_events_are_tables_of_a_store(tmp_path: Path) -> None:
    """A log alone can be ingested: polars reads its tables."""
    from hvtrace.pipeline.ingest import ingest

    (tmp_path / "qemu.log").write_text(THREADS)
    ingest([tmp_path / "qemu.log"], tmp_path / "q.hvt")
    table = pl.read_parquet(tmp_path / "q.hvt/events/vmbus_msg_cb.parquet")
    assert table["status"].to_list() == [-11]
    assert "vmbus_msg_cb" in QEMU_EVENTS
