"""Rows for tiny stores of which a timeline is made, and that timeline."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from builders.store import Row, tiny_store
from builders.timeline import Timeline, read_timeline
from hvtrace.export.perfetto import write_trace
from hvtrace.export.streams import WINDOW, Which

__all__ = [
    "DIRECT",
    "MESSAGE",
    "accept",
    "acked",
    "callback",
    "cleanup",
    "config",
    "count",
    "draw",
    "entry",
    "eoi",
    "expired",
    "inject",
    "leave",
    "one_shot",
    "periodic",
    "set_irq",
    "switch",
    "wake",
]

#: A config of a timer: enabled, message mode, SINT 2; and with direct mode, vector 0xed.
MESSAGE, DIRECT = 0x2_0001, 0x1ED1


def draw(
    tmp_path: Path, rows: Iterable[Row], which: Which | None = None, window: int = WINDOW, **store: Any
) -> Timeline:
    """The timeline of a store of these rows, sorted by time."""
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.hvt"
    out = io.BytesIO()
    write_trace(tiny_store(path, sorted(rows, key=lambda r: r[0]), **store), out, which, window=window)
    return read_timeline(out.getvalue())


def _row(
    ts: int, tracepoint: str, vcpu: int | None, fields: dict[str, Any], thread: int | None = None
) -> Row:
    tid = 0 if vcpu is None else 100 + vcpu
    return (ts, tracepoint, vcpu, 0, {"tid": tid if thread is None else thread} | fields)


def entry(ts: int, vcpu: int = 0) -> Row:
    return _row(ts, "kvm_entry", vcpu, {"rip": 0x1000})


def leave(ts: int, vcpu: int = 0, reason: int = 0x7C) -> Row:
    """kvm_exit of SVM; without a reason given, for an MSR."""
    return _row(ts, "kvm_exit", vcpu, {"isa": 2, "exit_reason": reason, "guest_rip": 0xFFF0, "info1": 0})


def _timer(ts: int, what: str, timer: int, vcpu: int, **fields: Any) -> Row:
    own = {"vcpu_id": vcpu, "timer_index": timer}
    return _row(ts, f"kvm_hv_stimer_{what}", vcpu, own | fields)


def config(ts: int, value: int = MESSAGE, timer: int = 0, vcpu: int = 0, host: bool = False) -> Row:
    return _timer(ts, "set_config", timer, vcpu, config=value, host=host)


def count(ts: int, value: int, timer: int = 0, vcpu: int = 0, host: bool = False) -> Row:
    return _timer(ts, "set_count", timer, vcpu, count=value, host=host)


def cleanup(ts: int, timer: int = 0, vcpu: int = 0) -> Row:
    return _timer(ts, "cleanup", timer, vcpu)


def one_shot(ts: int, now: int, expires: int, timer: int = 0, vcpu: int = 0) -> Row:
    return _timer(ts, "start_one_shot", timer, vcpu, time_now=now, count=expires)


def periodic(ts: int, now: int, expires: int, timer: int = 0, vcpu: int = 0) -> Row:
    return _timer(ts, "start_periodic", timer, vcpu, time_now=now, exp_time=expires)


def callback(ts: int, timer: int = 0, vcpu: int = 0) -> Row:
    """As in a hard interrupt on any thread."""
    return _timer(ts, "callback", timer, vcpu, tid=0)


def expired(ts: int, result: int = 0, direct: int = 0, timer: int = 0, vcpu: int = 0) -> Row:
    return _timer(ts, "expiration", timer, vcpu, direct=direct, msg_send_result=result)


def accept(ts: int, vector: int, vcpu: int = 0, thread: int | None = None, dm: int = 0) -> Row:
    """Raised by the vCPU's own thread, or by another `thread`."""
    return _row(ts, "kvm_apic_accept_irq", vcpu, {"apicid": vcpu, "vec": vector, "dm": dm, "tm": 0}, thread)


def set_irq(ts: int, sint: int, vector: int, ret: int = 1, vcpu: int = 0, thread: int | None = None) -> Row:
    fields = {"vcpu_id": vcpu, "sint": sint, "vector": vector, "ret": ret}
    return _row(ts, "kvm_hv_synic_set_irq", vcpu, fields, thread)


def acked(ts: int, sint: int, vcpu: int = 0) -> Row:
    return _row(ts, "kvm_hv_notify_acked_sint", vcpu, {"vcpu_id": vcpu, "sint": sint})


def inject(ts: int, vector: int, vcpu: int = 0, soft: bool = False, reinjected: bool = False) -> Row:
    return _row(ts, "kvm_inj_virq", vcpu, {"vector": vector, "soft": soft, "reinjected": reinjected})


def eoi(ts: int, vector: int, vcpu: int = 0) -> Row:
    return _row(ts, "kvm_eoi", vcpu, {"apicid": vcpu, "vector": vector})


def switch(ts: int, cpu: int, went: tuple[str, int], came: tuple[str, int], state: int = 0) -> Row:
    """One thread (name, tid) leaves a CPU in this state, another one comes."""
    fields = {"prev_comm": went[0], "prev_pid": went[1], "prev_state": state}
    return (ts, "sched_switch", None, cpu, fields | {"next_comm": came[0], "next_pid": came[1]})


def wake(ts: int, pid: int, waker: tuple[str, int] = ("qemu", 7)) -> Row:
    fields = {"pid": pid, "comm": waker[0], "tid": waker[1], "comm_field": "woken"}
    return (ts, "sched_wakeup", None, 0, fields)
