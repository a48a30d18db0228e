"""What belongs together, on runs of a little QEMU that says it: any order of messages, busy slots, full queues."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from builders import vmbus as v
from builders.store import Row, tiny_store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hvtrace.analysis.vmbus import vmbus

#: Requests with their answers; CLOSECHANNEL has none.
ANSWERS = {14: 15, 3: 4, 8: 10, 5: 6, 11: 12, 7: None}
DEPTH = 16


@dataclass
class Bus:
    """A queue of 16, served one at a time. `truth`: when each message was received, taken, answered, delivered."""

    rows: list[Row] = field(default_factory=list)
    truth: list[list[int | None]] = field(default_factory=list)
    queue: deque[tuple[int, int]] = field(default_factory=deque)
    now: int = 0

    def tick(self) -> int:
        self.now += 10
        return self.now

    def send(self, number: int) -> None:
        ts = self.tick()
        full = len(self.queue) >= DEPTH
        self.rows += [v.call(ts, 0x5C), v.received(ts + 1, number), v.done(ts + 2, 0x13 if full else 0)]
        if not full:
            self.queue.append((number, len(self.truth)))
            self.truth.append([ts + 1, None, None, None])

    def serve(self, busy: int) -> None:
        if not self.queue:
            return
        number, at = self.queue.popleft()
        ts = self.tick()
        self.rows.append(v.taken(ts, number))
        self.truth[at][1] = ts
        if (answer := ANSWERS[number]) is None:
            return
        for n in range(busy + 1):
            ts = self.tick()
            self.rows += [v.posted(ts, answer), v.back(ts + 5, -11 if n < busy else 0)]
            self.truth[at][2] = self.truth[at][2] or ts
        self.truth[at][3] = ts + 5


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.sampled_from(sorted(ANSWERS))),
            st.tuples(st.just("serve"), st.integers(0, 2)),
        ),
        min_size=1,
        max_size=60,
    )
)
def test_every_message_has_its_own_answer(tmp_path: Path, steps: list[tuple[str, int]]) -> None:
    """Each is taken up when the bus took it, and answered by what the bus answered; refused ones are not there."""
    bus = Bus()
    bus.send(14)
    for what, number in steps:
        getattr(bus, what)(number)
    # There is a table of each kind, whatever the steps.
    bus.serve(0)
    store = tiny_store(tmp_path / f"{len(list(tmp_path.iterdir()))}.hvt", bus.rows)
    rows = [row for row in vmbus(store).conversation if row["way"] == "to host"]
    found = [[row["ts_ns"], row["taken_ns"], row["answer_ns"], row["done_ns"]] for row in rows]
    assert found == bus.truth
