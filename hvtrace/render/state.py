"""The modelled state at a time, as text for people and as a JSON object for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hvtrace.abi.msr import by_name
from hvtrace.render.terminal import plural, safe, styled, wrapped
from hvtrace.replay.state import in_words, word

if TYPE_CHECKING:
    from hvtrace.pipeline.state import StateAt

__all__ = ["SCHEMA_VERSION", "state_json", "state_text"]

SCHEMA_VERSION = 1

#: Why something is not known, in words.
REASONS = {
    "state-unseen": "not seen since the recording began",
    "events-lost": "events were lost, and it was not seen since",
    "vm-ambiguous": "an event may have been this VM's or another's",
}


def state_json(state: StateAt) -> str:
    """The state as one JSON object; null: not known."""
    answer = {
        "schema_version": SCHEMA_VERSION,
        "source": state.source,
        "profile": state.profile,
        "at_ns" if state.unit == "ns" else "at_ticks": state.at,
        "after": None if state.seq is None else {"seq": state.seq, "ts_ns": state.ts, "event": state.event},
        "losing": state.losing,
        "vms": state.vms,
    }
    return json.dumps(answer, indent=1, ensure_ascii=False)


def state_text(state: StateAt) -> str:
    """The state in words."""
    return "\n".join(_lines(state))


def _lines(state: StateAt) -> Iterator[str]:
    at = _stamp(state.at) if state.unit == "ns" else f"{state.at} ticks"
    yield from wrapped(f"{state.source}: profile {state.profile}, state at {at}")
    if state.event is None:
        yield "before the first event of the tape: nothing is known"
    else:
        yield from wrapped(f"after event {state.event}", "", "  ")
    if state.losing:
        yield styled("Events are being lost at this time: what follows is what little is known.", "yellow")
    for note in state.notes:
        yield from wrapped(note)
    for vm in state.vms:
        yield ""
        yield from _vm(vm)
    if state.event is not None and not state.vms:
        yield "No vCPU was seen until then."


def _stamp(ns: int) -> str:
    return f"{ns // 1_000_000_000}.{ns % 1_000_000_000:09d}"


def _vm(vm: dict[str, Any]) -> Iterator[str]:
    yield styled(f"VM {vm['vm']}", "bold")
    exposure = vm["exposure"]
    yield f"  Hyper-V offered {word(exposure['hyperv'])}, CPUID enforced {word(exposure['enforced'])}"
    leaves: dict[str, list[str]] = {}
    unknown: dict[str, int] = {}
    for bit, value in exposure["bits"].items():
        gate, name = bit.split(" ", 1)
        place = gate.partition("[")[0]
        if value:
            leaves.setdefault(place, []).append(name)
        elif value is None:
            unknown[place] = unknown.get(place, 0) + 1
    for place, names in leaves.items():
        yield from wrapped(" ".join(names), f"  {place}  ")
    if unknown:
        yield from wrapped(" ".join(unknown), "  CPUID unknown   ")
    yield from _registers(vm["registers"], "  ")
    yield from _more(vm["more"], "  ")
    yield from _unknown(vm, "  ")
    for vcpu in vm["vcpus"]:
        yield ""
        yield from _vcpu(vcpu)


def _vcpu(vcpu: dict[str, Any]) -> Iterator[str]:
    thread = "not known" if vcpu["thread"] is None else vcpu["thread"]
    yield styled(f"  vCPU {vcpu['vcpu']}", "bold") + f", thread {thread}, {_where(vcpu['exit'])}"
    if vcpu["hypercall"] is not None:
        yield f"    hypercall under way  {safe(vcpu['hypercall'])}"
    yield from _registers(vcpu["registers"], "    ")
    for name, text in _runs((f"stimer{timer['timer']}", _timer(timer)) for timer in vcpu["timers"]):
        yield from wrapped(text, f"    {name:<10} ")
    for owed in vcpu["owed"]:
        entries = plural(owed["entries_left"], "entry").replace("entrys", "entries")
        text = f"{owed['what']}, before {entries}; since event {owed['since_seq']} ({owed['since']})"
        yield from wrapped(text, "    owed       ")
    if not vcpu["owed"]:
        yield "    owed       nothing"
    yield from _more(vcpu["more"], "    ")
    yield from _unknown(vcpu, "    ")


def _where(left: dict[str, Any] | None) -> str:
    if left is None:
        return "in the guest, or not seen yet"
    kind = {"msr": " for an MSR access", None: ", reason not known"}.get(left["kind"], "")
    since = f"since event {left['seq']}" if left["whole"] else "for some time"
    return f"out of the guest {since}{kind}"


def _timer(timer: Mapping[str, Any]) -> str:
    if not any(value not in (0, "0x0", False) for name, value in timer.items() if name != "timer"):
        return "as at reset: not set, not armed"
    words = [f"{name} {word(timer[name])}" for name in ("config", "count", "expiry")]
    for name in ("enabled", "armed", "pending", "parked"):
        value = timer[name]
        words.append(f"{name}?" if value is None else name if value else f"not {name}")
    return ", ".join(words)


def _registers(registers: Mapping[str, str | None], indent: str) -> Iterator[str]:
    """Those that say something one by one, those at their reset value and the unknown ones in a list each."""
    kinds = [
        (name, "value not known" if value is None else "at reset value" if _at_reset(name, value) else value)
        for name, value in registers.items()
    ]
    lists: dict[str, list[str]] = {"at reset value": [], "value not known": []}
    for name, value in _runs(kinds):
        if value in lists:
            lists[value].append(name.removeprefix("HV_X64_MSR_"))
        else:
            yield f"{indent}{name:<36} {value}"
    for title, names in lists.items():
        if names:
            yield from wrapped(" ".join(names), f"{indent}{title:<15}  ")


def _at_reset(name: str, value: str) -> bool:
    row = by_name(name)
    return row is not None and row.reset is not None and value == f"0x{row.reset:x}"


def _runs(values: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Names with their values; neighbours with one value whose names differ in a last number as one ("SINT4-15")."""
    found: list[tuple[str, int | None, int | None, str]] = []
    for name, value in values:
        stem = name.rstrip("0123456789")
        number = int(name[len(stem) :]) if stem != name else None
        last = found[-1] if found else None
        if number and last and (last[0], last[2], last[3]) == (stem, number - 1, value):
            found[-1] = (stem, last[1], number, value)
        else:
            found.append((stem, number, number, value))
    return [
        (stem if first is None else f"{stem}{first}" if first == last else f"{stem}{first}-{last}", value)
        for stem, first, last, value in found
    ]


def _more(more: Mapping[str, Mapping[str, Any]], indent: str) -> Iterator[str]:
    for title, values in more.items():
        yield from wrapped(in_words(values) or "-", f"{indent}{title}: ", f"{indent}  ")


def _unknown(thing: Mapping[str, Any], indent: str) -> Iterator[str]:
    """How far the state is unknown, and why."""
    registers = list(thing["registers"].values())
    values = [value for timer in thing.get("timers", ()) for value in timer.values()]
    missing = registers.count(None)
    total = f"{len(registers) - missing} of {plural(len(registers), 'register')} known"
    if values:
        known = sum(None not in timer.values() for timer in thing["timers"])
        total += f", {known} of {len(thing['timers'])} timers"
        missing += values.count(None)
    if missing:
        why = thing["why_unknown"]
        total += f"; the rest: {why} ({REASONS.get(why, 'see the coverage')})"
    yield from wrapped(total, f"{indent}= ")
