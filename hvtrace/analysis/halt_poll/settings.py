"""Settings as people write them: `halt_poll_ns=50000,grow=2`, `off`, `guest=on`; grids of them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from hvtrace.analysis.halt_poll.rules import U32, GuestSetting, HostSetting, Setting

__all__ = ["GRID", "Named", "given_host", "named", "sweep"]

#: Name, setting, and its parameters as words.
Named = tuple[str, Setting, dict[str, Any]]

#: Word → field, beside the module's own names for them.
HOST_WORDS = {
    "halt_poll_ns": "cap",
    "grow": "grow",
    "grow_start": "start",
    "shrink": "shrink",
    "vm_cap": "vm_cap",
}
GUEST_WORDS = {
    "guest_halt_poll_ns": "cap",
    "guest_halt_poll_grow": "grow",
    "guest_halt_poll_grow_start": "start",
    "guest_halt_poll_shrink": "shrink",
    "guest_halt_poll_allow_shrink": "allow_shrink",
}
#: What kernels call them.
LONG = {f"halt_poll_ns_{word}": word for word in ("grow", "grow_start", "shrink")}

#: Caps of a sweep unless others are given: from none to twice the default and beyond.
GRID = (0, 10_000, 25_000, 50_000, 100_000, 200_000, 400_000, 1_000_000)

_YES = {"on": True, "y": True, "1": True, "off": False, "n": False, "0": False}
_RANGE = re.compile(r"([0-9]{1,10}):([0-9]{1,10}):([0-9]{1,10})")
#: Settings of one sweep.
MOST = 256


def _words(text: str) -> dict[str, str]:
    """Split `a=1,b=2`. Raises ValueError."""
    words = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key:
            raise ValueError(f"{part.strip()!r}: write NAME=VALUE")
        key = LONG.get(key, key)
        if key in words:
            raise ValueError(f"{key} is given twice")
        words[key] = value
    return words


def _number(key: str, value: str) -> int:
    digits = value.replace("_", "")
    if not digits.isdecimal() or not digits.isascii() or len(digits) > 10 or int(digits) > U32:
        raise ValueError(f"{key}={value}: a number from 0 to {U32}")
    return int(digits)


def given_host(text: str) -> dict[str, int]:
    """Fields of HostSetting from `halt_poll_ns=200000,grow=2,…`. Raises ValueError."""
    words = _words(text)
    for key in words:
        if key not in HOST_WORDS:
            raise ValueError(f"no parameter {key!r}: {', '.join(HOST_WORDS)}")
    return {HOST_WORDS[key]: _number(key, value) for key, value in words.items()}


def named(text: str, own: HostSetting) -> Named:
    """One setting; what is not given is as in `own`. Raises ValueError."""
    text = text.strip()
    if text == "off":
        return _host("off", replace(own, cap=0, vm_cap=None))
    words = _words(text)
    if "guest" not in words:
        changed: dict[str, Any] = given_host(text)
        if "cap" in changed:
            # Another cap is in force, whatever the VM had for itself.
            changed = {"vm_cap": None, **changed}
        return _host(text, replace(own, **changed))
    if not _YES.get(words.pop("guest").lower(), False):
        raise ValueError("guest=on is a setting; without it the host polls")
    fields: dict[str, Any] = {}
    for key, value in words.items():
        if key not in GUEST_WORDS:
            raise ValueError(f"no parameter {key!r} with guest=on: {', '.join(GUEST_WORDS)}")
        if GUEST_WORDS[key] == "allow_shrink":
            if value.lower() not in _YES:
                raise ValueError(f"{key}={value}: Y or N")
            fields["allow_shrink"] = _YES[value.lower()]
        else:
            fields[GUEST_WORDS[key]] = _number(key, value)
    guest = GuestSetting(**fields)
    shown = {word: getattr(guest, field) for word, field in GUEST_WORDS.items()}
    return text, guest, {"guest": True, **shown}


def _host(name: str, setting: HostSetting) -> Named:
    return name, setting, {word: getattr(setting, field) for word, field in HOST_WORDS.items()}


def own_named(own: HostSetting) -> Named:
    """The recording's own parameters."""
    return _host("own", own)


def sweep(text: str, own: HostSetting) -> list[Named]:
    """A grid of caps: `auto`, or `halt_poll_ns=FIRST:LAST:STEP`. Raises ValueError."""
    if text == "auto":
        caps: tuple[int, ...] = GRID
    else:
        key, _, value = text.partition("=")
        found = _RANGE.fullmatch(value.strip())
        if key.strip() not in ("halt_poll_ns", "vm_cap") or found is None:
            raise ValueError(f"{text!r}: write halt_poll_ns=FIRST:LAST:STEP")
        first, last, step = map(int, found.groups())
        if step == 0 or last < first or last > U32:
            raise ValueError(f"{text!r}: FIRST:LAST:STEP with a step above 0 and FIRST ≤ LAST ≤ {U32}")
        if (last - first) // step >= MOST:
            raise ValueError(f"{text!r}: more than {MOST} settings")
        caps = tuple(range(first, last + 1, step))
    word = "halt_poll_ns" if text == "auto" else text.partition("=")[0].strip()
    return [named("off" if cap == 0 else f"{word}={cap}", own) for cap in caps]
