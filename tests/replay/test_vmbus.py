"""VMBus: a little QEMU never diverges, whatever is cut off or lost; changes to its events are found."""

from __future__ import annotations

import random
from collections import Counter
from functools import cache

import pytest
from qemu_model import conversation
from vmbus_mutants import KINDS, Found, changes, judged, table

from hvtrace.replay.engine import Engine, Loss
from hvtrace.replay.judge import Judge
from hvtrace.replay.model.exposure import parse_cpu
from hvtrace.replay.model.machine import Bench
from hvtrace.replay.model.vmbus import Recorded
from hvtrace.replay.profile import profile_for
from hvtrace.replay.rule import RESETS
from hvtrace.replay.rules import select
from hvtrace.replay.tape import QEMU_TAPE, TAPE, Event, home_of
from hvtrace.replay.verdict import Divergence, Severity

SEEDS = range(40)
TRACED = frozenset({*TAPE, RESETS})

#: Changes to a conversation, and the share that must be found of those that no unmodified QEMU can have made.
CONVERSATIONS, EACH = 10, 20
FOUND = {"remove": 0.98, "double": 0.95, "swap": 0.98, "alter": 0.88}


def engine(losses: list[Loss] | None = None, qemu: Recorded | None = None) -> Engine:
    """An engine that asks the rules of VMBus."""
    judge = Judge(select(("VB",)), TRACED)
    bench = Bench(judge, profile_for("6.1"), TRACED, parse_cpu("host,hv-synic"))
    bench.vmbus = qemu or Recorded()
    return Engine(bench, losses or [])


def replayed(tape: list[Event], losses: list[Loss] | None = None, qemu: Recorded | None = None) -> Judge:
    """What the rules say of a tape."""
    run = engine(losses, qemu)
    run.run(tape)
    run.finish()
    return run.judge


def wrong(judge: Judge, *, warnings: bool) -> list[tuple[str, str, int]]:
    """What diverges; a guest that makes errors gets warnings."""
    found: list[Divergence] = [
        one for one in judge.divergences.values() if warnings or one.severity is Severity.ERROR
    ]
    return [(one.rule, one.message, one.seq) for one in found]


@cache
def talk(seed: int) -> list[Event]:
    """A conversation; the guest of an odd seed makes errors."""
    return conversation(seed, errors=bool(seed % 2))


def is_qemus(event: Event) -> bool:
    return event[2] in QEMU_TAPE


def test_a_sound_qemu_never_diverges() -> None:
    """Nor is there a rule that never holds."""
    holds: Counter[str] = Counter()
    for seed in SEEDS:
        judge = replayed(talk(seed))
        assert wrong(judge, warnings=not seed % 2) == [], seed
        for code, counted in judge.coverage.items():
            holds[code] += counted.holds
    assert {code for code, number in holds.items() if not number} == set()


def test_a_conversation_may_begin_and_end_anywhere() -> None:
    """Windows of a recording: what came before is not known, what would follow is not missed."""
    for seed in SEEDS:
        tape, chance = talk(seed), random.Random(f"window {seed}")
        for _ in range(5):
            first = chance.randrange(len(tape))
            judge = replayed(tape[first : chance.randrange(first, len(tape))])
            assert wrong(judge, warnings=not seed % 2) == [], seed


def test_traces_of_qemu_and_of_kvm_may_begin_and_end_apart() -> None:
    """What only one of them saw is held against nobody."""
    for seed in SEEDS:
        tape, chance = talk(seed), random.Random(f"apart {seed}")
        for _ in range(5):
            ranges = []
            for _ in range(2):
                first, last = sorted(chance.sample(range(len(tape)), 2))
                ranges.append((chance.choice((0, first)), chance.choice((last, last, len(tape)))))
            kept = [
                event
                for rank, event in enumerate(tape)
                if ranges[is_qemus(event)][0] <= rank < ranges[is_qemus(event)][1]
            ]
            assert wrong(replayed(kept), warnings=not seed % 2) == [], seed


def test_what_qemu_lost_makes_no_divergence() -> None:
    """Its events of a stretch of time are missing, and the recording says so."""
    for seed in SEEDS:
        tape, chance = talk(seed), random.Random(f"lost {seed}")
        first = chance.randrange(len(tape) - 10)
        last = min(first + chance.randrange(1, 200), len(tape) - 1)
        kept = [event for rank, event in enumerate(tape) if not (first <= rank < last and is_qemus(event))]
        lost = Recorded(0, [(tape[first][1] - 1, tape[last][1] - 1)])
        assert wrong(replayed(kept, qemu=lost), warnings=not seed % 2) == [], seed


def test_what_the_host_lost_makes_no_divergence() -> None:
    """Everything is missing, or KVM's events alone."""
    for seed in SEEDS:
        tape, chance = talk(seed), random.Random(f"host {seed}")
        first = chance.randrange(len(tape) - 10)
        last = min(first + chance.randrange(1, 200), len(tape) - 1)
        losses: list[Loss] = [(tape[first][1] - 1, tape[last][1] - 1)]
        for keeps in (lambda event: False, is_qemus):
            kept = [event for rank, event in enumerate(tape) if not first <= rank < last or keeps(event)]
            assert wrong(replayed(kept, losses), warnings=not seed % 2) == [], seed


def test_stamps_may_be_off_by_the_error_of_the_alignment() -> None:
    """QEMU's events come earlier or later by less than that, all of them."""
    for seed in SEEDS:
        shift = random.Random(f"shift {seed}").randrange(-149_000, 149_000)
        moved = [(e[0], e[1] + shift, *e[2:]) if is_qemus(e) else e for e in talk(seed)]
        moved.sort(key=lambda event: event[1])
        tape = [(rank, *event[1:]) for rank, event in enumerate(moved)]
        judge = replayed(tape, qemu=Recorded(150_000))
        assert wrong(judge, warnings=not seed % 2) == [], seed
        assert judge.coverage["VB102"].holds


def test_events_of_nobodys_vm_end_what_can_be_told() -> None:
    """With several VMs, and one event of which it is not known whose it is."""
    tape = talk(2)
    at = next(rank for rank, event in enumerate(tape) if is_qemus(event))
    nobodys = [(*event[:3], home_of(None), *event[4:]) if is_qemus(event) else event for event in tape]
    mixed = [*tape[: at + 1], nobodys[at + 1], *tape[at + 2 :]]
    for events in (nobodys, mixed):
        judge = replayed(events)
        assert wrong(judge, warnings=True) == []
        told = sum(counted.holds for code, counted in judge.coverage.items() if code != "VB101")
        assert told <= 1
        assert any("vm-ambiguous" in counted.unknown for counted in judge.coverage.values())


def test_two_vms_have_two_conversations() -> None:
    """Their events are mixed, and each is judged by itself."""
    tapes = [
        talk(2),
        [
            (e[0], e[1], e[2], home_of(1) if is_qemus(e) else e[3] | 1 << 16, e[4] + 1000, *e[5:])
            for e in talk(4)
        ],
    ]
    mixed = sorted((event for tape in tapes for event in tape), key=lambda event: event[1])
    judge = replayed([(rank, *event[1:]) for rank, event in enumerate(mixed)])
    assert wrong(judge, warnings=True) == []
    alone = [replayed(talk(seed)).coverage for seed in (2, 4)]
    for code in ("VB102", "VB104", "VB107", "VB119"):
        assert judge.coverage[code].holds == sum(one[code].holds for one in alone)


def test_without_qemus_events_nothing_is_asked() -> None:
    """The part takes no event at all: a recording without them is replayed as it ever was."""
    bench = Bench(Judge(select(("VB",)), TRACED), profile_for("6.1"), TRACED)
    run = Engine(bench)
    own = run.parts[-1]
    assert (own.handlers(), own.residents(), own.strangers()) == ({}, {}, {})
    run.run(event for event in talk(0) if not is_qemus(event))
    assert [vm.vmbus for vm in run.vms.values()] == [None]


@pytest.fixture(scope="module")
def results() -> list[Found]:
    """What is found of 200 changes."""
    found = []
    for seed in range(CONVERSATIONS):
        tape = conversation(1000 + seed, errors=False)
        found += judged(changes(tape, EACH, f"little {seed}"), engine)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_most_changes_are_found(kind: str, results: list[Found]) -> None:
    """One of QEMU's events removed, given twice, swapped with the next or altered; with an error."""
    own = [one for one in results if one.change.kind == kind and not one.change.excuse]
    assert len(own) > CONVERSATIONS * EACH // 8
    missed = [one.change.text for one in own if not one.error]
    assert 1 - len(missed) / len(own) >= FOUND[kind], (table(results), missed)


def test_the_same_seed_gives_the_same_changes() -> None:
    """The measure can be repeated."""
    tape = talk(0)
    assert changes(tape, 20, "a") == changes(tape, 20, "a") != changes(tape, 20, "b")
