"""Hypercalls, as far as they are modelled: which codes KVM serves (TLFS, Hypercall interface; kvm_hv_hypercall)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hvtrace.abi.hypercall import Handler, by_code

if TYPE_CHECKING:
    from hvtrace.replay.model.machine import Vcpu

__all__ = ["Call", "is_unserved"]

#: Codes KVM hands to userspace since 6.3, known to the table or not. Both ends inclusive.
EXTENDED = (0x8001, 0x8041)


@dataclass(slots=True)
class Call:
    """A hypercall and its result."""

    vcpu: Vcpu
    code: int
    result: int


def is_unserved(code: int) -> bool:
    """Whether no kernel serves a call code, nor hands it to userspace."""
    if EXTENDED[0] <= code <= EXTENDED[1]:
        return False
    row = by_code(code)
    return row is None or row.handler is Handler.NOBODY
