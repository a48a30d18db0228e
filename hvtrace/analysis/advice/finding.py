"""What an advice is: the finding in words, its evidence, what to change, and what that would bring."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hvtrace.analysis.advice.facts import Facts

__all__ = [
    "HIGH_SHARE",
    "MEDIUM_SHARE",
    "Advice",
    "Effect",
    "Evidence",
    "Finding",
    "Severity",
    "Unjudged",
    "severity_of",
]

#: Time of the exits, as a share of one CPU's time: from there on it is no longer little, and then much.
MEDIUM_SHARE, HIGH_SHARE = 0.01, 0.10


class Severity(IntEnum):
    """How much it matters; findings are listed from the highest on."""

    #: Says what is in use; nothing to change.
    INFO = 0
    #: Costs little, or helps some guests only.
    LOW = 1
    #: Costs time that can be measured.
    MEDIUM = 2
    #: Costs much of the time, or the guest's clock is wrong.
    HIGH = 3


def severity_of(share: float) -> Severity:
    """How much exits matter that take this share of one CPU's time."""
    return (
        Severity.HIGH if share >= HIGH_SHARE else Severity.MEDIUM if share >= MEDIUM_SHARE else Severity.LOW
    )


@dataclass(frozen=True, slots=True)
class Evidence:
    """A sentence, and the figures in it.

    `count` of events, `per_second` of their VM's recorded time, `time_ns` they took; `seqs`: ranks of a few of the
    events, for whoever wants to look at them.
    """

    sentence: str
    count: int | None = None
    per_second: float | None = None
    time_ns: int | None = None
    seqs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Effect:
    """What the change would bring, in a sentence, and how that was estimated.

    `saved_ns` of vCPU time in the part looked at, `saved_share` of it; null where it cannot be estimated.
    """

    sentence: str
    estimated_by: str
    saved_ns: int | None = None
    saved_share: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding of an advice, on a VM or one of its vCPUs.

    `change`: what to do, in a sentence. `qemu` and `libvirt`: what to add there, where it is a setting of theirs.
    """

    code: str
    name: str
    severity: Severity
    vm: int | None
    title: str
    evidence: tuple[Evidence, ...]
    change: str | None = None
    effect: Effect | None = None
    vcpu: int | None = None
    qemu: str | None = None
    libvirt: str | None = None


@dataclass(frozen=True, slots=True)
class Unjudged:
    """An advice about which nothing can be said of a VM (None: of any), and why.

    `missing`: tracepoints that were not recorded, where that is why.
    """

    code: str
    name: str
    vm: int | None
    reason: str
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Advice:
    """A kind of finding: its code (AD1xx), its name in words-with-dashes, what it is about, what it looks at.

    `needs`: tracepoints without which nothing can be said; it is then listed as not judged, never as fine. `find`
    looks at one VM of the facts, and gives an Unjudged where what it sees there decides nothing. `doc`: a paragraph on
    when it is found and why that costs time.
    """

    code: str
    name: str
    summary: str
    needs: tuple[str, ...]
    find: Callable[[Facts, int, Advice], Iterable[Finding | Unjudged]]
    doc: str = field(repr=False, default="")
