"""What the tracepoints that fired say of those that did not."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["MANY_KINDS", "WHOLE_GROUP", "is_whole_group"]

#: Tracepoints that nobody picks one by one: where all of these have events and the recording has many kinds, the
#: whole kvm group was recorded, and a tracepoint without events never fired.
WHOLE_GROUP = frozenset({"kvm_entry", "kvm_exit", "kvm_fpu", "kvm_userspace_exit"})
MANY_KINDS = 14


def is_whole_group(fired: Iterable[str]) -> bool:
    """Whether a recording with events of these tracepoints was recorded with all of KVM's."""
    kvm = {name for name in fired if name.startswith("kvm_")}
    return kvm >= WHOLE_GROUP and len(kvm) >= MANY_KINDS
