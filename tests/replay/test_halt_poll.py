"""Halt polling: random halts on a little KVM, sound and with one line of its code changed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from hvtrace.replay.engine import Engine
from hvtrace.replay.judge import Judge
from hvtrace.replay.model.clock import Stamps
from hvtrace.replay.model.halt_poll import Parameters
from hvtrace.replay.model.machine import Bench
from hvtrace.replay.profile import profile_for
from hvtrace.replay.rule import RESETS
from hvtrace.replay.rules import select
from hvtrace.replay.tape import TAPE, Event, place_of
from hvtrace.replay.verdict import Divergence

HLT, MSR_EXIT, POLL_CONTROL = 0x78, 0x7C, 0x4B564D05
VCPUS, START = 2, 10_000

#: What a line of KVM that decides something is given, and gives.
Line = Callable[["Kvm", int], int]


@dataclass
class Kvm:
    """Halt polling as kvm_main.c has it: `grow` and `shrink` change a polling time, the others decide."""

    cap: int
    factor: int
    divisor: int
    clamps: bool
    grow: Line = lambda kvm, old: max(old * kvm.factor, START)
    shrink: Line = lambda kvm, old: old // kvm.divisor if kvm.divisor else 0
    floor: Line = lambda kvm, new: 0 if new < START else new
    clamp_grown: Line = lambda kvm, new: min(new, kvm.cap) if kvm.clamps else new
    clamp_halt: Line = lambda kvm, poll: poll if kvm.clamps else min(poll, kvm.cap)
    control: Line = lambda kvm, control: control
    owner: Line = lambda kvm, vcpu: vcpu
    told: Line = lambda kvm, ns: ns
    valid: Line = lambda kvm, one: one
    slept: Line = lambda kvm, waited: waited
    grows: Callable[[Kvm, int, int], bool] = lambda kvm, poll, ns: poll < kvm.cap and ns < kvm.cap
    shrinks: Callable[[Kvm, int, int], bool] = lambda kvm, poll, ns: poll > 0 and ns > kvm.cap
    enough: Callable[[Kvm, int, int], bool] = lambda kvm, poll, ns: ns <= poll

    def halt(self, poll: int, ns: int, control: int) -> tuple[int, tuple[int, int, int] | None]:
        """The polling time after a halt, and the fields of kvm_halt_poll_ns."""
        poll = self.clamp_halt(self, poll)
        if not self.control(self, control):
            return poll, None
        if not self.cap:
            return 0, None
        if self.enough(self, poll, ns):
            return poll, None
        if self.shrinks(self, poll, ns):
            new = self.floor(self, self.shrink(self, poll))
            return new, (0, new, poll)
        if self.grows(self, poll, ns):
            new = self.clamp_grown(self, self.grow(self, poll))
            return new, (1, new, poll)
        return poll, None


def record(kvm: Kvm, seed: int) -> list[Event]:
    """300 halts of two vCPUs; in the middle one of them switches polling off."""
    chance, events = random.Random(seed), []
    polls, controls, now = dict.fromkeys(range(VCPUS), 0), dict.fromkeys(range(VCPUS), 1), 0

    def show(name: str, vcpu: int, **fields: int) -> None:
        values = (fields.get(field, 0) for field in TAPE[name])
        events.append((len(events), now, name, place_of(0, vcpu), 100 + vcpu, *values))

    for vcpu in range(VCPUS):
        show("kvm_write_tsc_offset", vcpu, next_tsc_offset=1)
    for vcpu in range(VCPUS):
        show("kvm_entry", vcpu, rip=0x1000 if vcpu else 0xFFF0)
    for number in range(300):
        vcpu, now = chance.randrange(VCPUS), now + 1000
        if number == 150:
            controls[1] = 0
            show("kvm_exit", 1, exit_reason=MSR_EXIT, isa=2)
            show("kvm_msr", 1, write=1, ecx=POLL_CONTROL, data=0)
            show("kvm_entry", 1, rip=0x1000)
        ns = int(10 ** chance.uniform(3.5, chance.choice([5.3, 5.3, 6.5])))
        show("kvm_exit", vcpu, exit_reason=HLT, isa=2)
        now += ns + 3000
        owner = kvm.owner(kvm, vcpu)
        waited = int(ns > polls[owner] or not controls[vcpu])
        polls[owner], change = kvm.halt(polls[owner], ns, controls[vcpu])
        if change is not None:
            show("kvm_halt_poll_ns", vcpu, **dict(zip(("grow", "new", "old"), change, strict=True)))
        told, valid = kvm.told(kvm, ns), kvm.valid(kvm, 1)
        show("kvm_vcpu_wakeup", vcpu, ns=told, waited=kvm.slept(kvm, waited), valid=valid)
        show("kvm_entry", vcpu, rip=0x1000)
    return events


def judged(events: list[Event], release: str, parameters: Parameters) -> Judge:
    traced = frozenset({*TAPE, RESETS})
    judge = Judge(select(("HP",)), traced)
    bench = Bench(judge, profile_for(release), traced, halt_poll=parameters, stamps=Stamps.of("mono", "ns"))
    engine = Engine(bench)
    engine.run(events)
    engine.finish()
    return judge


def found(judge: Judge) -> list[Divergence]:
    return sorted(judge.divergences.values(), key=lambda divergence: divergence.seq)


HOSTS = [
    ("5.4.286", 200_000, 2, 0, True),
    ("5.15.85", 200_000, 2, 0, True),
    ("6.1.192", 200_000, 2, 0, False),
    ("6.16.1", 200_000, 2, 2, False),
    ("6.16.1", 150_000, 3, 4, False),
    ("6.1.192", 0, 2, 0, False),
    ("6.1.192", 200_000, 0, 0, False),
]


@pytest.mark.parametrize(("release", "cap", "factor", "divisor", "clamps"), HOSTS)
def test_a_sound_kvm_never_diverges_and_is_judged_whole(
    release: str, cap: int, factor: int, divisor: int, clamps: bool
) -> None:
    """Under any parameters; without them nothing diverges either."""
    kvm = Kvm(cap, factor, divisor, clamps)
    if factor == 0:
        kvm.grow = lambda kvm, old: old
    for seed in range(8):
        events = record(kvm, seed)
        judge = judged(events, release, Parameters(cap, factor, START, divisor))
        assert [(one.rule, one.seq, one.message) for one in found(judge)] == []
        for name in ("kvm_halt_poll_ns", "kvm_vcpu_wakeup"):
            assert judge.judged[name] == sum(event[2] == name for event in events)
        for start in (0, 500):
            assert found(judged(events[start:], release, Parameters())) == []


#: One line of KVM changed.
FAULTS: dict[str, dict[str, Callable[..., int]]] = {
    "grows by the start": {"grow": lambda kvm, old: old + START},
    "grows by another factor": {"grow": lambda kvm, old: max(old * 3, START)},
    "the start is ignored": {"grow": lambda kvm, old: old * kvm.factor},
    "is held under the cap at once": {"clamp_grown": lambda kvm, new: min(new, kvm.cap)},
    "is not held under the cap": {"clamp_halt": lambda kvm, poll: poll},
    "shrinks by half": {"shrink": lambda kvm, old: old // 2},
    "does not shrink to less than the start": {"shrink": lambda kvm, old: max(old // 2, START)},
    "polling off is ignored": {"control": lambda kvm, control: 1},
    "polling on is ignored": {"control": lambda kvm, control: 1 - control},
    "never grows": {"grows": lambda kvm, poll, ns: False},
    "never shrinks": {"shrinks": lambda kvm, poll, ns: False},
    "grows after long halts": {"grows": lambda kvm, poll, ns: poll < kvm.cap},
    "shrinks from 0": {"shrinks": lambda kvm, poll, ns: ns > kvm.cap},
    "shrinks after short halts": {"shrinks": lambda kvm, poll, ns: poll > 0},
    "grows although polling was long enough": {"enough": lambda kvm, poll, ns: False},
    "one polling time for all": {"owner": lambda kvm, vcpu: 0},
    "counts in another unit": {"told": lambda kvm, ns: ns * 1000},
    "counts in microseconds": {"told": lambda kvm, ns: ns // 1000},
    "wakeups do not count": {"valid": lambda kvm, one: 0},
}


#: A length that is only told wrongly may fit for some halts.
LATER = {"counts in microseconds": 40}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_once_where_it_shows_first(fault: str) -> None:
    """By one divergence, in the first halt that is not as it should be."""
    cap, factor, divisor = 100_000, 2, 0
    sound, broken = Kvm(cap, factor, divisor, False), Kvm(cap, factor, divisor, False)
    for line, changed in FAULTS[fault].items():
        setattr(broken, line, changed)
    shown = 0
    for seed in range(8):
        right, wrong = record(sound, seed), record(broken, seed)
        first = next((n for n, (a, b) in enumerate(zip(right, wrong, strict=False)) if a != b), None)
        if first is None:
            continue
        shown += 1
        divergences = found(judged(wrong, "6.1.192", Parameters(cap, factor, START, divisor)))
        assert len(divergences) == 1
        assert first - 1 <= divergences[0].seq <= first + 1 + LATER.get(fault, 0), divergences[0]
    assert shown >= 4


def test_the_state_tells_who_polls() -> None:
    """The vCPU that switched the host's polling off polls by itself; the other shows its polling time."""
    kvm = Kvm(200_000, 2, 0, False)
    judge = Judge(select(("HP",)), frozenset(TAPE))
    engine = Engine(Bench(judge, profile_for("6.1.192"), frozenset(TAPE), halt_poll=Parameters(200_000)))
    events = record(kvm, 3)
    last = [event for event in events if event[2] == "kvm_halt_poll_ns" and event[3] == place_of(0, 0)][-1]
    engine.run(events[: last[0] + 1])
    first, second = (engine.vms[0].vcpus[number].describe() for number in range(VCPUS))
    assert first.get("halt_poll_ns", "0") == str(last[6])
    assert "halt polling" not in first
    assert second["halt polling"] == "by the guest itself"
