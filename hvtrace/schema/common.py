"""The columns every event table starts with."""

from __future__ import annotations

from hvtrace.schema.tracepoint import Field

__all__ = ["COLLISION_SUFFIX", "COMMON_COLUMNS", "COMMON_NAMES", "RAW_STAMP", "column_name"]

COMMON_COLUMNS: tuple[Field, ...] = (
    Field("seq", "u64", "Rank of the event in the merged time order of the recording: unique and gapless."),
    Field(
        "ts_ns",
        "s64",
        "Time stamp in ns of the trace clock (in ticks where the manifest's clock.unit says so).",
    ),
    Field("cpu", "u16", "Host CPU that recorded the event."),
    Field("tid", "s32", "Host thread that was running; 0 is the idle task."),
    Field("comm", "str", "Name of that thread, as far as the recording knows it."),
    Field("vm", "u16", "Virtual machine, numbered by first appearance; null where it is not known."),
    Field("vcpu", "u16", "vCPU id as userspace gave it; null where the event belongs to no vCPU."),
)

#: Present only where stamps were converted (x86-tsc): the stamp as the file holds it.
RAW_STAMP = Field("ts_raw", "u64", "Time stamp as recorded: ticks of the trace clock; ns of QEMU's clock.")

COMMON_NAMES: frozenset[str] = frozenset(c.name for c in (*COMMON_COLUMNS, RAW_STAMP))

#: Added to a tracepoint's own field whose name is a common column's.
COLLISION_SUFFIX = "_field"


def column_name(field: str) -> str:
    """Column of a tracepoint's field: its own name, or with a suffix where a common column has that name."""
    return field + COLLISION_SUFFIX if field in COMMON_NAMES else field
