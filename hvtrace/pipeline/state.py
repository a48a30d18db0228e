"""Store → tape → the modelled state at a time."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

from hvtrace.pipeline.check import Options, prepare, tape_of, without_collector
from hvtrace.replay.state import state_of
from hvtrace.replay.tape import text_of
from hvtrace.store import Store

__all__ = ["StateAt", "state_at"]


@dataclass(slots=True)
class StateAt:
    """The state after the last event that is not later than `at`.

    `losing` is true while events are known to be lost. `vms` as from `hvtrace.replay.state.state_of`.
    """

    source: str
    profile: str
    at: int
    unit: str
    seq: int | None = None
    ts: int | None = None
    event: str | None = None
    losing: bool = False
    vms: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def state_at(store: Store, at: int, options: Options | None = None) -> StateAt:
    """Replay a store up to a time stamp, with the events of that stamp, and describe the model.

    Raises HvtraceError where an option is wrong or a table cannot be read.
    """
    engine, result = prepare(store, options or Options())
    clock = store.manifest.clock.get("unit", "ns")
    found = StateAt(result.source, result.profile, at, clock, notes=result.notes)
    with without_collector():
        for window in tape_of(store):
            cut = bisect_right(window, at, key=lambda event: int(event[1]))
            engine.run(window[:cut])
            if cut:
                last = window[cut - 1]
                found.seq, found.ts, found.event = last[0], last[1], text_of(last)
            if cut < len(window):
                break
    engine.reach(at)
    found.losing = engine.losing > 0
    found.vms = state_of(engine)
    return found
