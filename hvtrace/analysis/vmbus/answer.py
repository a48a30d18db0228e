"""The conversation of guests with their hosts over VMBus. The answer of `hvtrace vmbus`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl

from hvtrace.analysis.scope import Scope
from hvtrace.analysis.vmbus.balloon import balloons
from hvtrace.analysis.vmbus.calls import calls, received, refused, searched
from hvtrace.analysis.vmbus.channels import channels, gpadls, opens
from hvtrace.analysis.vmbus.connection import connections
from hvtrace.analysis.vmbus.counts import (
    call_rows,
    channel_rows,
    conversation_rows,
    interrupt_rows,
    message_rows,
    unanswered_rows,
)
from hvtrace.analysis.vmbus.interrupts import interrupts
from hvtrace.analysis.vmbus.latencies import FIGURES, Facts, latencies
from hvtrace.analysis.vmbus.messages import messages
from hvtrace.analysis.vmbus.tables import Tables, named
from hvtrace.errors import InputError
from hvtrace.store import Store

__all__ = ["TABLES", "Question", "Vmbus", "vmbus"]

#: What the answer is made of, and the columns of each.
TABLES: dict[str, tuple[str, ...]] = {
    "channels": (
        "vm",
        "channel",
        "connection",
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
        "to_host",
        "to_host_failed",
        "to_host_per_s",
        "to_guest",
        "to_guest_per_s",
    ),
    "messages": (
        "vm",
        "type",
        "message",
        "way",
        "count",
        "answered",
        "unanswered",
        "repeated",
        *(name for name in FIGURES if name != "count"),
    ),
    "unanswered": ("vm", "ts_ns", "seq", "vcpu", "type", "message", "about", "why", "tries", "waited_ns"),
    "calls": ("vm", "call", "connection", "flag", "status", "result", "userspace", *FIGURES),
    "interrupts": ("vm", "vcpu", "sint", "vector", "kind", "count", "eois"),
    "latencies": ("vm", "stage", "sentence", "correlation", "residual_ns", *FIGURES),
    "conversation": (
        "vm",
        "vcpu",
        "seq",
        "ts_ns",
        "way",
        "type",
        "message",
        "about",
        "size",
        "taken_ns",
        "answer_ns",
        "done_ns",
        "ns",
        "tries",
        "status",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question(Scope):
    """What is asked, of which part of the recording. vCPUs do not tell VMBus apart: `vcpu` is refused.

    `table` is that of TABLES which `rows` are. Connections and channels are those of the whole recording; counts and
    times are of what happened, or began, in the span asked for.
    """

    table: str = "channels"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that rows have, in order."""
        return TABLES[self.table]


@dataclass(slots=True)
class Vmbus:
    """The answer. Each of TABLES is a list of rows with those columns; times in ns, null where not known.

    `channels`: to_host counts SIGNAL_EVENTs with the channel's connection id, to_guest QEMU's signals; rates are per
    second of the time in which the channel was open. A connection id that belongs to no known channel is a row, too.
    `messages`: by type; the times are those from a request to the delivery of its answer, of messages to the guest from
    the post to its delivery; `repeated`: posts of a message after its slot was busy. `unanswered`: messages of the
    guest that were not taken up, or wanted an answer and got none. `calls`: POST_MESSAGE and SIGNAL_EVENT by result.
    `interrupts`: of SINTs, by what they are. `latencies`: by stage; `absent`: stages that cannot be told.
    `conversation`: each message by itself.

    `connections`, `gpadls`, `balloon`: as hvtrace.analysis.vmbus.connection, .channels and .balloon have them.
    `search`: by VM, how many posts were refused for their connection id before the first that was taken, and whether
    one was. `told`: "kvm" (from when to when its events are there, or null), "qemu" (whether its events are),
    "residual_ns" (so far may QEMU's stamps be off).
    """

    question: Question
    told: dict[str, Any]
    connections: list[dict[str, Any]] = field(default_factory=list)
    channels: list[dict[str, Any]] = field(default_factory=list)
    gpadls: list[dict[str, Any]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    unanswered: list[dict[str, Any]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    search: list[dict[str, Any]] = field(default_factory=list)
    interrupts: list[dict[str, Any]] = field(default_factory=list)
    latencies: list[dict[str, Any]] = field(default_factory=list)
    absent: list[dict[str, Any]] = field(default_factory=list)
    balloon: list[dict[str, Any]] = field(default_factory=list)
    conversation: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of the table asked for."""
        rows: list[dict[str, Any]] = getattr(self, self.question.table)
        return rows

    @property
    def frame(self) -> pl.DataFrame:
        """These rows as a frame."""
        rows = self.rows
        return pl.DataFrame(
            {name: [row[name] for row in rows] for name in self.question.columns}, strict=False
        )

    def as_dict(self) -> dict[str, Any]:
        """Return question and answer as the JSON form has them."""
        own = {name: getattr(self, name) for name in self.__slots__ if name != "question"}
        return {**asdict(self.question), **own, "rows": self.rows}


def vmbus(store: Store, question: Question = Question()) -> Vmbus:
    """Answer the question from a store. Raises InputError where it holds neither KVM's nor QEMU's events of VMBus."""
    question.check(store)
    if question.vcpu is not None:
        raise InputError(store.path, "VMBus belongs to a VM: ask by --vm")
    tables = Tables(store, question)
    if not tables.qemu and not tables.has("kvm_hv_hypercall", "kvm_hv_synic_set_irq"):
        raise InputError(
            store.path, "holds neither hypercalls nor interrupts of SynIC, nor QEMU's events of VMBus"
        )
    made = calls(tables)
    taken = received(tables, made)
    found = messages(tables, refused(taken))
    opened = opens(found)
    listed = channels(tables, found, opened)
    facts = Facts(tables, made, taken, interrupts(tables), found, listed)
    covered = tables.covered
    answer = Vmbus(
        question,
        {
            "kvm": None if covered is None else list(covered),
            "qemu": tables.qemu,
            "residual_ns": tables.residual_ns,
        },
    )
    answer.connections = connections(found)
    answer.channels = channel_rows(facts, opened)
    answer.gpadls = gpadls(found, opened)
    answer.messages = message_rows(facts)
    answer.unanswered = unanswered_rows(facts)
    answer.calls = call_rows(facts)
    answer.search = [row | {"vm": named(row["vm"])} for row in searched(made).to_dicts()]
    answer.interrupts = interrupt_rows(facts)
    answer.latencies, answer.absent = latencies(facts)
    answer.balloon = balloons(tables)
    answer.conversation = conversation_rows(facts)
    return answer
