"""VB120 signal-connection-wrong

## What it finds
A SIGNAL_EVENT that KVM delivers although the channel of its connection is closed, or that nobody knows although
it is open.

## Why it matters
A device does not hear the guest, or hears what is not meant for it.

## What the specification says
> QEMU gives KVM an eventfd for connection 16 + channel when a channel opens and takes it back when it closes;
> KVM hands other connections to QEMU, which answers 18 (hyperv_set_event_flag_handler,
> kvm_hvcall_signal_event).

## When it cannot tell
While the channel opens or closes, give or take the error of the alignment; after QEMU's last event; for
connections below 17, which are not channels'.

## Example
    vmbus_close_channel channel #1
    kvm_hv_hypercall: code 0x5d fast in 0x11
    kvm_hv_hypercall_done: result 0x0
    expected status 18, observed status 0
"""

from __future__ import annotations

from hvtrace.replay.model.vmbus_finding import Aspect, judges
from hvtrace.replay.model.vmbus_protocol import CONVERSATION
from hvtrace.replay.rule import Moment, Rule

__all__ = ["RULE"]


RULE = Rule(
    "VB120",
    "signal-connection-wrong",
    (Moment.VMBUS,),
    (
        *CONVERSATION,
        "kvm_hv_hypercall",
        "kvm_hv_hypercall_done",
        "kvm_entry",
        "kvm_exit",
        "kvm_userspace_exit",
    ),
    judges(Aspect.CONNECTED),
    theme="VMBus",
)
