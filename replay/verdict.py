"""Verdicts: what a rule says of one event.

`None` from a rule's check means that the event is none of its business. Everything else is one of three: it
holds, it diverges, or it cannot be told and why.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

__all__ = [
    "HOLDS",
    "Divergence",
    "Diverges",
    "Form",
    "Holds",
    "Reason",
    "Severity",
    "Unknown",
    "Verdict",
    "form_of",
    "unknown",
]


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

    `bug` names the known bug (`hvtrace.replay.bugs`) that would explain it: a warning on kernels that have it. `theme`
    takes the place of the rule's, where what is wrong decides which fault it may be a face of.
    """

    expected: str
    observed: str
    message: str
    bug: str = ""
    theme: str = ""


Verdict = Holds | Unknown | Diverges

HOLDS = Holds()
_UNKNOWN = {reason: Unknown(reason) for reason in Reason}


def unknown(reason: Reason) -> Unknown:
    """The `unknown` verdict of a reason."""
    return _UNKNOWN[reason]


class Form(NamedTuple):
    """What one fault has in common in every recording that shows it: `message` has its numbers taken out.

    Ranks, stamps, VM, vCPU and values are another recording's own; which vCPU meets a fault first is chance.
    """

    rule: str
    tracepoint: str
    message: str


#: Forms kept for one divergence.
MAX_FORMS = 256

#: "HV_X64" is a name.
_NUMBER = r"-?(?<!_X)(?<!_X6)(?:0x[0-9a-fA-F]+|\d+(?:\.\d+)?)"
_NUMBERS = re.compile(rf"{_NUMBER}(?:, {_NUMBER})*")


def form_of(rule: str, tracepoint: str, message: str) -> Form:
    """The form of a divergence: every number of its message, or list of numbers, becomes "#"."""
    return Form(rule, tracepoint, _NUMBERS.sub("#", message))


@dataclass(slots=True)
class Divergence:
    """A reported divergence: the first of its kind in its VM, with the number of further ones folded into it.

    `state` is the modelled state by name, `history` the last events of the vCPU as lines of text, oldest
    first, `history_seqs` their ranks.
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
    history_seqs: list[int] = field(default_factory=list)
    count: int = 1
    #: Divergences of rules of the same theme, folded into this one: code → number.
    also: dict[str, int] = field(default_factory=dict)
    last_seq: int = 0
    last_ts_ns: int = 0
    #: Accepted beforehand: it does not count as a finding.
    known: bool = False
    #: The forms of all that was folded into this one, with their number.
    forms: dict[Form, int] = field(default_factory=dict)

    def add_form(self, form: Form, number: int = 1) -> None:
        """Count one form; what is beyond MAX_FORMS is not kept."""
        if form in self.forms or len(self.forms) < MAX_FORMS:
            self.forms[form] = self.forms.get(form, 0) + number
