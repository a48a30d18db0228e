"""Channels: their life, their device, their pages; signals each way; interrupts; the balloon."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from builders import vmbus as v
from builders.store import Row, tiny_store

from hvtrace.analysis.vmbus import Question, Vmbus, vmbus

SECOND = 1_000_000_000


def answer(tmp_path: Path, rows: Iterable[Row], last_ns: int | None = None, **asked: Any) -> Vmbus:
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.hvt"
    return vmbus(tiny_store(path, sorted(rows, key=lambda r: r[0]), last_ns=last_ns), Question(**asked))


def offered(ts: int, channel: int, dev: int = 0x1000) -> list[Row]:
    return [v.offer(ts, channel, dev), v.posted(ts + 1, 1, 200), v.back(ts + 2)]


def opened(ts: int, channel: int, status: int = 0, inside: Iterable[Row] = ()) -> list[Row]:
    """OPENCHANNEL and its result; `inside`: what happens meanwhile."""
    return [
        v.received(ts, 5, 148),
        v.taken(ts + 10, 5),
        v.opening(ts + 20, channel, 77),
        *inside,
        v.opened(ts + 40, channel, status),
        v.posted(ts + 50, 6, 20),
        v.back(ts + 60),
    ]


def closed(ts: int, channel: int) -> list[Row]:
    return [v.received(ts, 7), v.taken(ts + 10, 7), v.close(ts + 20, channel)]


def test_a_channels_life(tmp_path: Path) -> None:
    """Offered; open from when the guest was told; closed when QEMU takes up the guest's message."""
    rows = [*offered(100, 3), *opened(1_000, 3), *closed(5_000, 3)]
    (channel,) = answer(tmp_path, rows).channels
    assert channel | {"to_host": 0, "to_host_failed": 0, "to_host_per_s": 0} == {
        "vm": 0,
        "channel": 3,
        "device": None,
        "guid": None,
        "identity": None,
        "vp": 0,
        "gpadl": 77,
        "offered_ns": 101,
        "state": "closed",
        "since_ns": 1_060,
        "until_ns": 5_010,
        "ended": "closed",
        "opened": 1,
        "refused": 0,
        "connection": 19,
        "to_host": 0,
        "to_host_failed": 0,
        "to_host_per_s": 0,
        "to_guest": 0,
        "to_guest_per_s": 0.0,
    }


def test_states_of_channels(tmp_path: Path) -> None:
    """Only offered; refused; opened again; ended by an unload; signalled before it was seen being opened."""
    rows = [
        *[row for channel in (1, 2, 3, 4) for row in offered(channel * 10, channel)],
        *opened(1_000, 2, status=1),
        *opened(2_000, 3),
        *closed(3_000, 3),
        *opened(4_000, 3),
        *opened(5_000, 4),
        v.notify(5_500, 9),
        *closed(6_000, 4),
    ]
    states = {
        row["channel"]: (row["state"], row["opened"], row["refused"])
        for row in answer(tmp_path, rows).channels
    }
    assert states == {
        1: ("offered", 0, 0),
        2: ("refused", 0, 1),
        3: ("open", 2, 0),
        4: ("closed", 1, 0),
        9: ("open", 0, 0),
    }
    unloaded = [*rows, v.received(7_000, 16), v.taken(7_010, 16)]
    channel = next(row for row in answer(tmp_path, unloaded).channels if row["channel"] == 3)
    assert (channel["state"], channel["ended"], channel["until_ns"]) == ("closed", "unloaded", 7_010)


def test_the_balloons_channel(tmp_path: Path) -> None:
    """The one with whose opening its state changes, or whose device is named by balloon_event; others are not known."""
    target: Row = (9_000, "balloon_event", None, 0, {"tid": 7, "vm": 0, "opaque": 0x2000, "addr": 4096})
    rows = [
        *offered(100, 1, 0x1000),
        *offered(200, 2, 0x2000),
        *offered(300, 3, 0x3000),
        *opened(1_000, 1),
        *opened(2_000, 3, inside=[v.state(2_030, "S_VERSION")]),
        target,
    ]
    names = {row["channel"]: (row["device"], row["identity"]) for row in answer(tmp_path, rows).channels}
    assert names == {
        1: (None, None),
        2: ("dynamic memory", "balloon_event names its device"),
        3: ("dynamic memory", "the balloon's state changes with it"),
    }


def test_pages(tmp_path: Path) -> None:
    """Shared, created, used by a channel, given back."""
    rows = [
        *(v.received(10, 8), v.taken(20, 8), v.pages(30, "header", 77, 40)),
        *(v.received(40, 9), v.taken(50, 9), v.pages(60, "body", 77)),
        *(v.pages(70, "created", 77), v.posted(80, 10), v.back(90)),
        *opened(1_000, 1),
        *(v.received(2_000, 11), v.taken(2_010, 11), v.pages(2_020, "teardown", 77)),
        *(v.pages(2_030, "torndown", 77), v.posted(2_040, 12), v.back(2_050)),
    ]
    assert answer(tmp_path, rows).gpadls == [
        {
            "vm": 0,
            "gpadl": 77,
            "pages": 40,
            "bodies": 1,
            "channel": 1,
            "shared_ns": 10,
            "created_ns": 90,
            "torn_down_ns": 2_050,
        }
    ]


def test_signals_each_way(tmp_path: Path) -> None:
    """Counted by channel, by QEMU's connection id, per second that the channel was open and KVM traced."""
    rows = [
        *opened(1_000, 2),
        *(row for n in range(4) for row in (v.signal(SECOND + n * 100, 18), v.done(SECOND + n * 100 + 9))),
        *(v.signal(SECOND + 500, 18), v.done(SECOND + 509, 0x12)),
        v.notify(SECOND + 600, 2),
        *(v.signal(2 * SECOND, 4096), v.done(2 * SECOND + 9)),
        *closed(2 * SECOND + 1_050, 2),
    ]
    known, opaque = answer(tmp_path, rows).channels
    assert (known["channel"], known["to_host"], known["to_host_failed"], known["to_guest"]) == (2, 4, 1, 1)
    # KVM's events are there for the second from the first signal to the last.
    assert round(known["to_host_per_s"], 3) == 4.0
    assert round(known["to_guest_per_s"], 3) == 0.5
    assert (opaque["channel"], opaque["connection"], opaque["to_host"]) == (None, 4096, 1)


def test_calls_by_result(tmp_path: Path) -> None:
    """A slow SIGNAL_EVENT's connection stands in the guest's memory; the flag number is told apart."""
    rows = [
        *(v.signal(100, 17 | 5 << 32), (110, "kvm_userspace_exit", 0, 0, {"tid": 100, "reason": 27})),
        *(v.done(150, 0x11), v.call(200, 0x5D, 0x8000), v.done(210), v.call(300, 0x5C), v.done(350, 0x12)),
        v.call(400, 0x5C),
    ]
    found = answer(tmp_path, rows)
    keys = ("call", "connection", "flag", "status", "userspace", "count", "max_ns")
    assert [tuple(row[key] for key in keys) for row in found.calls] == [
        ("POST_MESSAGE", None, None, None, False, 1, None),
        ("POST_MESSAGE", None, None, 0x12, False, 1, 50),
        ("SIGNAL_EVENT", None, None, 0, False, 1, 10),
        ("SIGNAL_EVENT", 17, 5, 0x11, True, 1, 50),
    ]
    assert found.search == [{"vm": 0, "searched": 1, "taken": False}]


def test_interrupts_by_what_they_are(tmp_path: Path) -> None:
    """By the vCPU's own thread: a message, or a timer's; by another: a signal. An EOI ends the injection."""
    expired = {"tid": 100, "vcpu_id": 0, "timer_index": 0, "direct": 0, "msg_send_result": 0}
    rows: list[Row] = [
        v.raised(100),
        (150, "kvm_entry", 0, 0, {"tid": 100}),
        v.raised(200),
        (210, "kvm_hv_stimer_expiration", 0, 0, expired),
        (250, "kvm_entry", 0, 0, {"tid": 100}),
        v.raised(300, thread=7),
        (310, "kvm_inj_virq", 0, 0, {"tid": 100, "vector": 0xF3, "soft": False, "reinjected": False}),
        (340, "kvm_eoi", 0, 0, {"tid": 100, "vector": 0xF3}),
    ]
    found = answer(tmp_path, rows)
    counts = {row["kind"]: (row["count"], row["eois"]) for row in found.interrupts}
    # One injection serves all that was raised before it.
    assert counts == {"message": (1, 1), "timer": (1, 1), "signal": (1, 1)}
    stages = {row["stage"]: row["max_ns"] for row in found.latencies}
    assert stages == {"message-eoi": 240, "notify-eoi": 40}


def test_a_signal_and_its_interrupt(tmp_path: Path) -> None:
    """The interrupt is of the last signal before it; a signal that the guest has not seen yet raises none."""
    rows = [
        *opened(10, 1),
        v.notify(1_000, 1),
        v.notify(1_100, 1),
        v.raised(1_150, thread=7),
        v.notify(2_000, 1),
    ]
    (row,) = [row for row in answer(tmp_path, rows).latencies if row["stage"] == "notify-interrupt"]
    assert (row["count"], row["max_ns"], row["excluded"]["unpaired"], row["correlation"]) == (1, 50, 2, True)


def test_what_the_balloon_reads(tmp_path: Path) -> None:
    """It belongs to the last signal of its channel before, and to no signal twice."""
    rows = [
        *opened(10, 1, inside=[v.state(40, "S_VERSION")]),
        *(v.signal(1_000, 17), v.done(1_010), v.signal(2_000, 17), v.done(2_010)),
        v.balloon(2_300, "incoming_version", major=2, minor=0),
        v.balloon(2_400, "incoming_caps", caps=3),
    ]
    (row,) = [row for row in answer(tmp_path, rows).latencies if row["stage"] == "signal-read"]
    assert (row["count"], row["max_ns"], row["excluded"]["unpaired"]) == (1, 300, 1)


def test_a_balloon(tmp_path: Path) -> None:
    """What was asked and given, in pages; an operation that the channel's end cut off was not answered."""
    rows = [
        v.balloon(10, "incoming_version", major=2, minor=0),
        v.balloon(20, "incoming_caps", caps=0x1F),
        v.balloon(1_000, "outgoing_balloon", id=0, count=100, rempages=100),
        v.balloon(1_500, "incoming_balloon", id=7, range_count=1, more_pages=1),
        v.balloon(1_510, "remove_response", count=40, start=1, both=True),
        v.balloon(1_600, "incoming_balloon", id=8, range_count=1, more_pages=0),
        v.balloon(1_610, "remove_response", count=50, start=1, both=True),
        v.balloon(2_000, "outgoing_unballoon", id=1, count=30, start=1, rempages=10),
        v.balloon(2_100, "outgoing_unballoon", id=1, count=10, start=9, rempages=0),
        v.balloon(2_400, "incoming_unballoon", id=9),
        v.balloon(3_000, "outgoing_hot_add", id=2, count=64, start=1),
        v.balloon(3_400, "incoming_hot_add", id=10, result=1, count=64),
        v.balloon(4_000, "outgoing_hot_add", id=3, count=64, start=1),
        v.balloon(4_400, "incoming_hot_add", id=11, result=0, count=0),
        v.balloon(5_000, "outgoing_balloon", id=4, count=7, rempages=7),
        v.state(6_000, "S_WAIT_RESET"),
        v.balloon(7_000, "outgoing_balloon", id=5, count=8, rempages=8),
        v.balloon(7_100, "incoming_balloon", id=2, range_count=1, more_pages=0),
        v.balloon(7_110, "remove_response", count=8, start=1, both=True),
        v.received(8_000, 7),
    ]
    (balloon,) = answer(tmp_path, rows).balloon
    assert (balloon["version"], balloon["state"]) == ("2.0", "S_WAIT_RESET")
    assert balloon["capabilities"] == {"balloon": True, "hot_add": True, "hot_add_alignment_mb": 128}
    names = ("requested", "given", "asked_back", "returned", "hot_add_asked", "hot_added")
    assert [balloon[name] for name in names] == [115, 98, 40, 40, 128, 64]
    told = [
        (one["operation"], one["pages"], one["packets"], one["ns"], one["done"])
        for one in balloon["operations"]
    ]
    assert told == [
        ("balloon", 100, 1, 600, 90),
        ("unballoon", 40, 2, 400, 40),
        ("hot add", 64, 1, 400, 64),
        ("hot add", 64, 1, 400, 0),
        ("balloon", 7, 1, None, None),
        ("balloon", 8, 1, 100, 8),
    ]


def test_losses(tmp_path: Path) -> None:
    """A stage in which events of KVM's were lost is not counted; what QEMU tells beside the recording is whole."""
    rows = [
        *(v.call(1_000, 0x5C), v.received(1_100, 3), v.done(1_900)),
        *(v.taken(2_000, 3), v.posted(2_100, 4), v.back(2_200)),
    ]
    lost = [{"cpu": 1, "from_ns": 1_050, "to_ns": 1_060, "count": 1}]
    found = vmbus(tiny_store(tmp_path / "t.hvt", rows, lost=lost))
    stages = {row["stage"]: (row["count"], row["excluded"]["lost"]) for row in found.latencies}
    assert (stages["post"], stages["receive"]) == ((0, 1), (0, 1))
    assert (stages["queue"], stages["answer"], stages["deliver"]) == ((1, 0), (1, 0), (1, 0))


def test_of_which_vm(tmp_path: Path) -> None:
    """Events of no known VM are of the one whose vCPUs send messages; where several do, they stay apart."""
    rows = [
        v.received(1_000, 3),
        (1_100, "vmbus_process_incoming_message", None, 0, {"tid": 7, "vm": None, "message_type": 3}),
    ]
    (message,) = answer(tmp_path, rows).conversation
    assert (message["vm"], message["taken_ns"]) == (0, 1_100)
    other: Row = (1_050, "vmbus_recv_message", 0, 0, {"tid": 300, "vm": 1, "type": 3, "size": 8})
    told = [
        (row["vm"], row["ts_ns"], row["taken_ns"]) for row in answer(tmp_path, [*rows, other]).conversation
    ]
    assert told == [(0, 1_000, None), (1, 1_050, None), (None, 1_100, 1_100)]
