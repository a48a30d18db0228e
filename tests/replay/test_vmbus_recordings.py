"""Real recordings of VMBus with QEMU's events: they are clean, parts of them too, and changes to them are found."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from recordings import get
from vmbus_mutants import KINDS, changes, engine_for, judged, table, trimmed

from hvtrace.pipeline.check import check, tape_of
from hvtrace.pipeline.ingest import ingest
from hvtrace.replay.rules import RULES
from hvtrace.replay.tape import QEMU_TAPE, Event
from hvtrace.store import Store

Loaded = Callable[[str], tuple[Store, list[Event]]]

#: From the VM's start on; the samples begin in the middle of its life.
WHOLE = ("vmbus-balloon", "vmbus-balloon-simple", "vmbus-balloon-ftrace")
PARTS = ("vmbus-balloon-2s", "vmbus-balloon-ftrace-2s")

#: Rules that nothing in a recording asks: a signal to a connection that nobody knows, a slot that is never busy, a
#: request under a version that was refused; and what cannot be told without the VM's start.
IDLE = {"VB101", "VB111", "VB116"}
UNSEEN = {"VB104", "VB113", "VB114"}

#: Changes to all recordings of a kind, and the share found, with an error, of those that QEMU cannot have made.
CHANGES, FOUND_WHOLE, FOUND_PARTS = 200, 0.94, 0.82


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """A recording's store, and its tape cut down to what VMBus has to do with."""
    folder = tmp_path_factory.mktemp("vmbus")

    @cache
    def load(name: str) -> tuple[Store, list[Event]]:
        source = get(name)
        log = source / "qemu-trace.log"
        path = folder / f"{name}.hvt"
        ingest([source / "trace.dat", *([log] if log.exists() else [])], path)
        store = Store(path)
        return store, trimmed(event for window in tape_of(store) for event in window)

    return load


@pytest.mark.parametrize("name", [*WHOLE, *PARTS])
def test_a_recording_is_clean_and_its_conversation_judged(name: str, loaded: Loaded) -> None:
    """No warning either; every event of QEMU's but a few is judged, and nearly every rule holds somewhere."""
    store, _ = loaded(name)
    result = check(store)
    assert [(found.rule, found.message) for found in result.divergences] == []
    silent = IDLE | (UNSEEN if name in PARTS else set())
    told = {rule.code for rule in RULES if rule.code.startswith("VB")} - silent
    assert {code for code in told if not result.coverage[code].holds} == set()
    totals = sum(number for event, number in result.totals.items() if event in QEMU_TAPE)
    known = sum(number for event, number in result.judged.items() if event in QEMU_TAPE)
    assert known >= totals - 3 > 20


@pytest.mark.parametrize("name", [*WHOLE, *PARTS])
def test_cut_down_to_vmbus_a_tape_gives_the_same_verdicts(name: str, loaded: Loaded) -> None:
    """So that changes to it are found in milliseconds."""
    store, tape = loaded(name)
    whole, cut = engine_for(store), engine_for(store)
    for window in tape_of(store):
        whole.run(window)
    cut.run(tape)
    counts = []
    for engine in (whole, cut):
        engine.finish()
        counts.append({c: (n.holds, n.diverges, dict(n.unknown)) for c, n in engine.judge.coverage.items()})
    assert counts[0] == counts[1]


@pytest.mark.parametrize("name", [*WHOLE, *PARTS])
def test_windows_of_a_recording_are_clean(name: str, loaded: Loaded) -> None:
    """Whatever part of a conversation is seen; QEMU's trace may be cut elsewhere than KVM's."""
    store, tape = loaded(name)
    for seed in range(60):
        chance = random.Random(f"{name} {seed}")
        ranges = []
        for _ in range(2):
            first, last = sorted(chance.sample(range(len(tape)), 2))
            ranges.append((chance.choice((0, first)), chance.choice((last, len(tape)))))
        ranges = ranges if seed % 2 else [ranges[0], ranges[0]]
        engine = engine_for(store)
        kept = [
            event
            for rank, event in enumerate(tape)
            if ranges[event[2] in QEMU_TAPE][0] <= rank < ranges[event[2] in QEMU_TAPE][1]
        ]
        engine.run(kept)
        engine.finish()
        found = engine.judge.divergences.values()
        assert [(one.rule, one.message) for one in found] == [], seed


@pytest.mark.parametrize(("names", "share"), [(WHOLE, FOUND_WHOLE), (PARTS, FOUND_PARTS)])
def test_changes_to_qemus_events_are_found(names: tuple[str, ...], share: float, loaded: Loaded) -> None:
    """200 of them, a quarter of each kind: one event removed, given twice, swapped with the next, or altered."""
    found = []
    for place, name in enumerate(names):
        store, tape = loaded(name)
        number = CHANGES * (place + 1) // len(names) - CHANGES * place // len(names)
        found += judged(changes(tape, number, name), lambda store=store: engine_for(store))
    told = [one for one in found if not one.change.excuse]
    assert len(found) == CHANGES
    assert {one.change.kind for one in told} == set(KINDS)
    assert sum(one.error for one in told) >= share * len(told), table(found)


def test_a_log_alone_is_judged(tmp_path: Path) -> None:
    """QEMU's own log without KVM's events: order, answers, identifiers."""
    path = tmp_path / "log.hvt"
    ingest([get(PARTS[0]) / "qemu-trace.log"], path)
    result = check(Store(path))
    assert result.verdict == "clean"
    assert [found.message for found in result.divergences] == []
    held = {code for code, counted in result.coverage.items() if counted.holds}
    assert held >= {"VB105", "VB106", "VB108", "VB109", "VB110", "VB117", "VB118"}
