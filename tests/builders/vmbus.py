"""Rows of QEMU's events of VMBus, and of the hypercalls and interrupts beneath them, for tiny stores."""

from __future__ import annotations

from typing import Any

from builders.store import Row

__all__ = [
    "MAIN",
    "back",
    "balloon",
    "call",
    "close",
    "contact",
    "done",
    "notify",
    "offer",
    "opened",
    "opening",
    "pages",
    "posted",
    "raised",
    "received",
    "signal",
    "state",
    "taken",
]

#: QEMU's main thread. The vCPUs' are 100 and on.
MAIN = 7


def _main(ts: int, event: str, **fields: Any) -> Row:
    return ts, event, None, 0, {"tid": MAIN, "vm": 0} | fields


def _vcpu(ts: int, event: str, vcpu: int, **fields: Any) -> Row:
    return ts, event, vcpu, 0, {"tid": 100 + vcpu} | fields


def received(ts: int, number: int, size: int = 8, vcpu: int = 0) -> Row:
    return _vcpu(ts, "vmbus_recv_message", vcpu, type=number, size=size)


def taken(ts: int, number: int) -> Row:
    return _main(ts, "vmbus_process_incoming_message", message_type=number)


def posted(ts: int, number: int, size: int = 8) -> Row:
    return _main(ts, "vmbus_post_msg", type=number, size=size)


def back(ts: int, status: int = 0) -> Row:
    return _main(ts, "vmbus_msg_cb", status=status)


def contact(ts: int, major: int, minor: int, vp: int = 0) -> Row:
    return _main(ts, "vmbus_initiate_contact", major=major, minor=minor, vcpu_field=vp)


def offer(ts: int, channel: int, dev: int = 0x1000) -> Row:
    return _main(ts, "vmbus_send_offer", chan_id=channel, dev=dev)


def pages(ts: int, what: str, gpadl: int, count: int | None = None) -> Row:
    """vmbus_gpadl_header, _body, _created, _teardown, _torndown."""
    own = {} if count is None else {"num_gfns": count}
    return _main(ts, f"vmbus_gpadl_{what}", gpadl_id=gpadl, **own)


def opening(ts: int, channel: int, gpadl: int, vp: int = 0) -> Row:
    return _main(ts, "vmbus_open_channel", chan_id=channel, gpadl_id=gpadl, target_vp=vp)


def opened(ts: int, channel: int, status: int = 0) -> Row:
    return _main(ts, "vmbus_channel_open", chan_id=channel, status=status)


def close(ts: int, channel: int) -> Row:
    return _main(ts, "vmbus_close_channel", chan_id=channel)


def notify(ts: int, channel: int) -> Row:
    return _main(ts, "vmbus_channel_notify_guest", chan_id=channel)


def state(ts: int, name: str) -> Row:
    return _main(ts, "hv_balloon_state_change", tostr=name)


def balloon(ts: int, what: str, **fields: Any) -> Row:
    """hv_balloon_outgoing_balloon and the like."""
    return _main(ts, f"hv_balloon_{what}", **fields)


def call(ts: int, code: int, value: int = 0, fast: bool = False, vcpu: int = 0) -> Row:
    return _vcpu(ts, "kvm_hv_hypercall", vcpu, code=code, fast=fast, ingpa=value, outgpa=0)


def done(ts: int, result: int = 0, vcpu: int = 0) -> Row:
    return _vcpu(ts, "kvm_hv_hypercall_done", vcpu, result=result)


def signal(ts: int, connection: int, vcpu: int = 0) -> Row:
    return call(ts, 0x5D, connection, fast=True, vcpu=vcpu)


def raised(ts: int, vcpu: int = 0, thread: int | None = None, sint: int = 2, vector: int = 0xF3) -> Row:
    """kvm_hv_synic_set_irq: by the vCPU's own thread, or by another one."""
    own = {"vcpu_id": vcpu, "sint": sint, "vector": vector, "ret": 1}
    tid = 100 + vcpu if thread is None else thread
    return (*_vcpu(ts, "kvm_hv_synic_set_irq", vcpu)[:4], own | {"tid": tid})
