"""Messages and their answers: what belongs together, what is repeated, what is never answered."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from builders import vmbus as v
from builders.store import Row, tiny_store

from hvtrace.analysis.vmbus import Question, Vmbus, vmbus
from hvtrace.errors import InputError

CONTACT, RESPONSE, REQUEST, OFFER, ALL, UNLOAD = 14, 15, 3, 1, 4, 16


def answer(tmp_path: Path, rows: Iterable[Row], **asked: Any) -> Vmbus:
    store = tiny_store(tmp_path / f"{len(list(tmp_path.iterdir()))}.hvt", sorted(rows, key=lambda r: r[0]))
    return vmbus(store, Question(**asked))


def said(found: Vmbus) -> list[tuple[int, str, str, int | None]]:
    """When, what, about what, and how long until the answer or the delivery."""
    return [(row["ts_ns"], row["message"], row["about"], row["ns"]) for row in found.conversation]


CONNECTED = [
    v.received(1_000, CONTACT, 40),
    v.taken(1_100, CONTACT),
    v.contact(1_110, 4, 1),
    v.posted(1_200, RESPONSE, 12),
    v.back(1_300),
    v.received(2_000, CONTACT, 40, vcpu=1),
    v.taken(2_100, CONTACT),
    v.contact(2_110, 4, 0),
    v.posted(2_200, RESPONSE, 12),
    v.back(2_500),
    v.received(3_000, REQUEST),
    v.taken(3_050, REQUEST),
    v.offer(3_100, 1),
    v.posted(3_110, OFFER, 200),
    v.back(3_200),
    v.posted(3_300, ALL),
    v.back(3_400),
]


def test_a_conversation(tmp_path: Path) -> None:
    """A request lasts until its answer was delivered, REQUESTOFFERS until the last of its answers was."""
    assert said(answer(tmp_path, CONNECTED)) == [
        (1_000, "INITIATE_CONTACT", "version 4.1, VP 0", 300),
        (1_200, "VERSION_RESPONSE", "", 100),
        (2_000, "INITIATE_CONTACT", "version 4.0, VP 0", 500),
        (2_200, "VERSION_RESPONSE", "", 300),
        (3_000, "REQUESTOFFERS", "", 400),
        (3_110, "OFFERCHANNEL", "channel 1", 90),
        (3_300, "ALLOFFERS_DELIVERED", "", 100),
    ]


def test_versions_tried_and_agreed(tmp_path: Path) -> None:
    """No event says what was answered: what the guest does next tells."""
    (connection,) = answer(tmp_path, CONNECTED).connections
    assert [(one["version"], one["outcome"], one["vcpu"]) for one in connection["versions"]] == [
        ("4.1", "refused", 0),
        ("4.0", "agreed", 1),
    ]
    assert (connection["version"], connection["agreed_ns"], connection["offers"]) == ("4.0", 2_500, 1)
    assert (connection["ended"], connection["until_ns"]) == (None, None)


def test_a_contact_at_the_end_has_no_outcome(tmp_path: Path) -> None:
    """Nothing follows that would tell."""
    (connection,) = answer(tmp_path, CONNECTED[:10]).connections
    assert [one["outcome"] for one in connection["versions"]] == ["refused", None]
    assert connection["version"] is None


def test_a_message_that_found_its_slot_busy(tmp_path: Path) -> None:
    """Posted again until it was delivered, it is one message; the request waits as long."""
    rows = [
        v.received(1_000, REQUEST),
        v.taken(1_100, REQUEST),
        *(row for ts in (1_200, 1_400) for row in (v.posted(ts, ALL), v.back(ts + 100, -11))),
        v.posted(1_600, ALL),
        v.back(1_700),
    ]
    found = answer(tmp_path, rows)
    assert said(found) == [(1_000, "REQUESTOFFERS", "", 700), (1_200, "ALLOFFERS_DELIVERED", "", 500)]
    assert [(row["message"], row["answered"], row["repeated"]) for row in found.messages] == [
        ("REQUESTOFFERS", 1, None),
        ("ALLOFFERS_DELIVERED", None, 2),
    ]


def test_first_come_first_served(tmp_path: Path) -> None:
    """Two requests of a type wait at once: the first is taken up first."""
    rows = [
        v.received(1_000, 11, vcpu=0),
        v.received(1_100, 11, vcpu=1),
        *(
            row
            for ts, gpadl in ((1_200, 5), (1_500, 6))
            for row in (
                v.taken(ts, 11),
                v.pages(ts + 10, "teardown", gpadl),
                v.pages(ts + 20, "torndown", gpadl),
                v.posted(ts + 30, 12),
                v.back(ts + 40),
            )
        ),
    ]
    found = [row for row in answer(tmp_path, rows).conversation if row["way"] == "to host"]
    assert [(row["vcpu"], row["about"], row["taken_ns"], row["ns"]) for row in found] == [
        (0, "GPADL 5", 1_200, 240),
        (1, "GPADL 6", 1_500, 440),
    ]


def test_pages_of_two_channels_at_once(tmp_path: Path) -> None:
    """An answer belongs to the request with its GPADL, also where another was answered first."""
    rows = [
        v.received(1_000, 8),
        v.taken(1_010, 8),
        v.pages(1_020, "header", 5, 40),
        v.received(1_100, 8),
        v.taken(1_110, 8),
        v.pages(1_120, "header", 6, 10),
        v.pages(1_130, "created", 6),
        v.posted(1_140, 10),
        v.back(1_150),
        v.received(1_200, 9),
        v.taken(1_210, 9),
        v.pages(1_220, "body", 5),
        v.pages(1_230, "created", 5),
        v.posted(1_240, 10),
        v.back(1_250),
    ]
    found = [row for row in answer(tmp_path, rows).conversation if row["type"] == 8]
    assert [(row["about"], row["ns"]) for row in found] == [
        ("GPADL 5, 40 pages", 250),
        ("GPADL 6, 10 pages", 50),
    ]


@pytest.mark.parametrize(
    ("rest", "why", "tries"),
    [
        ([], "not taken up", None),
        ([v.taken(1_100, REQUEST)], "not answered", None),
        ([v.taken(1_100, REQUEST), v.posted(1_200, ALL), v.back(1_300, -11)], "answer not delivered", 1),
        ([v.taken(1_100, REQUEST), v.posted(1_200, ALL)], "answer not delivered", 1),
    ],
)
def test_a_request_without_an_answer(tmp_path: Path, rest: list[Row], why: str, tries: int | None) -> None:
    """Where it stopped, and how long the guest has waited until the recording's end."""
    # Another message is taken up long before: the tables are there.
    before = [v.received(10, 7), v.taken(20, 7), v.posted(30, 2), v.back(40)]
    (row,) = answer(tmp_path, [*before, v.received(1_000, REQUEST), *rest, v.notify(9_000, 1)]).unanswered
    assert (row["message"], row["why"], row["tries"], row["waited_ns"]) == (
        "REQUESTOFFERS",
        why,
        tries,
        8_000,
    )


def test_unload_empties_the_queue(tmp_path: Path) -> None:
    """What waited then is never taken up; a message of the same type after it is another one."""
    rows = [
        v.received(1_000, UNLOAD),
        v.received(1_010, 7),
        v.taken(1_100, UNLOAD),
        v.posted(1_200, 17),
        v.back(1_300),
        v.received(2_000, 7),
        v.taken(2_100, 7),
    ]
    found = answer(tmp_path, rows)
    assert [(row["ts_ns"], row["message"], row["why"]) for row in found.unanswered] == [
        (1_010, "CLOSECHANNEL", "not taken up")
    ]
    assert [row["taken_ns"] for row in found.conversation if row["type"] == 7] == [None, 2_100]


def test_a_recording_that_begins_between_two_events(tmp_path: Path) -> None:
    """What was taken up without having been received came before; it takes nobody else's place."""
    rows = [
        v.taken(1_000, 11),
        v.posted(1_100, 12),
        v.back(1_200),
        v.received(2_000, 11),
        v.taken(2_100, 11),
        v.posted(2_200, 12),
        v.back(2_300),
    ]
    found = [row for row in answer(tmp_path, rows).conversation if row["type"] == 11]
    assert [(row["ts_ns"], row["taken_ns"], row["ns"]) for row in found] == [
        (1_000, 1_000, 200),
        (2_000, 2_100, 300),
    ]


def test_a_message_that_qemu_refused(tmp_path: Path) -> None:
    """Its hypercall tells: the queue was full. It waits for nothing, and takes nobody's place."""
    rows = [
        *(v.call(900, 0x5C), v.received(1_000, REQUEST), v.done(1_100, 0x13)),
        *(v.call(1_900, 0x5C), v.received(2_000, REQUEST), v.done(2_100)),
        *(v.taken(2_200, REQUEST), v.posted(2_300, ALL), v.back(2_400)),
    ]
    found = answer(tmp_path, rows)
    assert [(row["ts_ns"], row["ns"]) for row in found.conversation if row["type"] == REQUEST] == [
        (2_000, 400)
    ]
    assert found.unanswered == []


def test_a_span_of_time(tmp_path: Path) -> None:
    """Messages count where they were received, with answers that come later; the connection is the whole one."""
    found = answer(tmp_path, CONNECTED, first_ns=2_000, last_ns=2_300)
    assert said(found) == [
        (2_000, "INITIATE_CONTACT", "version 4.0, VP 0", 500),
        (2_200, "VERSION_RESPONSE", "", 300),
    ]
    assert found.connections[0]["version"] == "4.0"


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    """A vCPU has no VMBus of its own; a store without any such event has nothing to tell."""
    with pytest.raises(InputError, match="ask by --vm"):
        answer(tmp_path, CONNECTED, vcpu=0)
    with pytest.raises(InputError, match="neither hypercalls nor interrupts"):
        answer(tmp_path, [(1, "kvm_entry", 0, 0, {})])
