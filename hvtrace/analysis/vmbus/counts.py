"""Tables of the answer: what was said and signalled, how often, and what came of it."""

from __future__ import annotations

from typing import Any

import polars as pl

from hvtrace.abi.status import status_name
from hvtrace.abi.vmbus import MESSAGES, POST_MESSAGE, SIGNAL_EVENT, Way, message_name
from hvtrace.analysis.scope import Scope
from hvtrace.analysis.vmbus.calls import SUCCESS
from hvtrace.analysis.vmbus.connection import version_name
from hvtrace.analysis.vmbus.latencies import FIGURES, Facts, figures_of
from hvtrace.analysis.vmbus.messages import INITIATE_CONTACT
from hvtrace.analysis.vmbus.signals import connection_of, signals, told
from hvtrace.analysis.vmbus.tables import named

__all__ = [
    "about",
    "call_rows",
    "channel_rows",
    "conversation_rows",
    "interrupt_rows",
    "message_rows",
    "unanswered_rows",
]

#: Why a message was not answered.
_NOT_TAKEN, _NOT_ANSWERED, _NOT_DELIVERED = "not taken up", "not answered", "answer not delivered"

_CALLS = {POST_MESSAGE: "POST_MESSAGE", SIGNAL_EVENT: "SIGNAL_EVENT"}


def about(row: dict[str, Any]) -> str:
    """What a message was about, in words; "" where that is not known."""
    words = []
    if row["version"] is not None:
        words.append(f"version {version_name(row['version'])}")
    if row["channel"] is not None:
        words.append(f"channel {row['channel']}")
    if row["gpadl"] is not None:
        words.append(f"GPADL {row['gpadl']}")
    if row["pages"] is not None:
        words.append(f"{row['pages']} pages")
    if row["vp"] is not None:
        words.append(f"VP {row['vp']}")
    if row["result"] is not None:
        words.append(f"status {row['result']}")
    return ", ".join(words)


def channel_rows(facts: Facts, opened: pl.DataFrame) -> list[dict[str, Any]]:
    """Channels with their signals; then connection ids that belong to none of them."""
    tables, scope = facts.tables, facts.tables.scope
    sent = signals(facts.calls).filter(True, *scope.span())
    ok = pl.col("status") == SUCCESS
    to_host = sent.group_by("vm", "connection").agg(
        to_host=ok.sum().cast(pl.Int64), to_host_failed=(~ok.fill_null(value=True)).sum().cast(pl.Int64)
    )
    by_connection = {(vm, connection): (good, bad) for vm, connection, good, bad in to_host.iter_rows()}
    notified = told(tables).filter(True, *scope.span()).group_by("vm", "channel").agg(number=pl.len())
    to_guest = {(vm, channel): number for vm, channel, number in notified.iter_rows()}
    kvm, known_kvm = tables.covered, tables.has("kvm_hv_hypercall")
    rows = []
    for row in facts.channels:
        vm = -1 if row["vm"] is None else row["vm"]
        connection = connection_of(row["channel"])
        good, bad = by_connection.pop((vm, connection), (0, 0))
        own = opened.filter(pl.col("vm") == vm, pl.col("channel") == row["channel"])
        length = _open_ns(own, scope, tables.store.manifest.time.get("last_ns") or 0, None)
        length_kvm = _open_ns(own, scope, 0, kvm) if kvm else 0
        number = to_guest.get((vm, row["channel"]), 0)
        rows.append(
            row
            | {
                "connection": connection,
                "to_host": good if known_kvm else None,
                "to_host_failed": bad if known_kvm else None,
                "to_host_per_s": _rate(good, length_kvm) if known_kvm else None,
                "to_guest": number,
                "to_guest_per_s": _rate(number, length),
            }
        )
    for (vm, connection), (good, bad) in sorted(by_connection.items(), key=str):
        rows.append(
            dict.fromkeys((*_CHANNEL, "to_guest", "to_guest_per_s"))
            | {
                "vm": named(vm),
                "connection": connection,
                "to_host": good,
                "to_host_failed": bad,
                "to_host_per_s": _rate(good, _clipped(kvm, scope) if kvm else 0),
            }
        )
    ns = tables.store.manifest.clock.get("unit", "ns") == "ns"
    for row in rows if not ns else ():
        row["to_host_per_s"] = row["to_guest_per_s"] = None
    return rows


_CHANNEL = (
    "vm",
    "channel",
    "device",
    "guid",
    "identity",
    "vp",
    "gpadl",
    "offered_ns",
    "state",
    "since_ns",
    "until_ns",
    "ended",
    "opened",
    "refused",
)


def _rate(number: int, ns: int) -> float | None:
    return number * 1e9 / ns if ns > 0 else None


def _clipped(span: tuple[int, int], scope: Scope) -> int:
    first = span[0] if scope.first_ns is None else max(span[0], scope.first_ns)
    last = span[1] if scope.last_ns is None else min(span[1], scope.last_ns)
    return max(last - first, 0)


def _open_ns(opened: pl.DataFrame, scope: Scope, last_ns: int, within: tuple[int, int] | None) -> int:
    """How long a channel was open, within the span asked for (and `within`)."""
    total = 0
    for since, until in (
        opened.filter(pl.col("open_ns").is_not_null()).select("open_ns", "until_ns").iter_rows()
    ):
        end = until if until is not None else (last_ns if within is None else within[1])
        span = (since, end) if within is None else (max(since, within[0]), min(end, within[1]))
        total += _clipped(span, scope)
    return total


def message_rows(facts: Facts) -> list[dict[str, Any]]:
    """Messages by VM and type, as they first occur: how long until the answer, of those to the guest the delivery."""
    span = facts.tables.scope.span()
    sent = _sent(facts).with_columns(
        ns=pl.col("delivered_ns") - pl.col("ts_ns"),
        wants=_wants(),
        arrived=pl.col("delivered_seq").is_not_null(),
        repeats=pl.lit(0, pl.Int64),
    )
    given = facts.messages.given.filter(True, *span).with_columns(
        ns=pl.col("delivered_ns") - pl.col("ts_ns"),
        wants=pl.lit(value=False),
        arrived=pl.lit(value=False),
        repeats=pl.col("tries") - 1,
    )
    columns = ("vm", "type", "seq", "ns", "wants", "arrived", "repeats")
    both = pl.concat([sent.select(columns), given.select(columns)])
    figures = {
        (row["vm"], row["type"]): row
        for row in figures_of(both.filter(pl.col("ns") >= 0), ["vm", "type"]).iter_rows(named=True)
    }
    counted = (
        both.group_by("vm", "type")
        .agg(
            count=pl.len().cast(pl.Int64),
            answered=pl.col("arrived").sum().cast(pl.Int64),
            unanswered=(pl.col("wants") & ~pl.col("arrived")).sum().cast(pl.Int64),
            repeated=pl.col("repeats").sum(),
            first=pl.col("seq").min(),
        )
        .sort("vm", "first")
    )
    rows = []
    for row in counted.iter_rows(named=True):
        own = figures.get((row["vm"], row["type"]), {})
        known = MESSAGES.get(row["type"])
        way = None if known is None else known.way
        wants = known is not None and known.answer is not None
        rows.append(
            {
                "vm": named(row["vm"]),
                "type": row["type"],
                "message": message_name(row["type"]),
                "way": None if way is None else way.value,
                "count": row["count"],
                "answered": row["answered"] if wants else None,
                "unanswered": row["unanswered"] if wants else None,
                "repeated": row["repeated"] if way is Way.TO_GUEST else None,
            }
            | {name: own.get(name) for name in FIGURES if name != "count"}
        )
    return rows


def _wants() -> pl.Expr:
    """Whether a message wants an answer; some do only from a version on, and not where the version is not known."""
    since = {m.number: m.answered_since for m in MESSAGES.values() if m.answer is not None}
    least = pl.col("type").replace_strict(since, default=None, return_dtype=pl.Int64)
    return ((least == 0) | (pl.col("spoken") >= least)).fill_null(value=False)


def _sent(facts: Facts) -> pl.DataFrame:
    """Messages of the guest, with `spoken`: the version of the last contact before each."""
    sent = facts.messages.sent.sort("seq")
    contacts = sent.filter(pl.col("type") == INITIATE_CONTACT, pl.col("version").is_not_null())
    contacts = contacts.select("vm", "seq", spoken="version")
    rows = sent.join_asof(contacts, on="seq", by="vm", strategy="backward", check_sortedness=False)
    return rows.filter(True, *facts.tables.scope.span())


def unanswered_rows(facts: Facts) -> list[dict[str, Any]]:
    """Messages of the guest that were not taken up, or wanted an answer and got none, in order."""
    last = facts.tables.store.manifest.time.get("last_ns") or 0
    told_of = facts.tables.has("vmbus_process_incoming_message")
    untaken = pl.col("taken_seq").is_null() & told_of
    why = (
        pl.when(untaken)
        .then(pl.lit(_NOT_TAKEN))
        .when(pl.col("answer_seq").is_null())
        .then(pl.lit(_NOT_ANSWERED))
        .otherwise(pl.lit(_NOT_DELIVERED))
    )
    rows = (
        _sent(facts)
        .filter(untaken | (_wants() & pl.col("delivered_seq").is_null()))
        .with_columns(why=why, waited_ns=last - pl.col("ts_ns"))
    )
    return [
        {
            "vm": named(row["vm"]),
            "ts_ns": row["ts_ns"],
            "seq": row["seq"],
            "vcpu": row["vcpu"],
            "type": row["type"],
            "message": message_name(row["type"]),
            "about": about(row),
            "why": row["why"],
            "tries": row["tries"],
            "waited_ns": row["waited_ns"],
        }
        for row in rows.sort("seq").iter_rows(named=True)
    ]


def call_rows(facts: Facts) -> list[dict[str, Any]]:
    """POST_MESSAGE and SIGNAL_EVENT by VM, connection id, flag number and result."""
    rows = facts.calls.filter(True, *facts.tables.scope.span())
    keys = ["vm", "code", "connection", "flag", "status", "userspace"]
    timed = rows.with_columns(ns=pl.col("end_ns") - pl.col("ts_ns"))
    figures = {
        tuple(row[key] for key in keys): row
        for row in figures_of(timed.filter(pl.col("ns") >= 0), keys).iter_rows(named=True)
    }
    counted = rows.group_by(keys).agg(count=pl.len().cast(pl.Int64)).sort(keys)
    return [
        {
            "vm": named(row["vm"]),
            "call": _CALLS[row["code"]],
            "connection": row["connection"],
            "flag": row["flag"],
            "status": row["status"],
            "result": None if row["status"] is None else status_name(row["status"]),
            "userspace": row["userspace"],
            "count": row["count"],
        }
        | {
            name: figures.get(tuple(row[key] for key in keys), {}).get(name)
            for name in FIGURES
            if name != "count"
        }
        for row in counted.iter_rows(named=True)
    ]


def interrupt_rows(facts: Facts) -> list[dict[str, Any]]:
    """Interrupts of SINTs by vCPU, source, vector, and what they are."""
    rows = facts.raised.filter(True, *facts.tables.scope.span()).with_columns(
        vcpu=pl.col("owner") & 0xFFFF, kind=pl.col("kind").cast(pl.String)
    )
    keys = ["vm", "vcpu", "sint", "vector", "kind"]
    counted = rows.group_by(keys).agg(
        count=pl.len().cast(pl.Int64), eois=pl.col("eoi_seq").is_not_null().sum().cast(pl.Int64)
    )
    return [row | {"vm": named(row["vm"])} for row in counted.sort(keys).to_dicts()]


def conversation_rows(facts: Facts) -> list[dict[str, Any]]:
    """Each message, in order. `done_ns`: delivered, or (of the guest's) its answer was."""
    span = facts.tables.scope.span()
    sent = facts.messages.sent.filter(True, *span).with_columns(
        way=pl.lit(Way.TO_HOST.value), status=pl.lit(None, pl.Int64)
    )
    given = facts.messages.given.filter(True, *span).with_columns(
        way=pl.lit(Way.TO_GUEST.value), answer_ns="ts_ns"
    )
    rows = pl.concat([sent, given], how="diagonal").sort("seq")
    return [
        {
            "vm": named(row["vm"]),
            "vcpu": row["vcpu"],
            "seq": row["seq"],
            "ts_ns": row["ts_ns"],
            "way": row["way"],
            "type": row["type"],
            "message": message_name(row["type"]),
            "about": about(row),
            "size": row["size"],
            "taken_ns": row["taken_ns"],
            "answer_ns": row["answer_ns"] if row["way"] == Way.TO_HOST.value else None,
            "done_ns": row["delivered_ns"],
            "ns": None if row["delivered_ns"] is None else row["delivered_ns"] - row["ts_ns"],
            "tries": row["tries"],
            "status": row["status"],
        }
        for row in rows.iter_rows(named=True)
    ]
