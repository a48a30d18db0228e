"""The reference model against another implementation of the same timers, driven at random, sound and broken."""

from __future__ import annotations

import pytest
from kvm_model import FAULTS, record
from replay_cases import CPU

from hvtrace.replay.engine import Engine
from hvtrace.replay.judge import Judge
from hvtrace.replay.model.clock import Stamps
from hvtrace.replay.model.exposure import parse_cpu
from hvtrace.replay.model.machine import Bench
from hvtrace.replay.profile import profile_for
from hvtrace.replay.rule import RESETS
from hvtrace.replay.rules import RULES
from hvtrace.replay.tape import TAPE, Event
from hvtrace.replay.verdict import Divergence, Severity


def judged(events: list[Event]) -> Judge:
    traced = frozenset({*TAPE, RESETS})
    judge = Judge(RULES, traced)
    bench = Bench(judge, profile_for("6.1.0"), traced, parse_cpu(CPU), False)
    bench.stamps = Stamps.of("local", "ns")
    engine = Engine(bench)
    engine.run(events)
    engine.finish()
    return judge


def errors(judge: Judge) -> list[Divergence]:
    """Divergences that are no warnings, in order."""
    found = (one for one in judge.divergences.values() if one.severity is Severity.ERROR)
    return sorted(found, key=lambda divergence: divergence.seq)


@pytest.mark.parametrize("seed", range(30))
def test_a_sound_kvm_never_diverges(seed: int) -> None:
    """Four timers at once, busy slots, masked sources, races: no rule diverges, and almost all is judged."""
    events = record(seed)
    judge = judged(events)
    assert [(found.seq, found.rule, found.message) for found in errors(judge)] == []
    told = [event for event in events if event[2].startswith(("kvm_hv_", "kvm_msr"))]
    assert sum(judge.judged[name] for name in TAPE if name.startswith(("kvm_hv_", "kvm_msr"))) > 0.97 * len(
        told
    )


#: Faults that show in few random runs.
RARE = {
    "a vector that a source had is still told to the SynIC",
    "an acknowledgement of any source tries again",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_by_a_rule_of_its_families(fault: str) -> None:
    """In most random runs, and as one divergence."""
    found = [errors(judged(record(seed, fault))) for seed in range(12)]
    first = [run[0].rule[:3] for run in found if run]
    assert set(first) <= FAULTS[fault]
    assert len(first) >= (3 if fault in RARE else 6)
    assert {len(run) for run in found if run} == {1}
