"""The tables of a store that are not tracepoints: losses, divergences, coverage."""

from __future__ import annotations

import pyarrow as pa

from hvtrace.schema.arrow import arrow_schema
from hvtrace.schema.tracepoint import Field

__all__ = ["COVERAGE", "DIVERGENCES", "LOST", "TABLES", "TABLE_DOCS", "table_schema"]

LOST: tuple[Field, ...] = (
    Field("cpu", "u16", "CPU that lost events; null: all of them, or not known."),
    Field("from_ns", "s64", "Time stamp of the last event before the loss; null: from the start."),
    Field("to_ns", "s64", "Time stamp of the first event after the loss; null: to the end."),
    Field("count", "u64", "Number of events lost; null: not known."),
)

DIVERGENCES: tuple[Field, ...] = (
    Field("rule", "str", "Code of the rule, such as HV501."),
    Field("name", "str", "Name of the rule."),
    Field("severity", "str", "error or warning."),
    Field("seq", "u64", "Rank of the event that diverges."),
    Field("ts_ns", "s64", "Time stamp of that event in ns of the trace clock."),
    Field("vm", "u16", "Virtual machine; null where it is not known."),
    Field("vcpu", "u16", "vCPU id as userspace gave it; null where the event belongs to no vCPU."),
    Field("tracepoint", "str", "Tracepoint of that event."),
    Field("expected", "str", "What the model says must happen."),
    Field("observed", "str", "What the trace shows."),
    Field("message", "str", "The finding in a sentence, with the state that led there."),
    Field("count", "u64", "How many of its kind were folded into this one."),
    Field("last_seq", "u64", "Rank of the last event of its kind."),
    Field("known", "bool", "Accepted by a baseline."),
    Field(
        "history",
        "u64 list",
        "Ranks of the last events of the vCPU when it was found, with the event that diverges, in order; those after "
        "it are what came instead of what had to follow.",
    ),
)

COVERAGE: tuple[Field, ...] = (
    Field("rule", "str", "Code of the rule."),
    Field("verdict", "str", "holds, diverges or unknown."),
    Field("reason", "str", "Why unknown, such as state-unseen; null for the other verdicts."),
    Field("count", "u64", "Number of verdicts of this kind."),
)

#: By the name of the file in a store.
TABLES: dict[str, tuple[Field, ...]] = {"lost": LOST, "divergences": DIVERGENCES, "coverage": COVERAGE}

#: A sentence for each of TABLES.
TABLE_DOCS: dict[str, str] = {
    "lost": "Intervals in which events are known to be lost.",
    "divergences": "What a check found: events that differ from what the model says must happen.",
    "coverage": "What a check could judge, by rule.",
}


def table_schema(name: str) -> pa.Schema:
    """Arrow schema of one of TABLES."""
    return arrow_schema(TABLES[name])
