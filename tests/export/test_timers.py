"""Synthetic timers: armed until the callback, the callback until it is processed, and what came of it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from builders import drawing as d
from builders.store import Row, tiny_store
from builders.timeline import Drawn, Timeline, read_timeline

from hvtrace.export.perfetto import write_trace
from hvtrace.export.streams import Which

TIMER = ("VM 0", "vCPU 0", "Synthetic timers", "STIMER0")
WAITING = ("VM 0", "vCPU 0", "SynIC", "SINT2 pending (STIMER0)")


def slices(timeline: Timeline, track: tuple[str, ...] = TIMER) -> list[tuple[int, int, str]]:
    return [(start, end, name) for start, end, _, name in timeline.on(*track)]


def named(timeline: Timeline, name: str) -> list[Drawn]:
    return [s for s in (*timeline.slices, *timeline.instants) if s.name == name and s.track == TIMER]


def test_a_one_shot_timer(tmp_path: Path) -> None:
    """Armed until the host timer fires; then a callback until the expiration is processed; how late it was."""
    rows = [
        d.config(1_000),
        d.count(2_000, 700),
        d.cleanup(2_010),
        d.one_shot(2_100, now=500, expires=700),
        d.callback(22_400),
        d.expired(23_100),
        d.cleanup(23_110),
    ]
    timeline = d.draw(tmp_path, rows)
    assert slices(timeline) == [(2_100, 22_400, "armed (one-shot)"), (22_400, 23_100, "callback")]
    assert timeline.instants_on(*TIMER) == [(23_100, "expired")]
    armed, fired = (s.arguments for s in timeline.slices)
    # 200 units of 100 ns to go.
    known = {"sint": 2, "config": d.MESSAGE, "count": 700}
    assert armed == known | {
        "time_now": 500,
        "exp_time": 700,
        "due_in_ns": 20_000,
        "ended_by": "callback",
    }
    assert fired == {"lateness_ns": 300, "ended_by": "expiration"}
    assert timeline.instants[0].arguments == known | {"direct": False, "result": 0, "lateness_ns": 1_000}


def test_a_periodic_timer(tmp_path: Path) -> None:
    """Each period is a slice of its own, with its own lateness, from the start at the expiration before."""
    rows = [
        d.config(1_000, d.MESSAGE | 2),
        d.count(1_500, 100),
        d.cleanup(1_510),
        d.periodic(2_000, now=50, expires=150),
        d.callback(12_001),
        d.expired(12_500),
        d.periodic(12_600, now=155, expires=250),
        d.callback(22_102),
        d.expired(22_600),
        d.periodic(22_700, now=256, expires=350),
    ]
    timeline = d.draw(tmp_path, rows)
    assert slices(timeline) == [
        (2_000, 12_001, "armed (periodic)"),
        (12_001, 12_500, "callback"),
        (12_600, 22_102, "armed (periodic)"),
        (22_102, 22_600, "callback"),
        (22_700, 22_700, "armed (periodic)"),
    ]
    assert [s.arguments["lateness_ns"] for s in named(timeline, "callback")] == [1, 2]
    assert timeline.instants_on(*TIMER) == [(12_500, "expired"), (22_600, "expired")]


def test_a_busy_message_slot(tmp_path: Path) -> None:
    """The expiration waits for the slot, on the timer's track and among those of SINTs, until it is tried again."""
    rows = [
        d.config(1_000),
        d.one_shot(2_000, now=0, expires=10),
        d.callback(3_000),
        d.expired(3_500, result=-11),
        d.acked(8_000, sint=2),
        d.expired(8_500),
    ]
    timeline = d.draw(tmp_path, rows)
    assert slices(timeline)[2:] == [(3_500, 8_500, "expired: message slot busy")]
    assert slices(timeline, WAITING) == [(3_500, 8_500, "message pending")]
    assert timeline.instants_on(*TIMER) == [(8_500, "expired")]


def test_two_timers_may_wait_for_one_slot(tmp_path: Path) -> None:
    """Messages of several timers wait on tracks of their own: their times overlap."""
    rows = [
        *(d.config(100 + t, timer=t) for t in (0, 3)),
        d.expired(1_000, -11),
        d.expired(2_000, -11, timer=3),
        d.expired(3_000),
        d.expired(4_000, timer=3),
    ]
    timeline = d.draw(tmp_path, rows)
    assert slices(timeline, WAITING) == [(1_000, 3_000, "message pending")]
    other = ("VM 0", "vCPU 0", "SynIC", "SINT2 pending (STIMER3)")
    assert slices(timeline, other) == [(2_000, 4_000, "message pending")]


@pytest.mark.parametrize(
    ("result", "direct", "name"),
    [
        (-2, 0, "expired: no message page, or SINT masked"),
        (-14, 0, "expired: APIC off"),
        (1, 1, "expired: APIC off"),
        (-99, 0, "expired: not delivered (-99)"),
    ],
)
def test_what_was_not_delivered_says_why(tmp_path: Path, result: int, direct: int, name: str) -> None:
    """Such an expiration is drawn until the next event; no message waits for a slot."""
    timeline = d.draw(tmp_path, [d.config(500), d.expired(1_000, result, direct), d.count(2_000, 0)])
    assert slices(timeline) == [(1_000, 2_000, name)]
    assert timeline.slices[0].arguments["ended_by"] == "stopped by a write"
    assert not [s for s in timeline.slices if s.category == "message"]


STOPS: list[tuple[Row, str]] = [
    (d.config(3_000, 0), "stopped by a write"),
    (d.count(3_000, 9), "stopped by a write"),
    (d.config(3_000, 0, host=True), "stopped by a write"),
    (d.cleanup(3_000), "stopped"),
    (d.one_shot(3_000, now=0, expires=9), "armed again"),
    (d.expired(3_000), "expiration"),
]


@pytest.mark.parametrize(("end", "ended_by"), STOPS, ids=[f"{e[1]}-{w}" for e, w in STOPS])
def test_what_ends_an_armed_timer(tmp_path: Path, end: Row, ended_by: str) -> None:
    """Whatever comes next of the timer ends the slice, and the slice says what it was."""
    timeline = d.draw(tmp_path, [d.config(500), d.one_shot(1_000, now=0, expires=50), end, d.cleanup(9_000)])
    first = timeline.slices[0]
    assert (first.start, first.end, first.arguments["ended_by"]) == (1_000, 3_000, ended_by)


def test_direct_mode_shows_the_vector(tmp_path: Path) -> None:
    """In message mode the SINT is an argument, in direct mode the vector."""
    rows = [
        d.config(100, d.DIRECT),
        d.one_shot(1_000, now=0, expires=1),
        d.callback(1_200),
        d.expired(1_300, direct=1),
    ]
    timeline = d.draw(tmp_path, rows)
    for shown in (timeline.slices[0], timeline.instants[0]):
        assert shown.arguments["vector"] == 0xED
        assert "sint" not in shown.arguments
    assert timeline.instants[0].arguments["direct"] is True


def test_a_recording_that_begins_in_between(tmp_path: Path) -> None:
    """A callback of a timer armed before is drawn; how late it was, and how the timer was set, nobody knows."""
    timeline = d.draw(tmp_path, [d.callback(1_000), d.expired(1_500)])
    assert slices(timeline) == [(1_000, 1_500, "callback")]
    assert timeline.slices[0].arguments == {"ended_by": "expiration"}
    assert timeline.instants[0].arguments == {"direct": False, "result": 0}
    assert not timeline.flows()


def test_an_expiration_without_a_start(tmp_path: Path) -> None:
    """A one-shot count in the past expires at once: no lateness from an arming that was before the write."""
    rows = [
        d.config(100),
        d.one_shot(1_000, now=0, expires=9),
        d.count(2_000, 5),
        d.cleanup(2_010),
        d.expired(2_100),
    ]
    timeline = d.draw(tmp_path, rows)
    assert timeline.instants_on(*TIMER) == [(2_100, "expired")]
    assert "lateness_ns" not in timeline.instants[0].arguments
    assert timeline.instants[0].flows == ()


def test_a_callback_after_a_stop_is_an_instant(tmp_path: Path) -> None:
    """The host timer may fire while it is being cancelled: nothing is in progress until the next start."""
    rows = [
        d.one_shot(1_000, now=0, expires=9),
        d.config(2_000, 0),
        d.cleanup(2_010),
        d.callback(2_020),
        d.config(900_000),
    ]
    timeline = d.draw(tmp_path, rows)
    assert slices(timeline) == [(1_000, 2_000, "armed (one-shot)")]
    assert timeline.instants_on(*TIMER) == [(2_020, "callback after a stop")]


def test_ticks_have_no_lateness(tmp_path: Path) -> None:
    """Where the clock counts ticks, they cannot be held against the timer's 100 ns."""
    rows = [d.one_shot(1_000, now=0, expires=9), d.callback(2_000), d.expired(2_100)]
    timeline = d.draw(tmp_path, rows, unit="ticks")
    assert all("lateness_ns" not in s.arguments for s in (*timeline.slices, *timeline.instants))


@pytest.mark.parametrize("cpu", [0, 7, None])
def test_lost_events_cut_a_timer(tmp_path: Path, cpu: int | None) -> None:
    """What lies across a loss on any CPU is not drawn: a further event of the timer may have been lost."""
    rows = [d.one_shot(1_000, now=0, expires=9), d.callback(2_000), d.expired(2_500), d.cleanup(2_600)]
    lost = [{"cpu": cpu, "from_ns": 1_500, "to_ns": 1_600, "count": 1}]
    timeline = d.draw(tmp_path, rows, lost=lost)
    assert slices(timeline) == [(2_000, 2_500, "callback")]
    assert timeline.instants_on(*TIMER) == [(2_500, "expired")]


def test_timers_and_vcpus_are_apart(tmp_path: Path) -> None:
    """Each timer of each vCPU has its own life."""
    rows = [
        d.one_shot(1_000, 0, 1),
        d.one_shot(1_100, 0, 1, timer=1),
        d.one_shot(1_200, 0, 1, timer=3, vcpu=9),
        d.callback(2_000, timer=1),
        d.callback(2_100, timer=3, vcpu=9),
        d.callback(2_200),
    ]
    timeline = d.draw(tmp_path, rows)
    armed = [s for s in timeline.slices if s.name == "armed (one-shot)"]
    drawn = {(s.track[1], s.track[3]): (s.start, s.end) for s in armed}
    assert drawn == {
        ("vCPU 0", "STIMER0"): (1_000, 2_200),
        ("vCPU 0", "STIMER1"): (1_100, 2_000),
        ("vCPU 9", "STIMER3"): (1_200, 2_100),
    }


HUGE = [
    ("the greatest count", d.one_shot(1_000, now=500, expires=2**64 - 1), None),
    ("a time that is over", d.one_shot(1_000, now=500, expires=300), -20_000),
    ("both beyond 63 bits", d.one_shot(1_000, now=2**63 + 5, expires=2**63 + 8), 300),
]


@pytest.mark.parametrize(("start", "due"), [h[1:] for h in HUGE], ids=[h[0] for h in HUGE])
def test_a_guest_may_ask_for_any_time(tmp_path: Path, start: Row, due: int | None) -> None:
    """Times that do not fit nanoseconds are shown as the guest asked; only what is due is left out."""
    timeline = d.draw(tmp_path, [start, d.callback(2_000), d.expired(2_500)])
    assert timeline.slices[0].arguments["exp_time"] == start[4]["count"]
    assert timeline.slices[0].arguments.get("due_in_ns") == due
    assert timeline.slices[1].arguments.get("lateness_ns") == (None if due is None else 1_000 - due)


DAMAGED: list[Row] = [
    d.callback(1_500, timer=4),
    d.callback(1_500, timer=-1),
    (1_500, "kvm_hv_stimer_callback", 0, 0, {}),
    (1_500, "kvm_hv_stimer_callback", None, 0, {"timer_index": 0}),
    (1_500, "kvm_hv_stimer_set_config", 0, 0, {}),
]


@pytest.mark.parametrize("row", DAMAGED, ids=["4", "-1", "null", "no vCPU", "a config of no timer"])
def test_a_timer_that_cannot_be_is_left_out(tmp_path: Path, row: Row) -> None:
    """It is no other timer's event."""
    timeline = d.draw(tmp_path, [d.one_shot(1_000, 0, 1), row, d.callback(2_000), d.expired(2_100)])
    assert slices(timeline) == [(1_000, 2_000, "armed (one-shot)"), (2_000, 2_100, "callback")]
    assert {track[3] for track in timeline.tracks if len(track) == 4} == {"STIMER0"}


def test_fields_that_a_recording_lacks(tmp_path: Path) -> None:
    """Null where a number should be: the slices are there, without the arguments."""
    own = {"timer_index": 0}
    rows: list[Row] = [
        (900, "kvm_hv_stimer_set_config", 0, 0, own),
        (1_000, "kvm_hv_stimer_start_one_shot", 0, 0, own),
        d.callback(2_000),
        (2_500, "kvm_hv_stimer_expiration", 0, 0, own),
        d.cleanup(3_000),
    ]
    timeline = d.draw(tmp_path, rows)
    assert slices(timeline) == [(1_000, 2_000, "armed (one-shot)"), (2_000, 2_500, "callback")]
    assert [s.arguments for s in timeline.slices] == [{"ended_by": "callback"}, {"ended_by": "expiration"}]


#: A timer that is still armed, one whose callback has come, one whose message waits, when the recording ends.
LEFT_OPEN = [
    *(d.config(100 + t, timer=t) for t in (0, 1, 2)),
    d.one_shot(1_000, now=0, expires=90),
    d.one_shot(1_100, now=0, expires=10, timer=1),
    d.expired(1_900, result=-11, timer=2),
    d.callback(2_000, timer=1),
]
#: These, as track, start, end and name.
CUT_OFF = [
    ("STIMER0", 1_000, 5_000, "armed (one-shot)"),
    ("STIMER2", 1_900, 5_000, "expired: message slot busy"),
    ("SINT2 pending (STIMER2)", 1_900, 5_000, "message pending"),
    ("STIMER1", 2_000, 5_000, "callback"),
]


def unfinished(timeline: Timeline) -> list[tuple[str, int, int, str]]:
    own = [s for s in (*timeline.slices, *timeline.instants) if "unfinished" in s.arguments]
    assert all(s.arguments["unfinished"] is True for s in own)
    return sorted(((s.track[-1], s.start, s.end, s.name) for s in own), key=lambda s: s[1:])


@pytest.mark.parametrize("window", [1, 2, 3, 6, 100])
def test_what_the_recordings_end_cuts_off_is_drawn_to_it(tmp_path: Path, window: int) -> None:
    """As long as the recording, marked, and ended by nothing; whatever the size of windows, also of old ones."""
    rows = [*LEFT_OPEN, *(d.cleanup(3_000 + n, timer=3) for n in range(4))]
    timeline = d.draw(tmp_path, rows, window=window, last_ns=5_000)
    assert unfinished(timeline) == CUT_OFF
    assert [s.short[:2] for s in timeline.slices if "ended_by" in s.arguments] == [(1_100, 2_000)]
    armed, pending = (next(s for s in timeline.slices if s.name == CUT_OFF[n][3]) for n in (0, 2))
    assert armed.arguments == {
        "time_now": 0,
        "exp_time": 90,
        "due_in_ns": 9_000,
        "sint": 2,
        "config": d.MESSAGE,
        "unfinished": True,
    }
    assert pending.arguments == {"unfinished": True}


def test_what_the_last_event_begins_has_no_length(tmp_path: Path) -> None:
    """It is there, with all that is known of it."""
    timeline = d.draw(tmp_path, [d.config(100), d.one_shot(1_000, now=0, expires=90)])
    assert unfinished(timeline) == [("STIMER0", 1_000, 1_000, "armed (one-shot)")]


@pytest.mark.parametrize("last", [d.config(3_000, 0), d.count(3_000, 9), d.cleanup(3_000), d.expired(3_000)])
def test_a_timer_at_rest_is_not_unfinished(tmp_path: Path, last: Row) -> None:
    """Set, stopped or expired: there is nothing that the recording's end could cut off."""
    rows = [d.config(100), d.one_shot(1_000, 0, 9), d.callback(2_000), d.expired(2_100), last]
    assert not unfinished(d.draw(tmp_path, rows, last_ns=5_000))


def test_nor_is_a_callback_after_a_stop(tmp_path: Path) -> None:
    """It is an instant in the last window, too, and only once."""
    rows = [d.one_shot(1_000, 0, 9), d.cleanup(2_000), d.callback(2_010), d.entry(3_000), d.entry(3_100)]
    for window in (1, 100):
        timeline = d.draw(tmp_path, rows, window=window, last_ns=5_000)
        assert not unfinished(timeline)
        assert timeline.instants_on(*TIMER) == [(2_010, "callback after a stop")]


def test_of_a_vm_that_ended_nothing_is_unfinished(tmp_path: Path) -> None:
    """When it ended nobody knows: nothing is drawn beyond its last event, nor up to it."""
    timeline = d.draw(tmp_path, LEFT_OPEN, last_ns=5_000, last_seq=len(LEFT_OPEN) - 1)
    assert not unfinished(timeline)
    assert [s.short for s in timeline.slices] == [(1_100, 2_000, 0, "armed (one-shot)")]


@pytest.mark.parametrize("cpu", [0, 7, None])
@pytest.mark.parametrize(
    ("start", "end", "left"),
    [
        (3_000, 3_001, []),
        (4_900, None, []),
        (1_950, 1_960, CUT_OFF[-1:]),
        (500, 600, CUT_OFF),
        (5_000, 5_000, CUT_OFF),
    ],
    ids=["after all", "until the end", "before the callback", "before all", "at the end"],
)
def test_what_lies_across_a_loss_is_not_drawn_to_the_end(
    tmp_path: Path, cpu: int | None, start: int, end: int | None, left: list[tuple[str, int, int, str]]
) -> None:
    """The event that ends it may have been lost, on any CPU."""
    lost = [{"cpu": cpu, "from_ns": start, "to_ns": end, "count": 1}]
    assert unfinished(d.draw(tmp_path, LEFT_OPEN, last_ns=5_000, lost=lost)) == left


def test_nothing_lasts_to_an_end_before_it(tmp_path: Path) -> None:
    """Stamps of a damaged recording may lie behind its end: no slice runs backwards."""
    timeline = d.draw(tmp_path, LEFT_OPEN, last_ns=1_500)
    assert unfinished(timeline) == [("STIMER0", 1_000, 1_500, "armed (one-shot)")]


def test_what_begins_behind_a_part_is_not_unfinished(tmp_path: Path) -> None:
    """Stamps may run backwards. Of what comes after the part only the first events are read, not those that end it."""
    later = [d.cleanup(1_500), d.one_shot(1_600, 0, 9), d.cleanup(1_700)]
    rows = [d.entry(1_000), d.leave(3_000), *later]
    store = tiny_store(tmp_path / "t.hvt", rows, last_ns=5_000)
    out = io.BytesIO()
    write_trace(store, out, Which(last_ns=2_000))
    timeline = read_timeline(out.getvalue())
    assert not unfinished(timeline)


SPANS = [
    # 1_950: STIMER1's callback comes later and ends what is armed; the message is cleared at 4_000.
    (None, 1_950, ["STIMER0"]),
    (None, 2_500, ["STIMER0", "STIMER1"]),
    (None, 4_500, ["STIMER0", "STIMER1"]),
    (3_000, 3_100, ["STIMER0", "STIMER1"]),
    (4_500, None, ["STIMER0", "STIMER1"]),
    (None, 1_050, ["STIMER0"]),
    (None, 900, []),
    (5_001, None, []),
]


@pytest.mark.parametrize(("first", "last", "timers"), SPANS)
def test_a_part_is_unfinished_only_where_the_recording_is(
    tmp_path: Path, first: int | None, last: int | None, timers: list[str]
) -> None:
    """What an event after the part ends, ends there; what none ends is drawn to the recording's end, as in the whole.

    That is so also where the part begins after the last event.
    """
    rows = [*LEFT_OPEN, d.expired(4_000, timer=2)]
    timeline = d.draw(tmp_path, rows, Which(first_ns=first, last_ns=last), last_ns=5_000)
    found = unfinished(timeline)
    assert [track for track, *_ in found] == timers
    assert all(end == 5_000 for _, _, end, _ in found)
    assert all((s.end, s.name) != (5_000, "message pending") for s in timeline.slices)
