"""Verdicts: what a rule says of one event.

`None` from a rule's check means that the event is none of its business. Everything else is one of three: it
holds, it diverges, or it cannot be told and why.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["HOLDS", "Divergence", "Diverges", "Holds", "Reason", "Severity", "Unknown", "Verdict", "unknown"]


class Reason(StrEnum):
    """Why a verdict is `unknown`. The values are part of the JSON interface."""

    STATE_UNSEEN = "state-unseen"
    EVENTS_LOST = "events-lost"
    NOT_TRACED = "not-traced"
    CPUID_UNKNOWN = "cpuid-unknown"
    VM_AMBIGUOUS = "vm-ambiguous"
    PARAMETER_UNKNOWN = "parameter-unknown"
    RECORDING_ENDED = "recording-ended"
    CLOCK_UNKNOWN = "clock-unknown"


class Severity(StrEnum):
    """An error sets the exit code; a warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Holds:
    """What the trace shows is what the model says; some other value would have diverged.

    `bug` names a known bug (`hvtrace.replay.bugs`) that would have shown here.
    """

    bug: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """The rule concerns the event and cannot be judged."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Diverges:
    """What the trace shows is not what the model says. In the words of the event's fields.

    `bug` names the known bug (`hvtrace.replay.bugs`) that would explain it: a warning on kernels that have it.
    """

    expected: str
    observed: str
    message: str
    bug: str = ""


Verdict = Holds | Unknown | Diverges

HOLDS = Holds()
_UNKNOWN = {reason: Unknown(reason) for reason in Reason}


def unknown(reason: Reason) -> Unknown:
    """The `unknown` verdict of a reason."""
    return _UNKNOWN[reason]


@dataclass(slots=True)
class Divergence:
    """A reported divergence: the first of its kind in its VM, with the number of further ones folded into it.

    `state` is the modelled state by name, `history` the last events of the vCPU as lines of text, oldest
    first.
    """

    rule: str
    name: str
    severity: Severity
    seq: int
    ts_ns: int
    vm: int | None
    vcpu: int | None
    tracepoint: str
    expected: str
    observed: str
    message: str
    state: dict[str, str] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    count: int = 1
    #: Divergences of rules of the same theme, folded into this one: code → number.
    also: dict[str, int] = field(default_factory=dict)
    last_seq: int = 0
    last_ts_ns: int = 0
