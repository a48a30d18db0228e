"""Rule cases: little tapes written as text, and the verdict a rule must give on them.

A line is a tracepoint's name and fields (`kvm_hv_stimer_callback timer_index=0`), with `vcpu=`, `vm=` (`?`: not known)
and `tid=` where they are not 0, 0 and the vCPU's own thread; a field that is left out has its usual value. Three words
stand for whole exits: `rdmsr INDEX VALUE`, `wrmsr INDEX VALUE` (with all that an unmodified KVM shows for it), and both
with `#GP` at the end. `--- lost` stands for a loss, `--- qemu lost` for one of QEMU's, `--- wait N` for N µs in which
nothing happens.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hvtrace.abi.msr import by_index, is_synthetic
from hvtrace.abi.register import Exit, Group
from hvtrace.replay.engine import Engine
from hvtrace.replay.judge import Judge
from hvtrace.replay.model.clock import Stamps
from hvtrace.replay.model.exposure import parse_cpu
from hvtrace.replay.model.halt_poll import Parameters
from hvtrace.replay.model.machine import Bench
from hvtrace.replay.model.vmbus import Recorded
from hvtrace.replay.profile import profile_for, profile_named
from hvtrace.replay.rule import RESETS
from hvtrace.replay.rules import RULES
from hvtrace.replay.tape import FIELDS, OTHER_MSR, QEMU_TAPE, TAPE, Event, home_of, place_of

__all__ = ["CASES", "FOLDER", "Case", "Outcome", "cases", "replay", "tape"]

FOLDER = Path(__file__).parent / "replay" / "rules"

#: Everything a -cpu option can offer, not enforced.
CPU = (
    "host,hv-relaxed,hv-vapic,hv-vpindex,hv-runtime,hv-crash,hv-time,hv-synic,hv-stimer,hv-stimer-direct,"
    "hv-reset,hv-frequencies,hv-reenlightenment,hv-syndbg"
)

USUAL: dict[str, dict[str, Any]] = {
    "kvm_entry": {"rip": 0x1000},
    "kvm_exit": {"exit_reason": 0x7C, "isa": 2},
    "kvm_userspace_exit": {"errno": 0},
    "kvm_msr": {"write": 0, "exception": 0},
    "kvm_cpuid": {"rax": 0, "rbx": 0, "rcx": 0, "rdx": 0, "found": True},
    "kvm_hv_synic_set_irq": {"ret": 1},
    "kvm_halt_poll_ns": {"grow": 1},
    "kvm_vcpu_wakeup": {"waited": 1, "valid": 1},
    "vmbus_initiate_contact": {"major": 4},
    "vmbus_gpadl_header": {"gpadl_id": 7, "num_gfns": 10},
    "vmbus_gpadl_body": {"gpadl_id": 7},
    "vmbus_gpadl_teardown": {"gpadl_id": 7},
    "vmbus_gpadl_created": {"gpadl_id": 7},
    "vmbus_gpadl_torndown": {"gpadl_id": 7},
    "vmbus_open_channel": {"chan_id": 1, "gpadl_id": 7},
    "vmbus_close_channel": {"chan_id": 1},
    "vmbus_send_offer": {"chan_id": 1},
    "vmbus_channel_open": {"chan_id": 1},
    "vmbus_channel_notify_guest": {"chan_id": 1},
}

#: QEMU's main loop, which is the thread of all its events but one; that one's thread is given where it matters.
MAIN_LOOP, NO_THREAD = 90, -1


@dataclass(frozen=True, slots=True)
class Case:
    """One case of a rule's file."""

    rule: str
    name: str
    verdict: str
    tape: str
    reason: str | None = None
    at: int | None = None
    cpu: str | None = CPU
    kernel: str = "6.1.0"
    profile: str | None = None
    warning: bool | None = None
    untraced: tuple[str, ...] = ()
    ignore_msrs: bool | None = False
    tsc_khz: int | None = None
    #: Name of the clock of the stamps; None: its stamps are of no use.
    clock: str | None = None
    #: Parameters of halt polling: cap, factor, start, divisor; none: not known.
    halt_poll: tuple[int, ...] = ()


@dataclass(slots=True)
class Outcome:
    """What replaying a tape gave: the judge, and the line of each event."""

    judge: Judge
    lines: dict[int, int] = field(default_factory=dict)


def cases() -> list[Case]:
    """Every case of every file."""
    found = []
    for path in sorted(FOLDER.glob("*.toml")):
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        common = {key: value for key, value in content.items() if key not in ("case", "setup")}
        for one in content["case"]:
            settings = {**common, **one}
            settings["untraced"] = tuple(settings.get("untraced", ()))
            if settings.get("cpu") == "unknown":
                settings["cpu"] = None
            if settings.get("ignore_msrs") == "?":
                settings["ignore_msrs"] = None
            settings["tape"] = content.get("setup", "") + "--- setup\n" + settings["tape"]
            found.append(Case(rule=path.stem.upper(), **settings))
    return found


def replay(case: Case) -> Outcome:
    """Replay a case's tape."""
    events, losses, qemu_losses, lines = tape(case.tape)
    traced = frozenset({*TAPE, RESETS} - set(case.untraced))
    profile = profile_for(case.kernel) if case.profile is None else profile_named(case.profile, case.kernel)
    judge = Judge(
        (rule for rule in RULES if profile.specification or not rule.specification), traced, profile
    )
    offer = None if case.cpu is None else parse_cpu(case.cpu)
    bench = Bench(judge, profile, traced, offer, case.ignore_msrs)
    bench.tsc_khz = case.tsc_khz
    bench.stamps = Stamps.of(case.clock, "ns")
    bench.halt_poll = Parameters(*case.halt_poll)
    if any(event[2] in QEMU_TAPE for event in events):
        bench.vmbus = Recorded(0, list(qemu_losses))
    engine = Engine(bench, losses)
    engine.run(event for event in events if event[2] in traced or event[2] == OTHER_MSR)
    engine.finish()
    return Outcome(judge, lines)


def tape(text: str) -> tuple[list[Event], list[tuple[int, int]], list[tuple[int, int]], dict[int, int]]:
    """Events, losses, QEMU's losses and the line of each event. The seq is the rank, the stamp a µs per event."""
    events: list[Event] = []
    losses: list[tuple[int, int]] = []
    qemu_losses: list[tuple[int, int]] = []
    lines: dict[int, int] = {}
    number = waited = 0
    for line in text.strip().splitlines():
        number += 1
        words = line.split()
        if not words:
            continue
        if words[0] == "---":
            if words[1:] == ["qemu", "lost"]:
                qemu_losses.append((1000 * len(events) + waited - 500, 1000 * len(events) + waited - 499))
            elif words[1] == "lost":
                losses.append((1000 * len(events) + waited, 1000 * len(events) + waited + 1))
            elif words[1] == "wait":
                waited += 1000 * int(words[2])
            else:
                number = 0
            continue
        for name, given in _expand(words):
            lines[len(events)] = number
            seq, at, *rest = _event(len(events), name, given)
            events.append((seq, at + waited, *rest))
    return events, losses, qemu_losses, lines


def _event(seq: int, name: str, given: dict[str, str]) -> Event:
    vcpu = int(given.pop("vcpu", "0"))
    vm = given.pop("vm", "0")
    own = 100 + vcpu if name not in QEMU_TAPE else NO_THREAD if name == "vmbus_recv_message" else MAIN_LOOP
    tid = int(given.pop("tid", str(own)))
    values = {**dict.fromkeys(TAPE[name], 0), **USUAL.get(name, {})}
    if "vp_index" in values:
        values["vp_index"] = vcpu
    values |= {key: None if value == "?" else int(value, 0) for key, value in given.items()}
    assert set(values) == set(TAPE[name]), f"{name} has no {set(values) - set(TAPE[name])}"
    number = None if vm == "?" else int(vm)
    place = home_of(number) if name in QEMU_TAPE else place_of(number, vcpu)
    event = (seq, 1000 * seq, name, place, tid, *(values[key] for key in TAPE[name]))
    assert len(event) == FIELDS + len(TAPE[name])
    if name == "kvm_msr" and not is_synthetic(values["ecx"]):
        return (*event[:2], OTHER_MSR, *event[3:])
    return event


def _expand(words: list[str]) -> list[tuple[str, dict[str, str]]]:
    """An event, or the events of a whole exit."""
    if words[0] not in ("rdmsr", "wrmsr"):
        return [(words[0], dict(word.split("=", 1) for word in words[1:]))]
    write, refused = words[0] == "wrmsr", words[-1] == "#GP"
    place = dict(word.split("=", 1) for word in words if "=" in word)
    index, value = int(words[1], 0), int(words[2], 0)
    row = by_index(index)
    shown: list[tuple[str, dict[str, str]]] = [("kvm_exit", {})]
    if write and row is not None and not refused:
        if row.group is Group.SYNIC:
            shown.append(("kvm_hv_synic_set_msr", {"msr": hex(index), "data": hex(value)}))
            if row.name.endswith("EOM"):
                shown += [("kvm_hv_notify_acked_sint", {"sint": str(sint)}) for sint in range(16)]
        if row.group is Group.STIMER:
            timer = str((index - 0x4000_00B0) >> 1)
            kind, key = ("count", "count") if index & 1 else ("config", "config")
            shown.append((f"kvm_hv_stimer_set_{kind}", {"timer_index": timer, key: hex(value)}))
            shown.append(("kvm_hv_stimer_cleanup", {"timer_index": timer}))
        if row.group is Group.SYNDBG:
            shown.append(("kvm_hv_syndbg_set_msr", {"msr": hex(index), "data": hex(value)}))
    if not write and row is not None and row.group is Group.SYNDBG and not refused:
        shown.append(("kvm_hv_syndbg_get_msr", {"msr": hex(index), "data": hex(value)}))
    access = {"write": str(int(write)), "ecx": hex(index), "data": hex(value), "exception": str(int(refused))}
    shown.append(("kvm_msr", access))
    if write and not refused and row is not None and row.exits is Exit.HYPERV:
        shown.append(("kvm_userspace_exit", {"reason": "27"}))
    if not any(word == "..." for word in words):
        shown.append(("kvm_entry", {}))
    return [(name, {**given, **place}) for name, given in shown]


CASES: list[Case] = cases()
