"""Whatever a tape holds, the engine neither crashes nor depends on anything but the tape."""

from __future__ import annotations

import random

import pytest

from hvtrace.abi.msr import MSRS
from hvtrace.replay.engine import Engine
from hvtrace.replay.judge import Judge
from hvtrace.replay.model.machine import Bench
from hvtrace.replay.model.vmbus import Recorded
from hvtrace.replay.profile import profile_for
from hvtrace.replay.rule import RESETS
from hvtrace.replay.rules import RULES
from hvtrace.replay.tape import OPTIONAL, TAPE, Event, home_of, place_of

PLACES = (place_of(0, 0), place_of(0, 1), place_of(1, 0), place_of(None, 0), home_of(0), -1)
VALUES = (0, 1, 2, 3, 16, -1, -11, 0x10062, (1 << 64) - 1)


def garbage(seed: int) -> list[Event]:
    """600 events of any kind, with any values."""
    chance = random.Random(seed)

    def value(field: str) -> object:
        if field in OPTIONAL and chance.random() < 0.2:
            return None
        if field in ("ecx", "msr"):
            return chance.choice(MSRS).index if chance.random() < 0.9 else chance.randrange(1 << 32)
        return chance.choice((*VALUES, chance.randrange(1 << 64)))

    names = list(TAPE)
    events: list[Event] = []
    for seq in range(600):
        name = chance.choice(names)
        head = (seq, 1000 * seq, name, chance.choice(PLACES), chance.choice((0, 1, 100)))
        events.append((*head, *map(value, TAPE[name])))
    return events


def told(seed: int) -> list[tuple[object, ...]]:
    traced = frozenset({*TAPE, RESETS})
    judge = Judge(RULES, traced)
    bench = Bench(judge, profile_for(None), traced, vmbus=Recorded(1000, [(300_000, 310_000)]))
    engine = Engine(bench, [(100_000, 200_000), (150_000, 160_000)])
    engine.run(garbage(seed))
    engine.finish()
    return [(f.rule, f.seq, f.expected, f.observed, f.count) for f in judge.divergences.values()]


@pytest.mark.parametrize("seed", range(30))
def test_garbage_is_judged_without_a_crash_and_twice_alike(seed: int) -> None:
    """Two replays of the same garbage give the same verdicts."""
    assert told(seed) == told(seed)
