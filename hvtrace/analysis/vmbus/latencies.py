"""How long each stage takes, from the guest's call to the answer in its hands, and from a signal to its interrupt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from hvtrace.abi.vmbus import POST_MESSAGE, SIGNAL_EVENT
from hvtrace.analysis.figures import PERCENTILES, statistics
from hvtrace.analysis.vmbus import signals
from hvtrace.analysis.vmbus.interrupts import MESSAGE, SIGNAL
from hvtrace.analysis.vmbus.messages import Messages
from hvtrace.analysis.vmbus.tables import Tables

__all__ = ["FIGURES", "STAGES", "Facts", "Stage", "figures_of", "latencies", "spans_of"]

#: What is told of times, in this order.
FIGURES = ("count", "min_ns", "mean_ns", *PERCENTILES, "max_ns")


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found in the tables: hypercalls, messages that QEMU received in them, interrupts, messages, channels."""

    tables: Tables
    calls: pl.DataFrame
    received: pl.DataFrame
    raised: pl.DataFrame
    messages: Messages
    channels: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of time. `find` gives what begins: vm, seq, ts_ns, end_seq and end_ns (null where it has no end).

    `needs`: tracepoints, of each group of which one is needed. `kvm`, `qemu`: whose events it lies between; a stretch
    between both is known to the residual error. `correlation`: what belongs together is found by the order in time.
    """

    name: str
    sentence: str
    needs: tuple[tuple[str, ...], ...]
    find: Callable[[Facts], pl.DataFrame]
    kvm: bool = False
    qemu: bool = False
    correlation: bool = False


def _calls(code: int) -> Callable[[Facts], pl.DataFrame]:
    return lambda facts: facts.calls.filter(pl.col("code") == code)


def _received(facts: Facts) -> pl.DataFrame:
    rows = facts.messages.sent.select("vm", "seq", "ts_ns").join(facts.received, on="seq")
    return rows.select("vm", seq="call_seq", ts_ns="call_ns", end_seq="seq", end_ns="ts_ns")


def _stage(
    begin: tuple[str, str], end: tuple[str, str], answered: bool = False
) -> Callable[[Facts], pl.DataFrame]:
    """Of messages that the guest sent: from one pair of columns (seq, stamp) to another."""

    def find(facts: Facts) -> pl.DataFrame:
        rows = facts.messages.sent
        if answered:
            rows = rows.filter(pl.col("answer_seq").is_not_null())
        return rows.select("vm", seq=begin[0], ts_ns=begin[1], end_seq=end[0], end_ns=end[1]).filter(
            pl.col("seq").is_not_null(), pl.col("ts_ns").is_not_null()
        )

    return find


def _delivered(facts: Facts) -> pl.DataFrame:
    return facts.messages.given.rename({"delivered_seq": "end_seq", "delivered_ns": "end_ns"})


def _ended(kind: str) -> Callable[[Facts], pl.DataFrame]:
    def find(facts: Facts) -> pl.DataFrame:
        rows = facts.raised.filter(pl.col("kind") == kind)
        return rows.rename({"eoi_seq": "end_seq", "eoi_ns": "end_ns"})

    return find


_CALL, _DONE, _IRQ = ("kvm_hv_hypercall",), ("kvm_hv_hypercall_done",), ("kvm_hv_synic_set_irq",)
_EOI = (_IRQ, ("kvm_inj_virq",), ("kvm_eoi", "kvm_pv_eoi"))
_RECEIVED, _TAKEN = ("vmbus_recv_message",), ("vmbus_process_incoming_message",)
_POSTED, _BACK = ("vmbus_post_msg",), ("vmbus_msg_cb",)

STAGES: tuple[Stage, ...] = (
    Stage("post", "POST_MESSAGE → its result", (_CALL, _DONE), _calls(POST_MESSAGE), kvm=True),
    Stage(
        "receive",
        "POST_MESSAGE → vmbus_recv_message in it",
        (_CALL, _RECEIVED),
        _received,
        kvm=True,
        qemu=True,
    ),
    Stage(
        "queue",
        "vmbus_recv_message → vmbus_process_incoming_message",
        (_RECEIVED, _TAKEN),
        _stage(("seq", "received_ns"), ("taken_seq", "taken_ns")),
        qemu=True,
    ),
    Stage(
        "work",
        "vmbus_process_incoming_message → vmbus_post_msg of the answer",
        (_TAKEN, _POSTED),
        _stage(("taken_seq", "taken_ns"), ("answer_seq", "answer_ns"), answered=True),
        qemu=True,
    ),
    Stage("deliver", "vmbus_post_msg → vmbus_msg_cb with status 0", (_POSTED, _BACK), _delivered, qemu=True),
    Stage(
        "answer",
        "vmbus_recv_message → vmbus_msg_cb of the answer, status 0",
        (_RECEIVED, _POSTED, _BACK),
        _stage(("seq", "received_ns"), ("delivered_seq", "delivered_ns"), answered=True),
        qemu=True,
    ),
    Stage(
        "message-interrupt",
        "vmbus_post_msg → kvm_hv_synic_set_irq by the vCPU's thread",
        (_POSTED, _BACK, _IRQ),
        lambda facts: signals.posted(facts.tables, facts.messages.given, facts.raised),
        kvm=True,
        qemu=True,
        correlation=True,
    ),
    Stage("message-eoi", "kvm_hv_synic_set_irq of a message → kvm_eoi", _EOI, _ended(MESSAGE), kvm=True),
    Stage("signal", "SIGNAL_EVENT → its result", (_CALL, _DONE), _calls(SIGNAL_EVENT), kvm=True),
    Stage(
        "signal-read",
        "SIGNAL_EVENT → hv_balloon_incoming_*",
        (_CALL, _DONE, signals.INCOMING),
        lambda facts: signals.handled(facts.tables, facts.calls, facts.channels),
        kvm=True,
        qemu=True,
        correlation=True,
    ),
    Stage(
        "signal-interrupt",
        "SIGNAL_EVENT → the next signal to the guest, before another SIGNAL_EVENT",
        (_CALL, _DONE, _IRQ),
        lambda facts: signals.interrupted(signals.signals(facts.calls), facts.raised),
        kvm=True,
        correlation=True,
    ),
    Stage(
        "notify-interrupt",
        "vmbus_channel_notify_guest → kvm_hv_synic_set_irq by another thread",
        ((signals.NOTIFY,), _IRQ),
        lambda facts: signals.notified(facts.tables, facts.raised),
        kvm=True,
        qemu=True,
        correlation=True,
    ),
    Stage("notify-eoi", "kvm_hv_synic_set_irq of a signal → kvm_eoi", _EOI, _ended(SIGNAL), kvm=True),
)


def spans_of(stage: Stage, facts: Facts) -> pl.DataFrame:
    """A stage's stretches: vm, seq, ts_ns, end_seq, end_ns, ns, state ("whole", "lost", "backwards", "unpaired")."""
    tables = facts.tables
    found = stage.find(facts).select("vm", "seq", "ts_ns", "end_seq", "end_ns")
    found = found.filter(True, *tables.scope.span())
    ns = pl.col("end_ns") - pl.col("ts_ns")
    # Stamps of both sides may be off against each other.
    least = -tables.residual_ns if stage.kvm and stage.qemu else 0
    state = (
        pl.when(pl.col("end_seq").is_null())
        .then(pl.lit("unpaired"))
        .when(tables.lost("ts_ns", "end_ns", kvm=stage.kvm, qemu=stage.qemu))
        .then(pl.lit("lost"))
        .when(ns < least)
        .then(pl.lit("backwards"))
        .otherwise(pl.lit("whole"))
    )
    return found.with_columns(ns=ns, state=state)


def figures_of(spans: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """FIGURES of times (`ns`) by `keys`."""
    rows = spans.select(*keys, "ns", userspace_ns=pl.lit(0, pl.Int64))
    return statistics(rows.lazy(), keys).select(*keys, *FIGURES).collect()


def latencies(facts: Facts) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the stages by VM, and stages that could not be told with the tracepoints that are missing.

    A row has vm, stage, sentence, correlation, residual_ns (stamps may be off so far), FIGURES, and `excluded`: what
    does not count, by why.
    """
    rows, absent = [], []
    for stage in STAGES:
        missing = ["|".join(group) for group in stage.needs if not facts.tables.has(*group)]
        if missing:
            absent.append({"stage": stage.name, "sentence": stage.sentence, "missing": missing})
            continue
        found = spans_of(stage, facts)
        figures = figures_of(found.filter(pl.col("state") == "whole"), ["vm"])
        for vm in found["vm"].unique().sort().to_list():
            states = dict(found.filter(pl.col("vm") == vm)["state"].value_counts().iter_rows())
            own: Mapping[str, Any] = next(iter(figures.filter(pl.col("vm") == vm).to_dicts()), {})
            rows.append(
                {
                    "vm": None if vm < 0 else vm,
                    "stage": stage.name,
                    "sentence": stage.sentence,
                    "correlation": stage.correlation,
                    "residual_ns": facts.tables.residual_ns if stage.kvm and stage.qemu else 0,
                }
                | {name: own.get(name, 0 if name == "count" else None) for name in FIGURES}
                | {"excluded": {why: states.get(why, 0) for why in ("lost", "backwards", "unpaired")}}
            )
    return rows, absent
