"""The parameters in force: given, noted beside the recording, inferred from its events, or the kernel's defaults."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hvtrace.analysis.halt_poll.halts import Recorded
from hvtrace.analysis.halt_poll.reproduce import Reproduced, reproduces
from hvtrace.analysis.halt_poll.rules import U32, HostSetting
from hvtrace.replay.profile import Profile, profile_for
from hvtrace.store import Manifest

__all__ = ["DEFAULT", "GIVEN", "Own", "find_own"]

#: Where a parameter is known from.
GIVEN, NOTED, INFERRED, DEFAULT = "given", "metadata", "inferred", "default"

#: Field of HostSetting → module parameter of kvm.
PARAMETERS = {
    "cap": "halt_poll_ns",
    "grow": "halt_poll_ns_grow",
    "start": "halt_poll_ns_grow_start",
    "shrink": "halt_poll_ns_shrink",
}

#: Defaults on x86; that of halt_poll_ns_shrink is 2 in later kernels: not in 6.6, but in 6.12.
DEFAULTS = {"cap": 200_000, "grow": 2, "start": 10_000, "shrink": 0}
SHRINKS_BY_TWO = (6, 12)

_NUMBER = re.compile(r"[0-9]{1,10}")


@dataclass(slots=True)
class Own:
    """The recording's own parameters, and how well they explain it (None: changes were not recorded).

    `sources`: where each is known from.
    """

    setting: HostSetting
    sources: dict[str, str]
    reproduced: Reproduced | None

    @property
    def assumed(self) -> list[str]:
        """Parameters that neither somebody noted nor the events show."""
        return [PARAMETERS[name] for name, source in self.sources.items() if source == DEFAULT]

    def as_dict(self) -> dict[str, Any]:
        """Return the module parameters and their sources."""
        return {
            "setting": {PARAMETERS[name]: getattr(self.setting, name) for name in PARAMETERS}
            | {"vm_cap": self.setting.vm_cap, "clamps": self.setting.clamps, "floors": self.setting.floors},
            "sources": {PARAMETERS[name]: source for name, source in self.sources.items()},
        }


def find_own(halts: Recorded, manifest: Manifest, given: dict[str, int]) -> Own:
    """Find the parameters; `given` has fields of HostSetting that a person knows better.

    What differs between kernels, and where the recording's own is not known, is chosen so that most is reproduced.
    """
    sources = dict.fromkeys(PARAMETERS, DEFAULT)
    known: dict[str, Any] = dict(DEFAULTS)
    for source, values in ((INFERRED, _inferred(halts)), (NOTED, _noted(manifest)), (GIVEN, given)):
        known |= values
        sources |= {name: source for name in values if name in PARAMETERS}
    profile = profile_for(manifest.kernel)
    choices = [HostSetting(**known)]
    for fact, name in (("halt_poll_clamps", "clamps"), ("halt_poll_floors", "floors")):
        answer = profile.fact(fact)
        either = (True, False) if answer is None else (answer,)
        choices = [replace(choice, **{name: value}) for choice in choices for value in either]
    if not halts.traced:
        shrink = known["shrink"] if sources["shrink"] != DEFAULT else _shrinks(profile)[0]
        return Own(replace(choices[0], shrink=shrink), sources, None)
    if sources["shrink"] == DEFAULT:
        choices = [replace(choice, shrink=shrink) for choice in choices for shrink in _shrinks(profile)]
    if sources["cap"] == DEFAULT:
        choices = [replace(choice, cap=cap) for choice in choices for cap in _caps(halts, choice)]
    tried = [(choice, reproduces(halts, choice)) for choice in choices]
    setting, reproduced = min(tried, key=lambda one: _score(one[1]))
    best = _score(reproduced)[0]
    if sources["shrink"] == DEFAULT:
        others = [found for choice, found in tried if choice.shrink != setting.shrink]
        if all(_score(found)[0] > best for found in others):
            sources["shrink"] = INFERRED
    if sources["cap"] == DEFAULT and setting.cap != known["cap"]:
        sources["cap"] = INFERRED
    return Own(setting, sources, reproduced)


def _score(found: Reproduced) -> tuple[int, int]:
    """The less, the better."""
    return found.mismatched - found.matched, found.unjudged


def _shrinks(profile: Profile) -> tuple[int, ...]:
    """Factors to try where the recording tells none: the kernel's default first."""
    newer = profile.version is not None and profile.version >= SHRINKS_BY_TWO
    return (2, 0) if newer else (0, 2)


def _noted(manifest: Manifest) -> dict[str, int]:
    """The module's parameters where the metadata has them."""
    modules = manifest.host.get("module_parameters")
    kvm = modules.get("kvm") if isinstance(modules, dict) else None
    noted = (
        {name: str(kvm.get(parameter)) for name, parameter in PARAMETERS.items()}
        if isinstance(kvm, dict)
        else {}
    )
    return {name: int(value) for name, value in noted.items() if _NUMBER.fullmatch(value)}


def _inferred(halts: Recorded) -> dict[str, int]:
    """What most changes show: where growth from 0 starts, the factors, the cap where it held a polling time down."""
    old, new, grew = halts.old[halts.changed], halts.new[halts.changed], halts.grew[halts.changed]
    multiple = grew & (old > 0) & (new % np.maximum(old, 1) == 0)
    part = ~grew & (new > 0) & (old > 0)
    # The event says what a polling time has grown to; what the vCPU's next change says it was is less where the cap
    # has held it down since.
    after, before = new[:-1], old[1:]
    owner = halts.owner[halts.changed]
    since = np.cumsum(halts.broken)[halts.changed]
    held = (before < after) & (before > 0) & (np.diff(owner) == 0) & (np.diff(since) == 0)
    shown = {
        "start": new[grew & (old == 0)],
        "grow": new[multiple] // old[multiple],
        "shrink": np.rint(old[part] / np.maximum(new[part], 1)).astype(np.int64),
        "cap": before[held],
    }
    return {name: _most(values) for name, values in shown.items() if len(values)}


def _most(values: npt.NDArray[np.int64]) -> int:
    """The value that occurs most often."""
    found, counts = np.unique(values, return_counts=True)
    return int(found[np.argmax(counts)])


def _caps(halts: Recorded, choice: HostSetting) -> list[int]:
    """Caps that the changes allow: the default if it is one, one that they bound, and none."""
    if not halts.changed.any():
        return [choice.cap, 0]
    grew = halts.changed & halts.grew
    shrank = halts.changed & ~halts.grew
    # What grew took less than the cap, what shrank took longer; no polling time in force is above it.
    kept = halts.new if choice.clamps else halts.old
    least = max(int(halts.ns[grew].max(initial=0)) + 1, int(halts.old.max()), int(kept.max()))
    most = int(halts.ns[shrank].min(initial=U32)) - 1
    return [choice.cap] if least <= choice.cap <= most else [least, most]
