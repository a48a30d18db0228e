"""The words in which a tracepoint is declared.

A known tracepoint has one column set, the union over all kernels: a field that a kernel or a carrier does not
have is null, a field that was once narrower is widened, a field that was renamed keeps its newest name.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["TYPES", "Context", "Field", "Named", "Tracepoint"]

#: Column types: the kernel's width and signedness. `str` and `bytes` are variable length.
TYPES = ("u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64", "bool", "str", "bytes")


class Context(Enum):
    """Whose thread an event comes from, and hence how it is attributed to a vCPU."""

    #: Always fired by the vCPU's own thread: the thread decides, and the event is evidence for the thread.
    VCPU = "vcpu"
    #: Names its vCPU in a field, and may come from any thread or from an interrupt.
    NAMED = "named"
    #: Fired by whatever thread; belongs to that thread's vCPU if it is a vCPU thread, to no vCPU otherwise.
    THREAD = "thread"
    #: Belongs to no vCPU (scheduler events, VM-wide events).
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a tracepoint's record.

    `name` is the newest kernel's name, `type` one of TYPES, `doc` one sentence with the unit. `older` lists
    names the same field had in other kernels. `sized_by` names the field that says how many bytes of a byte
    array count; the rest of the array is not kept.
    """

    name: str
    type: str
    doc: str
    older: tuple[str, ...] = ()
    sized_by: str | None = None


@dataclass(frozen=True, slots=True)
class Named:
    """A column of decoded names beside a number: `column` holds `table`'s name for the value of `field`.

    `table` is a key of `hvtrace.schema.names.NAME_TABLES`.
    """

    column: str
    field: str
    table: str
    doc: str


@dataclass(frozen=True, slots=True)
class Tracepoint:
    """One kernel tracepoint: its columns, its older names, the vCPU it names, its text layouts.

    `vcpu_field` is the field that holds the userspace-given vCPU id (None: the thread decides).
    `layouts` are the text forms the kernel and its tools print, newest first; the grammar is described in
    `hvtrace.parsers.text.layout`.
    """

    system: str
    name: str
    doc: str
    fields: tuple[Field, ...]
    context: Context = Context.THREAD
    vcpu_field: str | None = None
    older: tuple[str, ...] = ()
    names: tuple[Named, ...] = ()
    layouts: tuple[str, ...] = ()
