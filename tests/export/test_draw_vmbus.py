"""VMBus in the timeline: connection, channels, messages, signals, and arrows to and from vCPUs."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from builders import drawing as d
from builders import vmbus as v
from builders.store import Row
from builders.timeline import Timeline, read_timeline
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recordings import get

from hvtrace.export.perfetto import write_trace
from hvtrace.export.streams import Which
from hvtrace.pipeline.ingest import ingest
from hvtrace.store import Store

BUS = ("VM 0", "VMBus")
MESSAGES, CONNECTION = (*BUS, "Messages"), (*BUS, "Connection")


def exchanged(ts: int, question: int, answer: int, *inside: Row, vcpu: int = 0) -> list[Row]:
    """A message of the guest and the answer to it."""
    return [
        v.received(ts, question, 40, vcpu),
        v.taken(ts + 100, question),
        *inside,
        v.posted(ts + 200, answer, 12),
        v.back(ts + 300),
    ]


CONTACTS = [
    *exchanged(1_000, 14, 15, v.contact(1_110, 4, 1)),
    *exchanged(2_000, 14, 15, v.contact(2_110, 4, 0)),
    *exchanged(3_000, 3, 4),
]


def on(timeline: Timeline, *track: str) -> list[tuple[int, int, str]]:
    return [(start, end, name) for start, end, _, name in timeline.on(*track)]


@pytest.mark.parametrize("window", [1, 2, 100])
def test_a_message_lasts_until_its_answer_is_delivered(tmp_path: Path, window: int) -> None:
    """Beneath it lies what QEMU posted, to the end of the delivery."""
    timeline = d.draw(tmp_path, CONTACTS, window=window)
    assert timeline.on(*MESSAGES) == [
        (1_000, 1_300, 0, "INITIATE_CONTACT"),
        (1_200, 1_300, 1, "VERSION_RESPONSE"),
        (2_000, 2_300, 0, "INITIATE_CONTACT"),
        (2_200, 2_300, 1, "VERSION_RESPONSE"),
        (3_000, 3_300, 0, "REQUESTOFFERS"),
        (3_200, 3_300, 1, "ALLOFFERS_DELIVERED"),
    ]
    first = next(s for s in timeline.slices if s.name == "INITIATE_CONTACT")
    assert first.arguments == {"size": 40, "waited_ns": 100, "answered": True}


@pytest.mark.parametrize("window", [1, 2, 100])
def test_messages_that_wait(tmp_path: Path, window: int) -> None:
    """What came meanwhile begins where the one before ends; a busy slot is posted to again; slices nest."""
    rows = [
        v.received(1_000, 7),
        v.received(1_050, 11),
        v.received(1_060, 3, vcpu=1),
        v.taken(1_100, 7),
        v.taken(1_200, 11),
        v.posted(1_300, 12),
        v.back(1_400, -11),
        v.posted(1_500, 12),
        v.back(1_600),
        v.taken(1_700, 3),
    ]
    timeline = d.draw(tmp_path, rows, window=window)
    assert timeline.on(*MESSAGES) == [
        (1_000, 1_100, 0, "CLOSECHANNEL"),
        (1_100, 1_600, 0, "GPADL_TEARDOWN"),
        (1_300, 1_400, 1, "GPADL_TORNDOWN (slot busy)"),
        (1_500, 1_600, 1, "GPADL_TORNDOWN"),
        (1_600, 1_700, 0, "REQUESTOFFERS"),
    ]
    answered = {s.name: s.arguments.get("answered") for s in timeline.slices if s.track == MESSAGES}
    assert (answered["CLOSECHANNEL"], answered["GPADL_TEARDOWN"], answered["REQUESTOFFERS"]) == (
        None,
        True,
        False,
    )


@pytest.mark.parametrize("window", [1, 2, 100])
def test_messages_that_are_never_taken_up(tmp_path: Path, window: int) -> None:
    """UNLOAD empties the queue, and so does the recording's end; posts before any message stand alone."""
    rows = [
        v.posted(100, 15),
        v.back(200),
        v.posted(300, 15),
        v.received(1_000, 16),
        v.received(1_010, 7),
        v.taken(1_100, 16),
        v.posted(1_200, 17),
        v.back(1_300),
        v.received(2_000, 14),
    ]
    timeline = d.draw(tmp_path, rows, window=window)
    assert on(timeline, *MESSAGES) == [
        (100, 200, "VERSION_RESPONSE"),
        (300, 300, "VERSION_RESPONSE (outcome not known)"),
        (1_000, 1_300, "UNLOAD"),
        (1_200, 1_300, "UNLOAD_RESPONSE"),
    ]
    assert timeline.instants_on(*MESSAGES) == [
        (1_010, "CLOSECHANNEL (not taken up)"),
        (2_000, "INITIATE_CONTACT (not taken up)"),
    ]


@pytest.mark.parametrize("window", [1, 2, 100])
def test_a_connection(tmp_path: Path, window: int) -> None:
    """Versions tried, the one that the guest goes on with, and unloading; a new contact begins anew."""
    rows = [
        *CONTACTS,
        v.taken(3_900, 5),
        *exchanged(4_000, 16, 17),
        *exchanged(6_000, 14, 15, v.contact(6_110, 4, 0)),
    ]
    timeline = d.draw(tmp_path, rows, window=window, last_ns=9_000)
    assert on(timeline, *CONNECTION) == [
        (1_110, 2_110, "contact, version 4.1"),
        (2_110, 3_100, "contact, version 4.0"),
        (3_100, 4_100, "connected 4.0"),
        (4_100, 4_200, "unloading"),
        (6_110, 9_000, "contact, version 4.0"),
    ]
    assert [s.arguments.get("unfinished") for s in timeline.slices if s.track == CONNECTION][-1] is True


LIFE = [
    v.offer(1_000, 1),
    v.offer(1_050, 1),
    v.pages(2_000, "header", 77, 10),
    v.pages(2_100, "created", 77),
    v.opening(3_000, 1, 77),
    v.opened(3_100, 1),
    v.offer(3_500, 2),
    v.close(4_000, 1),
    v.pages(5_000, "teardown", 77),
    v.pages(5_100, "torndown", 77),
    v.opening(6_000, 2, 78, vp=1),
    v.opened(6_100, 2, 1),
    v.taken(7_000, 14),
]


@pytest.mark.parametrize("window", [1, 2, 100])
def test_a_channels_life(tmp_path: Path, window: int) -> None:
    """Offered (once, however often it was posted), pages shared, open, closed; a new contact ends all."""
    timeline = d.draw(tmp_path, LIFE, window=window, last_ns=9_000)
    assert on(timeline, *BUS, "Channel 1") == [
        (1_000, 2_000, "offered"),
        (2_000, 2_100, "sharing pages"),
        (2_100, 3_000, "pages shared"),
        (3_000, 3_100, "opening"),
        (3_100, 4_000, "open"),
        (4_000, 5_000, "closed"),
        (5_000, 5_100, "taking pages back"),
        (5_100, 7_000, "offered"),
    ]
    assert on(timeline, *BUS, "Channel 2") == [
        (3_500, 6_000, "offered"),
        (6_000, 6_100, "opening"),
        (6_100, 7_000, "refused"),
    ]
    arguments = {s.name: s.arguments for s in timeline.slices if s.track[-1] == "Channel 1"}
    assert arguments["sharing pages"] == {"gpadl": 77, "pages": 10}
    assert arguments["opening"] == {"gpadl": 77, "vp": 0}


def unit(ts: int, *inside: Row, vcpu: int = 0, reason: int = 0x81) -> list[Row]:
    """An entry, an exit (SVM's VMMCALL), what happens in it, and the next entry."""
    return [d.entry(ts - 50, vcpu), d.leave(ts, vcpu, reason), *inside, d.entry(ts + 900, vcpu)]


SIGNALS = [
    v.offer(100, 1),
    v.opening(200, 1, 77),
    v.state(210, "S_VERSION"),
    v.opened(300, 1),
    *unit(2_000, v.signal(2_100, 17), v.done(2_200)),
    v.balloon(3_000, "incoming_version", major=2, minor=0),
    v.notify(3_100, 1),
    d.accept(3_200, 0xF3, thread=v.MAIN),
    v.raised(3_210, thread=v.MAIN),
    d.entry(3_300, 0),
    d.leave(3_400, 0),
    d.inject(3_500, 0xF3),
    d.entry(3_550, 0),
    d.acked(3_600, 2),
    v.notify(4_000, 1),
]


@pytest.mark.parametrize("window", [1, 2, 3, 100])
def test_arrows_of_signals(tmp_path: Path, window: int) -> None:
    """From the vCPU's exit to what the balloon reads; from the notification to the interrupt that it raises."""
    timeline = d.draw(tmp_path, SIGNALS, window=window)
    assert timeline.instants_on(*BUS, "Channel 1 signals") == [
        (2_100, "SIGNAL_EVENT"),
        (3_100, "notify"),
        (4_000, "notify"),
    ]
    chains = [[(s.start, s.name) for s in chain] for chain in timeline.flows().values()]
    assert [(2_000, "HvCallSignalEvent"), (2_100, "SIGNAL_EVENT"), (3_000, "incoming version")] in chains
    (back,) = [chain for chain in chains if (3_100, "notify") in chain]
    assert back[:3] == [(3_100, "notify"), (3_210, "delivered (vector 0xf3)"), (3_500, "vector 0xf3")]
    assert [s.flows for s in timeline.instants if s.start == 4_000] == [()]


@pytest.mark.parametrize("window", [1, 2, 100])
def test_an_arrow_from_the_hypercall_to_its_message(tmp_path: Path, window: int) -> None:
    """POST_MESSAGE's exit, also in userspace, leads to the message that QEMU received in it."""
    rows = [
        d.entry(500),
        d.leave(600, reason=0x81),
        v.call(700, 0x5C),
        (800, "kvm_userspace_exit", 0, 0, {"tid": 100, "reason": 27}),
        *exchanged(1_000, 14, 15),
        v.done(1_400),
        d.entry(1_500),
        d.leave(1_600),
        d.entry(1_700),
    ]
    timeline = d.draw(tmp_path, rows, window=window)
    ((first, then),) = timeline.arrows()
    assert (first.track[1], first.name, then.name) == ("vCPU 0", "HvCallPostMessage", "INITIATE_CONTACT")


NUMBERS = (3, 7, 11, 14, 16)
ANYTHING = st.one_of(
    st.builds(lambda n, vcpu: ("received", n, 8, vcpu), st.sampled_from(NUMBERS), st.integers(0, 1)),
    st.builds(lambda n: ("taken", n), st.sampled_from(NUMBERS)),
    st.builds(lambda n: ("posted", n), st.sampled_from((1, 4, 12, 15, 17))),
    st.builds(lambda status: ("back", status), st.sampled_from((0, -11, -5))),
    st.builds(lambda minor: ("contact", 4, minor), st.integers(0, 1)),
    st.builds(lambda what, n: (what, n), st.sampled_from(("offer", "close", "notify")), st.integers(1, 2)),
    st.builds(lambda n, status: ("opened", n, status), st.integers(1, 2), st.integers(0, 1)),
    st.builds(lambda n, gpadl: ("opening", n, gpadl), st.integers(1, 2), st.integers(7, 8)),
    st.builds(
        lambda what, n: ("pages", what, n),
        st.sampled_from(("header", "created", "torndown")),
        st.integers(7, 8),
    ),
    st.builds(lambda n: ("signal", 16 + n), st.integers(1, 3)),
    st.just(("raised", 0, v.MAIN)),
    st.just(("state", "S_VERSION")),
    st.just(("balloon", "incoming_caps")),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(ANYTHING, st.integers(1, 2)), min_size=1, max_size=40))
def test_anything_is_drawn_the_same_by_any_window(tmp_path: Path, steps: list[tuple[Any, int]]) -> None:
    """Events in an order that no QEMU has: slices nest, and windows of one event draw what one window does."""
    rows, ts = [v.received(1, 14)], 1
    for (what, *arguments), later in steps:
        ts += later
        rows.append(getattr(v, what)(ts, *arguments))
    one, whole = (sorted(map(shape, drawn(d.draw(tmp_path, rows, window=n)))) for n in (1, 1_000))
    assert one == whole


def test_only_where_qemus_events_are(tmp_path: Path) -> None:
    """Hypercalls and interrupts alone make no group; nor is there one for a single vCPU."""
    alone = [row for row in SIGNALS if not row[1].startswith(("vmbus", "hv_balloon"))]
    assert not [track for track in d.draw(tmp_path, alone).tracks if "VMBus" in track]
    assert not [track for track in d.draw(tmp_path, SIGNALS, Which(vcpu=0)).tracks if "VMBus" in track]


@pytest.mark.parametrize("name", ["vmbus-balloon-2s", "vmbus-balloon-ftrace-2s", "vmbus-balloon"])
def test_recordings(tmp_path: Path, name: str) -> None:
    """Every message, signal and change of state is drawn, once; windows of any size draw the same."""
    files = [get(name) / file for file in ("trace.dat", "qemu-trace.log")]
    ingest([file for file in files if file.exists()], tmp_path / "t.hvt")
    store = Store(tmp_path / "t.hvt")
    timeline = exported(store, 1 << 20)
    small = exported(store, 5_000 if name != "vmbus-balloon" else 100_000)
    assert sorted(map(shape, drawn(small))) == sorted(map(shape, drawn(timeline)))

    def rows(*tables: str) -> int:
        return sum(store.scan(table).collect().height for table in tables if store.has(table))

    by_track = Counter(s.track[-1] for s in drawn(timeline))
    outer = [s for s in drawn(timeline) if s.track[-1] == "Messages" and s.depth == 0]
    assert len(outer) == rows("vmbus_recv_message")
    assert by_track["Messages"] == rows("vmbus_recv_message", "vmbus_post_msg")
    assert by_track["Balloon"] == rows("hv_balloon_state_change")
    calls = store.scan("kvm_hv_hypercall").collect().filter(code=0x5D).height
    assert by_track["Channel 1 signals"] == rows("vmbus_channel_notify_guest") + calls
    flows = [s for s in drawn(timeline) if s.name == "notify" and s.flows]
    raised = store.scan("kvm_hv_synic_set_irq").collect()
    assert len(flows) == (~raised["tid"].is_in([279, 280, 278])).sum()


def exported(store: Store, window: int) -> Timeline:
    out = io.BytesIO()
    write_trace(store, out, window=window)
    return read_timeline(out.getvalue())


def drawn(timeline: Timeline) -> Iterable[Any]:
    return [s for s in timeline.slices + timeline.instants if s.category == "vmbus"]


def shape(s: Any) -> tuple[Any, ...]:
    return s.track, s.short, sorted(s.arguments.items()), s.flows


def test_qemus_log_alone(tmp_path: Path) -> None:
    """Without KVM's events no VM is known: what QEMU traced is drawn to the log's end, beneath one that is not."""
    ingest([get("vmbus-balloon-2s") / "qemu-trace.log"], tmp_path / "t.hvt")
    store = Store(tmp_path / "t.hvt")
    timeline = exported(store, 1 << 20)
    assert {track[0] for track in timeline.tracks} == {"Recording", "VM not known"}
    (connected,) = [s for s in drawn(timeline) if s.name == "connected 4.0"]
    assert (connected.end, connected.arguments) == (store.manifest.time["last_ns"], {"unfinished": True})
    assert len([s for s in drawn(timeline) if s.track[-1] == "Messages" and s.depth == 0]) == 7
