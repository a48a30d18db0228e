"""Tape mutants: one seeded change to one event of a clean recording, and whether the reference model notices it.

A change drops an event, gives it twice, swaps it with the next one of its thread, or alters one of its fields to
another plausible value. The clean tape is replayed once; at each change the engine is copied, and the copy replays the
changed tape for AHEAD events more, so that a mutant knows the whole past and costs a short replay.

Some changes leave a tape that an unmodified KVM may well have made: no model can find those. They are counted apart,
and `equivalent` gives the reason in words. It looks at the changed event alone, never at what the model said.

    python tests/tape_mutants.py [MUTANTS] [STORE ...]

prints what is found of MUTANTS (500) changes spread over all recordings of HVTRACE_RECORDINGS (or over the stores).
"""

from __future__ import annotations

import copy
import random
import sys
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recordings import UNMODIFIED

from hvtrace.abi.msr import SYNTHETIC_RANGE, by_index
from hvtrace.abi.register import Group
from hvtrace.abi.register import Store as Kept
from hvtrace.pipeline.check import Options, prepare, tape_of
from hvtrace.pipeline.ingest import ingest
from hvtrace.replay.judge import Judge
from hvtrace.replay.model.synic import is_register
from hvtrace.replay.rules import RULES
from hvtrace.replay.tape import FIELDS, TAPE, Event
from hvtrace.replay.verdict import Divergence, Severity
from hvtrace.store import Store

__all__ = ["KINDS", "Mutant", "Result", "equivalent", "judge", "mutants", "table"]

KINDS = ("drop", "alter", "duplicate", "reorder")

#: Events replayed behind a change, and how far from it (ns) a divergence counts as one at the change.
AHEAD, NEAR_NS = 20_000, 100_000

REFERENCE, RUNTIME = 0x4000_0020, 0x4000_0010


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: its kind, the rank on the tape, the event, and the events that stand in its place up to `until`."""

    kind: str
    at: int
    until: int
    event: Event
    instead: tuple[Event, ...]
    field: str = ""
    #: Why an unmodified KVM may have made the changed tape; empty where it may not.
    excuse: str = ""

    @property
    def text(self) -> str:
        """The change in words."""
        fields = TAPE[self.event[2]]
        shown = " ".join(f"{n}={v}" for n, v in zip(fields, self.event[FIELDS:], strict=True))
        if self.kind == "alter":
            other = self.instead[0]
            value = other[3] if self.field == "vcpu" else other[FIELDS + fields.index(self.field)]
            shown += f" -> {self.field}={value}"
        if self.kind == "reorder":
            shown += f" <-> {self.instead[0][2]} {self.instead[0][FIELDS:]}"
        return f"{self.kind} {self.event[2]} {shown}"


@dataclass(slots=True)
class Result:
    """What the model said of a mutant: the rules that diverged, and whether one did so at the change."""

    mutant: Mutant
    rules: list[str]
    near: bool
    recording: str = ""

    @property
    def found(self) -> bool:
        """Some rule diverged with an error."""
        return bool(self.rules)


def is_told(event: Event) -> bool:
    """A Hyper-V tracepoint, or an access to a synthetic MSR."""
    if event[2] == "kvm_msr":
        return bool(SYNTHETIC_RANGE[0] <= event[6] <= SYNTHETIC_RANGE[1])
    return bool(event[2].startswith("kvm_hv_"))


def mutants(tape: list[Event], number: int, seed: str, tracepoints: set[str] | None = None) -> list[Mutant]:
    """`number` changes, kinds in turn, the tracepoint chosen first and then one of its events; in the tape's order."""
    by_name: defaultdict[str, list[int]] = defaultdict(list)
    for rank, event in enumerate(tape):
        if is_told(event) and event[3] >= 0 and (tracepoints is None or event[2] in tracepoints):
            by_name[event[2]].append(rank)
    if not by_name:
        return []
    chance = random.Random(zlib.crc32(seed.encode()))
    vcpus = sorted({event[3] for event in tape[:50_000] if event[3] >= 0})
    made = []
    for count in range(number):
        kind = KINDS[count % len(KINDS)]
        at = chance.choice(by_name[chance.choice(sorted(by_name))])
        made.append(_mutant(chance, kind, tape, at, vcpus))
    return sorted(made, key=lambda mutant: mutant.at)


def _mutant(chance: random.Random, kind: str, tape: list[Event], at: int, vcpus: list[int]) -> Mutant:
    event = tape[at]
    place = next((n for n in range(at + 1, min(at + 2000, len(tape))) if tape[n][4] == event[4]), None)
    follower = None if place is None else tape[place]
    if kind in ("drop", "duplicate"):
        instead = (event, event) if kind == "duplicate" else ()
        return Mutant(kind, at, at + 1, event, instead, excuse=equivalent(kind, event, None, follower))
    if kind == "reorder":
        if place is None or follower is None:
            return _mutant(chance, "drop", tape, at, vcpus)
        swapped = ((*event[:2], *follower[2:]), *tape[at + 1 : place], (*follower[:2], *event[2:]))
        return Mutant(kind, at, place + 1, event, swapped, excuse=equivalent(kind, event, follower, follower))
    names = [n for n, value in zip(TAPE[event[2]], event[FIELDS:], strict=True) if value is not None]
    if _names_vcpu(event) and len(vcpus) > 1:
        names.append("vcpu")
    field = chance.choice(names)
    if field == "vcpu":
        where, value = 3, chance.choice([p for p in vcpus if p != event[3]])
    else:
        where = FIELDS + TAPE[event[2]].index(field)
        value = _other(chance, field, event[where])
    altered = (*event[:where], value, *event[where + 1 :])
    excuse = equivalent(kind, event, altered, follower) or _free(tape, at, field)
    return Mutant(kind, at, at + 1, event, (altered,), field, excuse)


def _free(tape: list[Event], at: int, field: str) -> str:
    """A register that a guest writes, that has no event of its own, and that nobody reads again."""
    event = tape[at]
    row = by_index(event[6]) if event[2] == "kvm_msr" and event[5] else None
    if row is None or row.group in (Group.SYNIC, Group.STIMER, Group.SYNDBG):
        return ""
    if field == "exception" and event[7] & 1 and row.name.endswith(("ASSIST_PAGE", "HYPERCALL")):
        return "userspace decides where there is memory"
    later = (e for e in tape[at + 1 : at + AHEAD] if e[2] == "kvm_msr" and e[6] == event[6] and not e[5])
    if field == "data" and row.store in (Kept.VALUE, Kept.MODEL) and next(later, None) is None:
        return "the guest's own choice"
    return ""


def _names_vcpu(event: Event) -> bool:
    """Whether the record says by itself whose event it is."""
    return event[2].startswith(("kvm_hv_synic", "kvm_hv_stimer", "kvm_hv_notify"))


def _other(chance: random.Random, field: str, value: int) -> int:
    """Another plausible value of a field."""
    if field in ("write", "exception", "host", "direct", "fast", "guest_mode") or isinstance(value, bool):
        return not value if isinstance(value, bool) else 1 - value
    if field == "timer_index":
        return (value + chance.choice([1, 2, 3])) % 4
    if field == "sint":
        return (value + chance.choice([1, 15, chance.randrange(1, 16)])) % 16
    if field in ("vector", "vec"):
        return (value + chance.choice([1, 255, 16])) % 256
    if field == "ret":
        return 0 if value else 1
    if field == "msg_send_result":
        return chance.choice([r for r in (0, -2, -11, 1) if r != value])
    if field == "result":
        return chance.choice([r for r in (0, 2, 3, 5, 6) if r != value])
    if field in ("ecx", "msr"):
        return value + chance.choice([1, -1, 2])
    if field in ("time_now", "exp_time", "count"):
        return value ^ 1 << chance.choice([0, 4, 12, 16]) if chance.random() < 0.7 else value + 1
    return value ^ 1 << chance.choice([0, 1, 4, 8, 12, 16]) if chance.random() < 0.7 else value + 1


def equivalent(kind: str, event: Event, other: Event | None = None, follower: Event | None = None) -> str:
    """Why an unmodified KVM may have made the changed tape; empty: it may not.

    `other` is the altered event, or the one it changed places with; `follower` the next one of its thread. Two
    principles, both about who decides. Userspace writes and reads registers when and as it likes (host 1), so another
    value is another userspace, not another KVM; so is a write more or less, where the write has no other trace. A
    running clock shows the moment at which it was read, and events of two contexts (a hard interrupt and a thread, or a
    thread at work for another vCPU) have no order. `_free` adds what a guest writes without a trace.
    """
    name = event[2]
    fields = dict(zip(TAPE[name], event[FIELDS:], strict=True))
    changed = {} if other is None or kind == "reorder" else dict(zip(TAPE[name], other[FIELDS:], strict=True))
    altered = {field for field, value in changed.items() if value != fields[field]}
    if name.startswith("kvm_hv_syndbg"):
        if follower is None or follower[2] != "kvm_msr" or follower[6] != event[5]:
            return "userspace's own choice"
    elif fields.get("host"):
        if altered <= {"config", "count", "data"} and (kind == "alter" or name == "kvm_hv_synic_set_msr"):
            return "userspace's own choice"
        if name == "kvm_hv_synic_set_msr" and altered == {"msr"} and is_register(changed["msr"]):
            return "userspace's own choice"
    timers = follower is not None and follower[2] == "kvm_hv_stimer_expiration"
    if kind == "drop" and name == "kvm_hv_synic_set_irq" and not timers:
        return "a device's interrupt with the same vector"
    reading = (
        "data"
        if name == "kvm_msr" and not fields["write"] and event[6] in (REFERENCE, RUNTIME)
        else "time_now"
    )
    if altered == {reading} and abs(changed[reading] - fields[reading]) <= 1 << 16:
        return "a clock read at another moment"
    if kind == "reorder" and other is not None:
        if name.startswith("kvm_hv_stimer_start") and other[2].startswith("kvm_inj_"):
            return "an entry is cancelled for a new request, which is served then"
        if "kvm_hv_stimer_callback" in (name, other[2]):
            return "an interrupt comes when it likes"
        if event[3] != other[3]:
            return "two vCPUs' events have no order"
    return ""


def judge(store: Store, tape: list[Event], made: list[Mutant]) -> Iterator[Result]:
    """Replay each mutant behind the whole past of the clean tape. `made` is in the tape's order."""
    engine, at = prepare(store, Options())[0], 0
    shared = {id(thing): thing for thing in (*RULES, engine.bench.profile, engine.judge.rules)}
    for mutant in made:
        engine.run(tape[at : mutant.at])
        at = max(at, mutant.at)
        fork = copy.deepcopy(engine, dict(shared))
        fork.run([*mutant.instead, *tape[mutant.until : mutant.until + AHEAD]])
        found = _errors(fork.judge)
        near = any(abs(d.ts_ns - mutant.event[1]) <= NEAR_NS for d in found)
        yield Result(mutant, sorted(d.rule for d in found), near)
    assert not _errors(engine.judge)


def _errors(verdicts: Judge) -> list[Divergence]:
    return [found for found in verdicts.divergences.values() if found.severity is Severity.ERROR]


def table(results: list[Result]) -> str:
    """What was found, by kind and tracepoint: found / mutants, and the same without the equivalent ones."""
    lines = [f"{'kind':10} {'tracepoint':32} {'all':>9} {'not equivalent':>15} {'at the event':>13}"]
    groups: defaultdict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        for name in (result.mutant.event[2], ""):
            groups[result.mutant.kind, name].append(result)
    for (kind, name), own in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] or "~")):
        told = [result for result in own if not result.mutant.excuse]
        share = f"{100 * sum(r.found for r in told) / len(told):.0f} %" if told and not name else ""
        lines.append(
            f"{kind:10} {name or 'ALL':32} {_ratio(own):>9} {_ratio(told):>15}"
            f" {sum(r.near for r in told):>13} {share}"
        )
    return "\n".join(lines)


def _ratio(results: list[Result]) -> str:
    return f"{sum(result.found for result in results)}/{len(results)}"


def main() -> None:
    """Measure."""
    words = sys.argv[1:]
    number = int(words.pop(0)) if words and words[0].isdigit() else 500
    with tempfile.TemporaryDirectory() as folder:
        stores = [Path(word) for word in words]
        if not stores:
            for recording in UNMODIFIED:
                ingest([recording / "trace.dat"], Path(folder) / f"{recording.name}.hvt")
                stores.append(Path(folder) / f"{recording.name}.hvt")
        results: list[Result] = []
        for place, path in enumerate(stores):
            store = Store(path)
            share = number * (place + 1) // len(stores) - number * place // len(stores)
            tape = [event for window in tape_of(store) for event in window]
            for result in judge(store, tape, mutants(tape, share, path.stem)):
                result.recording = path.stem
                results.append(result)
            print(f"{path.stem}", file=sys.stderr)
    print(table(results))
    for result in results:
        if not result.found and not result.mutant.excuse:
            print(f"missed: {result.recording} seq {result.mutant.event[0]}: {result.mutant.text}")


if __name__ == "__main__":
    main()
