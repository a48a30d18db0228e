"""The whole modelled state at a moment, for people and for scripts: what is known, what is not, and why.

Registers, timers, exposure and what is owed are told by name. Everything else that a VM or a vCPU holds tells about
itself: an object of the model by its `describe` where it has one, otherwise by its plain fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import Field, fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from hvtrace.abi.cpuid import BITS
from hvtrace.abi.msr import MSRS, is_synthetic, msr_name
from hvtrace.abi.register import Group, Scope
from hvtrace.replay.model.hypercall import current
from hvtrace.replay.model.machine import Vcpu, Vm
from hvtrace.replay.model.registers import holds
from hvtrace.replay.obligation import Obligation

if TYPE_CHECKING:
    from hvtrace.replay.engine import Engine
    from hvtrace.replay.model.stimer import Stimer

__all__ = ["in_words", "state_for", "state_of", "word"]

#: What a divergence shows beside registers and timers, by the beginning of the rule's code: fields of Vcpu and of Vm.
SHOWN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "HP": (("halting",), ()),
    "HV6": (("run_time",), ("time", "master")),
    "HV8": (("apic",), ("apics",)),
    "HV9": ((), ("debugger",)),
    "KP": (("paravirt",), ("paravirt",)),
    "VB": ((), ("vmbus",)),
}

#: Numbers from here on, and those of MSRs, are read more easily in hexadecimal.
SMALL, LARGE = 1 << 16, 1 << 48

#: Fields of Vm and Vcpu that are told by name, or that are notes of the event at hand.
_TOLD = frozenset(
    {
        "accepted",
        "bench",
        "call",
        "closing",
        "dues",
        "effects",
        "exit_seq",
        "exposure",
        "former",
        "grace",
        "history",
        "kind",
        "number",
        "origin",
        "out",
        "raised",
        "reading",
        "registers",
        "tid",
        "timers",
        "undecided",
        "vcpus",
        "vm",
        "whole",
        "why",
        "writes",
    }
)

_MODEL = "hvtrace.replay.model."

#: Declared types of which None means that the value is not known (of an object, it means that there is none).
_PLAIN = re.compile(r"\b(bool|int|str)\b")


def state_of(engine: Engine) -> list[dict[str, Any]]:
    """One object a VM, with its vCPUs, in the order of their numbers. A value that is not known is null."""
    return [_vm(vm) for _, vm in sorted(engine.vms.items())]


def state_for(code: str, vcpu: Vcpu) -> dict[str, str]:
    """The state a divergence of a rule shows, in words."""
    state = vcpu.describe()
    for prefix, (own, common) in SHOWN.items():
        if code.startswith(prefix):
            state |= {name.replace("_", " "): in_words(_described(getattr(vcpu, name))) for name in own}
            there = {name: getattr(vcpu.vm, name) for name in common}
            state |= {f"VM's {n}": in_words(_described(v)) for n, v in there.items() if v is not None}
    return state


def in_words(values: Mapping[str, Any]) -> str:
    """Names with their values; "?" for what is not known."""
    return ", ".join(f"{name} {word(value)}" for name, value in values.items())


def word(value: object) -> str:
    """A value for people."""
    if value is None:
        return "?"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and (value >= LARGE or (value >= SMALL and is_synthetic(value))):
        return f"0x{value:x}"
    return str(value)


def _vm(vm: Vm) -> dict[str, Any]:
    exposure = vm.exposure
    return {
        "vm": vm.number,
        "why_unknown": vm.why.value,
        "exposure": {
            "hyperv": exposure.hyperv,
            "enforced": exposure.conclude(),
            "cpuid": {
                f"0x{leaf:08x}.{register}": f"0x{v:x}"
                for (leaf, register), v in sorted(exposure.leaves.items())
            },
            "bits": {f"{bit.gate} {bit.name}": exposure.has(bit.gate) for bit in BITS},
        },
        "registers": _registers(vm.registers, Scope.VM),
        "more": _more(vm),
        "vcpus": [_vcpu(vcpu) for _, vcpu in sorted(vm.vcpus.items())],
    }


def _vcpu(vcpu: Vcpu) -> dict[str, Any]:
    return {
        "vcpu": vcpu.number,
        "why_unknown": vcpu.why.value,
        "thread": vcpu.tid,
        "exit": _exit(vcpu),
        "hypercall": _call(vcpu),
        "registers": _registers(vcpu.registers, Scope.VCPU),
        "timers": [_timer(timer) for timer in vcpu.timers],
        "owed": [_owed(due) for due in vcpu.dues if due.met is None],
        "more": _more(vcpu),
    }


def _call(vcpu: Vcpu) -> str | None:
    """The hypercall under way."""
    call = current(vcpu)
    return None if call is None else call.describe()


def _exit(vcpu: Vcpu) -> dict[str, Any] | None:
    """The exit at hand: None while the vCPU is in the guest or nothing is known of it."""
    if not vcpu.out:
        return None
    return {"seq": vcpu.exit_seq, "kind": vcpu.kind, "whole": vcpu.whole}


def _registers(known: Mapping[int, int], scope: Scope) -> dict[str, str | None]:
    """Every register that keeps a value, in the order of the indices."""
    expected = {
        row.home for row in MSRS if row.scope is scope and row.group is not Group.STIMER and holds(row)
    }
    return {
        msr_name(index) or f"0x{index:x}": f"0x{known[index]:x}" if index in known else None
        for index in sorted({*expected, *known})
    }


def _timer(timer: Stimer) -> dict[str, Any]:
    """As a read would show CONFIG; without its enable bit where that is not known."""
    config = timer.config if timer.value is None else timer.value
    return {
        "timer": timer.number,
        "config": None if config is None else f"0x{config:x}",
        "count": timer.count,
        "expiry": timer.expiry,
        "enabled": timer.enable,
        "armed": timer.armed,
        "pending": timer.pending,
        "parked": timer.parked,
    }


def _owed(due: Obligation) -> dict[str, Any]:
    return {"what": due.detail, "since_seq": due.event[0], "since": due.event[2], "entries_left": due.entries}


def _more(thing: Vm | Vcpu) -> dict[str, dict[str, Any]]:
    """What else is kept, by the name of its field."""
    found: dict[str, dict[str, Any]] = {}
    plain: dict[str, Any] = {}
    for field in fields(thing):
        name, value = field.name, getattr(thing, field.name)
        if name in _TOLD or name.startswith("_"):
            continue
        title = name.replace("_", " ")
        if _is_model(value):
            found[title] = _described(value)
        elif isinstance(value, dict | list | tuple) and value and all(map(_is_model, _values(value))):
            keys = value if isinstance(value, dict) else range(len(value))
            found |= {f"{title} {k}": _described(v) for k, v in zip(keys, _values(value), strict=True)}
        elif _is_plain(value) and _tells(thing, field):
            plain[title] = _plain(value)
    return {"flags": plain, **found} if plain else found


def _values(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _is_model(value: object) -> bool:
    kind = type(value)
    return kind.__module__.startswith(_MODEL) and not isinstance(value, Enum | Vm | Vcpu | Obligation)


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | str | Enum)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _described(thing: Any) -> dict[str, Any]:
    """An object of the model by its own words, or by its plain fields."""
    if callable(describe := getattr(thing, "describe", None)):
        words = describe()
        return dict(words) if isinstance(words, Mapping) else {"state": words}
    if is_dataclass(thing):
        values = {f.name: getattr(thing, f.name, None) for f in fields(thing) if _tells(thing, f)}
    else:
        values = {name: getattr(thing, name, None) for name in sorted(getattr(thing, "__slots__", ()))}
    plain = {name: value for name, value in values.items() if _is_plain(value) and not name.startswith("_")}
    return {name.replace("_", " "): _plain(value) for name, value in plain.items()}


def _tells(thing: Any, field: Field[Any]) -> bool:
    """Whether a field says something: None of an object means that there is none."""
    return getattr(thing, field.name, None) is not None or bool(_PLAIN.search(str(field.type)))
