"""Synthetic timers: their state, and what a rule is told of them (TLFS, Timers; struct kvm_vcpu_hv_stimer)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hvtrace.replay.obligation import Due, Obligation

if TYPE_CHECKING:
    from hvtrace.replay.model.machine import Vcpu
    from hvtrace.replay.tape import Event

__all__ = [
    "AUTO_ENABLE", "DIRECT", "ENABLE", "HOST_COUNT", "PERIODIC", "Callback", "Cleanup", "Expiration", "Expiry", "Start",
    "Stimer", "sint_of", "vector_of",
]  # fmt: skip

#: Bits of CONFIG.
ENABLE, PERIODIC, AUTO_ENABLE, DIRECT = 1 << 0, 1 << 1, 1 << 3, 1 << 12

#: The known bug by which userspace's write of COUNT enables a timer.
HOST_COUNT = "host-count-enables"


def sint_of(config: int) -> int:
    """The source a message goes through: CONFIG bits 19:16."""
    return config >> 16 & 0xF


def vector_of(config: int) -> int:
    """The vector of direct mode: CONFIG bits 11:4."""
    return config >> 4 & 0xFF


@dataclass(slots=True, eq=False)
class Stimer:
    """One timer. Every field but `number` is None while unknown.

    `config` is the configuration without its enable bit, which `enable` holds. `expiry` is exp_time (0:
    none),
    `armed` whether the host timer runs, `pending` whether the vCPU has yet to look at the timer, `parked`
    whether
    a message waits for its slot (msg_pending). `early` is by how much the last arming lay ahead of its
    expiry.
    """

    number: int
    config: int | None = None
    count: int | None = None
    enable: bool | None = None
    expiry: int | None = None
    armed: bool | None = None
    pending: bool | None = None
    parked: bool | None = None
    #: Userspace's write of COUNT would have enabled it before d6800af51c76.
    revived: bool = False
    #: Which kind of start was seen last.
    kind: bool | None = None
    ahead: int | None = None
    fired: bool = False
    cleanup: Obligation | None = None
    process: Obligation | None = None
    callback: Obligation | None = None
    retry: Obligation | None = None
    #: A cancellation without a cause that waits for more evidence.
    suspect: Obligation | None = None
    expired: Expiry | None = None

    @property
    def periodic(self) -> bool | None:
        """Periodic or one-shot: as CONFIG says, or else as it was last armed."""
        return self.kind if self.config is None else bool(self.config & PERIODIC)

    @property
    def direct(self) -> bool | None:
        """An interrupt instead of a message."""
        return None if self.config is None else bool(self.config & DIRECT)

    @property
    def value(self) -> int | None:
        """What a read of CONFIG returns."""
        if self.config is None or self.enable is None:
            return None
        return self.config | int(self.enable)

    def drop_all(self) -> None:
        """Forget what is owed."""
        self.cleanup = self.process = self.callback = self.retry = self.suspect = None
        self.expired = None

    def broken(self, due: Obligation) -> None:
        """What was owed did not come and has been reported: what the timer does now is not known."""
        for name in ("cleanup", "process", "callback", "retry", "suspect"):
            if getattr(self, name) is due:
                setattr(self, name, None)
        self.pending = self.armed = self.parked = self.expiry = None
        if due.due is Due.DESTROYED or due.event[2] == "kvm_hv_stimer_expiration":
            # KVM cancels what it takes for enabled, and not what it takes for disabled.
            self.enable = None

    def describe(self) -> str | None:
        """The state in words; None where nothing is known."""
        if self.config is None and self.enable is None:
            return None
        words = [
            f"config 0x{self.config | bool(self.enable):x}" if self.config is not None else "config ?",
            f"count {'?' if self.count is None else self.count}",
            f"expiry {'?' if self.expiry is None else self.expiry}",
        ]
        for word, flag in (
            ("enabled", self.enable),
            ("armed", self.armed),
            ("pending", self.pending),
            ("parked", self.parked),
        ):
            words.append(word if flag else f"{word}?" if flag is None else f"not {word}")
        return ", ".join(words)


@dataclass(slots=True, eq=False)
class Expiry:
    """An expiration whose time is not yet confirmed: the next reference time the thread sees must not be
    below.
    """

    expiry: int
    event: Event
    cell: list[bool]
    seen: int | None = None


@dataclass(slots=True)
class Start:
    """A timer is armed: the state before, the reference time then, the expiry, and which kind of start it
    was.
    """

    vcpu: Vcpu
    timer: Stimer
    periodic: bool
    now: int
    expiry: int
    #: ns since the thread's last event, or its exit (None: not known).
    lag: int | None = None


@dataclass(slots=True)
class Expiration:
    """A timer expires: the state before, and what its record says."""

    vcpu: Vcpu
    timer: Stimer
    direct: bool
    result: int
    #: Sources raised, with their result, and vectors accepted by the vCPU's thread since its last expiration.
    raised: list[tuple[int, int]]
    accepted: list[int]
    #: The confirmation of an expiration (see `Expiry`); None when the event itself is judged.
    confirmed: Expiry | None = None


@dataclass(slots=True)
class Callback:
    """The host timer fires: the state before. `raced`: a cancelled timer's callback may still be under
    way.
    """

    vcpu: Vcpu
    timer: Stimer
    raced: bool


@dataclass(slots=True)
class Cleanup:
    """A timer is cancelled: the state before, and what asked for it (None: not known, "" nothing)."""

    vcpu: Vcpu
    timer: Stimer
    cause: str | None
