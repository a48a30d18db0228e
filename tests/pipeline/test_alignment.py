"""QEMU's trace output comes onto the clock of the host's recording, by messages that both saw."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from builders import simpletrace as simple
from hypothesis import given
from hypothesis import strategies as st
from recordings import get

from hvtrace.errors import InputError
from hvtrace.parsers.open import open_recording
from hvtrace.pipeline.alignment import MOST_RESIDUAL_NS, Alignment, align
from hvtrace.pipeline.ingest import ingest
from hvtrace.store import Store

#: Where the clocks differ: QEMU's shows the time of day.
OFFSET = 1_795_193_255_949_000_000

Call = tuple[int, int, int, int]


def host_text(calls: list[Call]) -> str:
    """ftrace's text of POST_MESSAGE calls: thread, µs of the call, µs of its result, result."""
    lines = []
    for tid, start, end, result in calls:
        call = "kvm_hv_hypercall: code 0x5c slow var_cnt 0x0 rep_cnt 0x0 idx 0x0 in 0x1000 out 0x0"
        for us, text in ((start, call), (end, f"kvm_hv_hypercall_done: result 0x{result:x}")):
            lines.append(
                (us, f" qemu-system-x86-{tid:<7} [000] .....  {us // 10**6:5}.{us % 10**6:06}: {text}")
            )
    return "# tracer: nop\n" + "\n".join(line for _, line in sorted(lines)) + "\n"


def qemu_text(received: list[tuple[int, int]]) -> str:
    """QEMU's log of messages received: thread and µs of the host's clock."""
    stamps = [(tid, us + OFFSET // 1000) for tid, us in received]
    return "".join(
        f"{tid}@{us // 10**6}.{us % 10**6:06}:vmbus_recv_message type 14 size 40\n" for tid, us in stamps
    )


def aligned(tmp_path: Path, calls: list[Call], received: list[tuple[int, int]]) -> Alignment:
    (tmp_path / "trace.txt").write_text(host_text(calls))
    (tmp_path / "qemu.log").write_text(qemu_text(received))
    return align([open_recording(tmp_path / "trace.txt")], open_recording(tmp_path / "qemu.log"))


CALLS = [(7, 1_000_000, 1_000_400, 0), (7, 2_000_000, 2_000_200, 0), (8, 3_000_000, 3_000_300, 0)]


def test_the_offset_lies_within_the_bounds_of_all_calls(tmp_path: Path) -> None:
    """Each message lies in its call: the offset is known as exactly as the bounds meet."""
    found = aligned(tmp_path, CALLS, [(7, 1_000_100), (7, 2_000_150), (8, 3_000_200)])
    # The latest possible beginning: 50 µs before the second result; the earliest: 100 µs after the first call.
    assert found.offset_ns - OFFSET == (-50_000 + 100_000) // 2
    assert (found.residual_ns, found.drift, found.pairs, found.how) == (75_000, 0.0, 3, "pairs")


def test_a_refused_message_was_not_received(tmp_path: Path) -> None:
    """0x12 says that nobody listens: QEMU has no event of such a call."""
    calls = [(7, 500_000, 500_100, 0x12), *CALLS, (8, 3_500_000, 3_500_100, 0x13)]
    received = [(7, 1_000_100), (7, 2_000_150), (8, 3_000_200), (8, 3_500_050)]
    assert aligned(tmp_path, calls, received).pairs == 4


def test_a_recording_that_began_late_is_paired_by_the_gaps(tmp_path: Path) -> None:
    """QEMU's log has two messages from before the recording."""
    received = [(7, 100_000), (7, 350_000), (7, 1_000_100), (7, 2_000_150), (8, 3_000_200)]
    found = aligned(tmp_path, CALLS, received)
    assert (found.offset_ns - OFFSET, found.pairs) == (25_000, 3)


def test_clocks_that_drift_are_followed(tmp_path: Path) -> None:
    """At 100 ppm the bounds of calls an hour apart do not meet, but a line lies within all of them."""
    times = range(1_000_000, 3_600_000_000, 400_000_000)
    calls = [(7, us, us + 300, 0) for us in times]
    received = [(7, us + 150 + us // 10_000) for us in times]
    found = aligned(tmp_path, calls, received)
    assert found.drift == pytest.approx(100e-6, rel=0.01)
    assert found.residual_ns <= 160_000


@pytest.mark.parametrize(
    ("calls", "received", "why"),
    [
        (CALLS[:2], [(7, 1_000_100), (7, 2_000_100)], "it takes 3 messages that both saw"),
        (CALLS, [(7, 1_000_100), (7, 2_500_000), (8, 3_000_100)], "no offset brings"),
        (
            [(7, us, us + 100, 0) for us in range(10**6, 10**7, 10**6)],
            [(7, us + 50) for us in range(10**6, 6 * 10**6, 10**6)],
            "ways of pairing",
        ),
        ([(7, us, us + 50_000, 0) for us in (10**6, 2 * 10**6, 3 * 10**6)],
         [(7, us + 25_000) for us in (10**6, 2 * 10**6, 3 * 10**6)], "known to ±25.0 ms only"),
    ],
    ids=["few", "contradiction", "ambiguous", "vague"],
)  # fmt: skip
def test_what_cannot_be_told_is_refused(
    tmp_path: Path, calls: list[Call], received: list[tuple[int, int]], why: str
) -> None:
    with pytest.raises(InputError, match=why):
        aligned(tmp_path, calls, received)


@given(
    st.lists(st.integers(1_000, 10**6), min_size=3, max_size=12),
    st.data(),
)
def test_the_true_offset_is_never_farther_than_the_residual(gaps: list[int], data: st.DataObject) -> None:
    """Whatever the calls' times and wherever in them QEMU received the messages."""
    from tempfile import TemporaryDirectory

    us, calls, received = 10**6, [], []
    for gap in gaps:
        length = data.draw(st.integers(1, 900))
        calls.append((7, us, us + length, 0))
        received.append((7, us + data.draw(st.integers(0, length))))
        us += length + gap
    with TemporaryDirectory() as folder:
        found = aligned(Path(folder), calls, received)
    assert found.pairs == len(calls)
    assert abs(found.offset_ns - OFFSET) <= found.residual_ns + 1 <= MOST_RESIDUAL_NS


def test_a_log_without_times_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trace.txt").write_text(host_text(CALLS))
    (tmp_path / "qemu.log").write_text("vmbus_recv_message type 14 size 40\n" * 3)
    with pytest.raises(InputError, match="are no times; ingest it alone"):
        align([open_recording(tmp_path / "trace.txt")], open_recording(tmp_path / "qemu.log"))


def test_what_qemu_dropped_is_no_loss_of_the_host_s_events(tmp_path: Path) -> None:
    """It stands with QEMU's source in the manifest."""
    (tmp_path / "trace.txt").write_text(host_text(CALLS))
    parts = [simple.header(), simple.name(3, "vmbus_recv_message")]
    parts += [simple.event(3, us * 1000 + 5, (14, 40)) for us in (1_000_100, 2_000_100, 3_000_100)]
    (tmp_path / "trace-1").write_bytes(b"".join([*parts, simple.dropped(3_100_000_000, 7)]))
    manifest = ingest([tmp_path / "trace.txt", tmp_path / "trace-1"], tmp_path / "t.hvt")
    assert manifest.lost == []
    (lost,) = manifest.sources[1]["aligned"]["lost"]
    assert lost["count"] == 7
    assert manifest.events == {"kvm_hv_hypercall": 3, "kvm_hv_hypercall_done": 3, "vmbus_recv_message": 3}


@pytest.mark.parametrize(
    ("name", "pairs", "marked"),
    [("vmbus-balloon", 7, 1795193255_949151_000), ("vmbus-balloon-simple", 5, None)],
)
def test_a_real_log_lies_on_the_recording_s_clock(
    tmp_path: Path, name: str, pairs: int, marked: int | None
) -> None:
    """Every message lies in a POST_MESSAGE of its thread; marks in the trace that carry both clocks agree."""
    folder = get(name)
    ingest([folder / "trace.dat", folder / "qemu-trace.log"], tmp_path / "t.hvt")
    store = Store(tmp_path / "t.hvt")
    told = json.loads((tmp_path / "t.hvt/manifest.json").read_text())["sources"][1]["aligned"]
    assert (told["pairs"], told["how"], told["clock"]) == (pairs, "pairs", "realtime")
    assert told["residual_ns"] < 200_000
    if marked is not None:
        assert abs(told["offset_ns"] - marked) < told["residual_ns"]
    calls = store.scan("kvm_hv_hypercall").filter(pl.col("code") == 0x5C).collect()
    done = store.scan("kvm_hv_hypercall_done").select("seq", "tid").collect()
    for message in store.scan("vmbus_recv_message").collect().iter_rows(named=True):
        before = calls.filter(pl.col("tid") == message["tid"], pl.col("seq") < message["seq"])["seq"].max()
        after = done.filter(pl.col("tid") == message["tid"], pl.col("seq") > before)["seq"].min()
        assert before < message["seq"] < after
        assert message["vcpu"] is not None
        assert message["ts_raw"] - told["offset_ns"] == message["ts_ns"]
