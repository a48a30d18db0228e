"""Files of QEMU's simple trace backend. No real one was at hand: all are built from the format's description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders import simpletrace as simple
from hypothesis import given
from hypothesis import strategies as st

from hvtrace.errors import InputError
from hvtrace.parsers.open import open_recording
from hvtrace.parsers.recording import Clock, Lost, Recording


def opened(tmp_path: Path, *parts: bytes) -> Recording:
    path = tmp_path / "trace-4711"
    path.write_bytes(b"".join(parts))
    return open_recording(path)


def rows(recording: Recording) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for window in recording.windows():
        for name, batch in window.tables.items():
            found += [{"table": name} | row for row in batch.to_pylist()]
    return sorted(found, key=lambda row: int(row["seq"]))


@pytest.mark.parametrize("order", ["<", ">"])
def test_events_have_the_columns_of_their_declaration(tmp_path: Path, order: str) -> None:
    """In either byte order; a negative number is sign-extended, a string has its length before it."""
    recording = opened(
        tmp_path,
        simple.header(4, order),
        simple.name(3, "vmbus_msg_cb", order),
        simple.name(9, "hv_balloon_state_change", order),
        simple.event(3, 1000, (-11,), order),
        simple.event(9, 2000, ("S_IDLE",), order),
    )
    found = rows(recording)
    assert recording.clock == Clock("mono")
    assert [(row["table"], row["ts_ns"]) for row in found] == [
        ("vmbus_msg_cb", 1000),
        ("hv_balloon_state_change", 2000),
    ]
    assert (found[0]["status"], found[1]["tostr"], found[0]["tid"]) == (-11, "S_IDLE", None)


def test_unknown_events_and_other_arguments_keep_their_bytes(tmp_path: Path) -> None:
    """An event that is not declared, one whose id has no name, one with other arguments than declared."""
    recording = opened(
        tmp_path,
        simple.header(),
        simple.name(1, "virtio_notify"),
        simple.name(2, "vmbus_msg_cb"),
        simple.event(1, 10, (0x55,)),
        simple.event(7, 20),
        simple.event(2, 30, (1, 2)),
    )
    found = rows(recording)
    assert [(row["table"], row["event"], row["text"]) for row in found] == [
        ("qemu_event", "virtio_notify", "55" + "00" * 7),
        ("qemu_event", "event 7", ""),
        ("qemu_event", "vmbus_msg_cb", "01" + "00" * 7 + "02" + "00" * 7),
    ]
    assert recording.not_understood.count == 1


def test_dropped_events_are_a_loss_from_the_event_before(tmp_path: Path) -> None:
    recording = opened(
        tmp_path, simple.header(), simple.event(1, 100), simple.dropped(300, 5), simple.event(1, 400)
    )
    (window,) = recording.windows()
    assert window.lost == [Lost(None, 100, 300, 5)]
    assert window.events == 2


def test_version_3_has_neither_kinds_nor_names(tmp_path: Path) -> None:
    recording = opened(tmp_path, simple.header(3), simple.event(12, 7, kind=False))
    assert [(row["event"], row["ts_ns"]) for row in rows(recording)] == [("event 12", 7)]


@pytest.mark.parametrize("version", [0, 2, 5])
def test_other_versions_are_refused(tmp_path: Path, version: int) -> None:
    with pytest.raises(InputError, match=f"simpletrace version {version} is not read"):
        opened(tmp_path, simple.header(version))


def test_a_file_without_events_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no event"):
        rows(opened(tmp_path, simple.header(), simple.name(1, "x")))


def test_records_nearly_in_order_are_put_in_order(tmp_path: Path) -> None:
    recording = opened(tmp_path, simple.header(), simple.event(1, 20), simple.event(1, 10))
    assert [row["ts_ns"] for row in rows(recording)] == [10, 20]


WHOLE = b"".join(
    (
        simple.header(),
        simple.name(3, "vmbus_msg_cb"),
        *(simple.event(3, 10 * i, (0,)) for i in range(1, 6)),
    )
)


@given(st.integers(24, len(WHOLE)))
def test_a_cut_file_gives_all_that_is_whole(cut: int) -> None:
    """Every record before the cut is read; the cut is told, unless it lies between two records."""
    from tempfile import TemporaryDirectory

    first, size = len(simple.header()) + len(simple.name(3, "vmbus_msg_cb")), len(simple.event(3, 0, (0,)))
    whole = max(cut - first, 0) // size
    with TemporaryDirectory() as folder:
        recording = opened(Path(folder), WHOLE[:cut])
        if not whole:
            with pytest.raises(InputError, match="holds no event"):
                rows(recording)
            return
        assert len(rows(recording)) == whole
        assert [d.cut for d in recording.damage] == ([True] if (cut - first) % size else [])


@given(st.integers(24, len(WHOLE) - 1), st.integers(0, 255))
def test_a_changed_byte_never_breaks_the_reader(at: int, value: int) -> None:
    """What comes of it is events, damage or one clear error."""
    from tempfile import TemporaryDirectory

    data = bytearray(WHOLE)
    data[at] = value
    refusals = ("holds no event", "version", "not a recording")
    with TemporaryDirectory() as folder:
        try:
            number = len(rows(opened(Path(folder), bytes(data))))
        except InputError as error:
            number = 5 if any(words in str(error) for words in refusals) else -1
    assert 0 < number <= 5
