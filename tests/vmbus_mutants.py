"""VMBus mutants: one of QEMU's events removed, given twice, swapped with the next one, or one of its fields altered.

    python tests/vmbus_mutants.py [MUTANTS] STORE ...

prints what the rules VB1xx find of MUTANTS (200) changes spread over stores that have QEMU's events. The tapes are cut
down to what VMBus has to do with, so that a change costs milliseconds.

Some changes leave a tape that an unmodified QEMU may well have made; they are counted apart, and `equivalent` gives the
reason. It looks at the changed events alone, never at what the model said.
"""

from __future__ import annotations

import random
import sys
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from hvtrace.pipeline.check import Options, prepare, tape_of
from hvtrace.replay.engine import Engine
from hvtrace.replay.tape import FIELDS, QEMU_TAPE, Event
from hvtrace.replay.verdict import Severity
from hvtrace.store import Store

__all__ = ["KINDS", "Change", "Found", "changes", "equivalent", "judged", "table", "trimmed"]

KINDS = ("remove", "double", "swap", "alter")

RECEIVED, NOTIFIED, CONTACT = "vmbus_recv_message", "vmbus_channel_notify_guest", "vmbus_initiate_contact"

#: Hypercalls of messages and signals; the exit to userspace that posting a message is.
CALLS, HYPERV = (0x5C, 0x5D), 27

#: Bytes that a message must have; those behind them say nothing.
LEAST = {3: 8, 5: 148, 7: 12, 8: 28, 9: 16, 11: 16, 14: 40, 16: 8}

NEWEST = 4 << 16


@dataclass(frozen=True, slots=True)
class Change:
    """One change: its kind, the event, the tape with it, and why it may be no fault (empty: it is one)."""

    kind: str
    event: Event
    tape: list[Event]
    field: str
    excuse: str

    @property
    def text(self) -> str:
        """The change in words."""
        shown = " ".join(
            f"{n}={v}" for n, v in zip(QEMU_TAPE[self.event[2]], self.event[FIELDS:], strict=True)
        )
        return f"{self.kind} {self.event[2]} {shown} {self.field}".rstrip()


@dataclass(slots=True)
class Found:
    """The rules that diverged, and whether one did with an error."""

    change: Change
    rules: list[str]
    error: bool


def trimmed(tape: Iterable[Event]) -> list[Event]:
    """What VMBus has to do with: QEMU's events, messages and signals, the SynIC's registers and interrupts, and the
    exits and entries around them.
    """
    kept: list[Event] = []
    before: dict[int, Event] = {}
    inside: set[int] = set()
    entered: set[int] = set()
    for event in tape:
        name, place = event[2], event[3]
        if name == "kvm_exit":
            before[place] = event
        elif name == "kvm_entry":
            if place in inside or place not in entered or event[5] == 0xFFF0:
                kept.append(event)
            inside.discard(place)
            entered.add(place)
        elif name in QEMU_TAPE or _concerns(event, place in inside):
            if place >= 0 and place not in inside and place in before:
                kept.append(before.pop(place))
            if place >= 0:
                inside.add(place)
            kept.append(event)
    kept.sort(key=lambda event: event[0])
    return kept


def _concerns(event: Event, inside: bool) -> bool:
    name = event[2]
    if name == "kvm_hv_hypercall":
        return event[5] in CALLS
    if name in ("kvm_hv_hypercall_done", "kvm_userspace_exit"):
        return inside
    if name == "kvm_msr":
        return bool(0x4000_0080 <= event[6] <= 0x4000_009F)
    return name == "kvm_hv_synic_set_msr" or (name == "kvm_hv_synic_set_irq" and event[5] == 2)


def changes(tape: list[Event], number: int, seed: str) -> list[Change]:
    """`number` changes, kinds in turn, the event's name chosen first and then one of its events."""
    chance = random.Random(zlib.crc32(seed.encode()))
    by_name: defaultdict[str, list[int]] = defaultdict(list)
    for rank, event in enumerate(tape):
        if event[2] in QEMU_TAPE:
            by_name[event[2]].append(rank)
    names = sorted(by_name)
    fielded = [name for name in names if QEMU_TAPE[name]]
    made: list[Change] = []
    for count in range(number):
        kind = KINDS[count % len(KINDS)]
        at = chance.choice(by_name[chance.choice(fielded if kind == "alter" else names)])
        made.append(_change(chance, kind, tape, at))
    return made


def _change(chance: random.Random, kind: str, tape: list[Event], at: int) -> Change:
    event = tape[at]
    later = [rank for rank in range(at + 1, len(tape)) if tape[rank][2] in QEMU_TAPE]
    if kind == "swap" and not later:
        kind = "remove"
    last = not later
    if kind == "remove":
        return Change(kind, event, tape[:at] + tape[at + 1 :], "", equivalent(kind, event, None, last=last))
    if kind == "double":
        return Change(kind, event, tape[: at + 1] + tape[at:], "", equivalent(kind, event, None, last=last))
    if kind == "swap":
        where = later[0]
        other = tape[where]
        swapped = list(tape)
        swapped[at], swapped[where] = (*event[:2], *other[2:]), (*other[:2], *event[2:])
        return Change(kind, event, swapped, f"<-> {other[2]}", equivalent(kind, event, other, last=last))
    names = QEMU_TAPE[event[2]]
    field = chance.choice(names)
    place = FIELDS + names.index(field)
    value = _other(chance, field, event[place])
    altered = (*event[:place], value, *event[place + 1 :])
    changed = [*tape[:at], altered, *tape[at + 1 :]]
    return Change(kind, event, changed, f"{field} -> {value}", equivalent(kind, event, altered, last=last))


def _other(chance: random.Random, field: str, value: int) -> int:
    """Another plausible value."""
    if field in ("type", "message_type"):
        return chance.choice([number for number in range(1, 18) if number != value])
    if field == "size":
        return value + chance.choice((-8, -4, 4, 8))
    if field == "status":
        return chance.choice([status for status in (0, 1, -11, -6) if status != value])
    return max(0, value + chance.choice((-1, 1, 2))) if value else 1


def equivalent(kind: str, event: Event, other: Event | None, *, last: bool = False) -> str:
    """Why an unmodified QEMU may have made the changed tape; empty: it may not.

    The guest says what it likes: another value in a message of its own is another guest. A device signals when it
    likes. Events of two threads have no order. What would follow the last event is not in the recording.
    """
    name = event[2]
    if name == NOTIFIED and (kind != "alter" or other is None):
        return "a device's own choice"
    if last and kind in ("remove", "alter"):
        return "the recording ends with it"
    if kind == "swap" and other is not None:
        if name == other[2] == RECEIVED and event[FIELDS:] == other[FIELDS:]:
            return "the same event"
        if (event[4], name) != (other[4], other[2]) and RECEIVED in (name, other[2]):
            return "two threads' events have no order"
        return "a device's own choice" if NOTIFIED in (name, other[2]) else ""
    return _own(event, other) if kind == "alter" and other is not None else ""


def _own(event: Event, other: Event) -> str:
    """What the guest says of its own accord, and QEMU repeats nowhere."""
    name = event[2]
    if name == RECEIVED and event[5] == other[5] and other[6] >= max(LEAST.get(event[5], 8), event[6]):
        return "the guest's own choice"
    if name == CONTACT:
        before, after = (one[5] << 16 | one[6] for one in (event, other))
        if (before <= NEWEST) == (0 < after <= NEWEST):
            return "the guest's own choice"
    if name == "vmbus_close_channel" or (name == "vmbus_gpadl_header" and 0 < other[6] < event[6]):
        return "the guest's own choice"
    return ""


def judged(made: Iterable[Change], engine: Callable[[], Engine]) -> list[Found]:
    """What is found of each change, by an engine that has seen nothing."""
    found = []
    for change in made:
        run = engine()
        run.run(change.tape)
        run.finish()
        divergences = run.judge.divergences.values()
        rules = sorted({code for one in divergences for code in (one.rule, *one.also)})
        found.append(Found(change, rules, any(one.severity is Severity.ERROR for one in divergences)))
    return found


def engine_for(store: Store) -> Engine:
    """An engine that asks the rules of VMBus alone."""
    return prepare(store, Options(chosen=("VB",)))[0]


def table(found: list[Found]) -> str:
    """By kind: found of all; of those that no unmodified QEMU can have made, with an error, and at all."""
    lines = [f"{'kind':8} {'all':>9} {'not equivalent':>15} {'with warnings':>14}"]
    for kind in (*KINDS, "all"):
        own = [one for one in found if kind in (one.change.kind, "all")]
        told = [one for one in own if not one.change.excuse]
        errors = sum(one.error for one in told)
        lines.append(
            f"{kind:8} {sum(one.error for one in own):>4}/{len(own):<4} {errors:>8}/{len(told):<4}"
            f" {sum(bool(one.rules) for one in told):>9}/{len(told):<4}"
            f" {100 * errors / max(len(told), 1):.0f} %"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure."""
    words = sys.argv[1:]
    number = int(words.pop(0)) if words and words[0].isdigit() else 200
    results: list[Found] = []
    for place, path in enumerate(map(Path, words)):
        store = Store(path)
        share = number * (place + 1) // len(words) - number * place // len(words)
        tape = trimmed(event for window in tape_of(store) for event in window)
        results += judged(changes(tape, share, path.stem), lambda store=store: engine_for(store))
    print(table(results))
    for one in results:
        if not one.error and not one.change.excuse:
            print(f"missed: seq {one.change.event[0]}: {one.change.text} {' '.join(one.rules)}")
        if one.error and one.change.excuse:
            print(f"found all the same: {one.change.text} ({one.change.excuse}) {' '.join(one.rules)}")


if __name__ == "__main__":
    main()
