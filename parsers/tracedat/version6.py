"""trace.dat version 6: a strictly sequential header (trace-cmd.dat.v6.5)."""

from __future__ import annotations

from hvtrace.errors import InputError
from hvtrace.parsers.cursor import Cursor
from hvtrace.parsers.recording import Damage
from hvtrace.parsers.tracedat import options
from hvtrace.parsers.tracedat.layout import (
    MAX_COUNT,
    Buffer,
    CpuData,
    Header,
    add_events,
    add_format,
    parse_cmdlines,
    parse_header_page,
)

__all__ = ["read_header", "read_metadata"]


def read_metadata(header: Header, cursor: Cursor) -> None:
    """Steps 1–7: header page and event, formats, kallsyms, printk formats, command lines.

    perf.data's tracing data has the same steps.
    """
    read_header_info(header, cursor)
    for _ in range(_count(cursor, "ftrace formats")):
        add_format(header, cursor, "ftrace")
    add_events(header, cursor)
    cursor.skip(cursor.u32("the size of kallsyms"), "kallsyms")
    cursor.skip(cursor.u32("the size of the printk formats"), "the printk formats")


def read_header_info(header: Header, cursor: Cursor) -> None:
    """Steps 1 and 2: "header_page" and "header_event"."""
    for tag in (b"header_page\0", b"header_event\0"):
        at = cursor.at
        if cursor.take(len(tag), "the header") != tag:
            raise cursor.fail(f"expected {tag[:-1].decode()!r}", at)
        text = cursor.take(cursor.u64("the header"), tag[:-1].decode())
        if tag == b"header_page\0":
            header.page = parse_header_page(text.decode("utf-8", "replace"))


def _count(cursor: Cursor, what: str) -> int:
    count = cursor.u32(f"the number of {what}")
    if count > MAX_COUNT:
        raise cursor.fail(f"{count} {what} announced")
    return count


def read_header(header: Header, cursor: Cursor) -> None:
    """Read all up to and including the per-CPU tables, of the top-level buffer and of the instances."""
    read_metadata(header, cursor)
    header.comms = parse_cmdlines(
        cursor.take(cursor.u64("the size of the command lines"), "the command lines")
    )
    cpus = _count(cursor, "CPUs")
    instances: list[tuple[int, str]] = []
    table_cpus = cpus
    try:
        tag = cursor.take(10, "the section tag")
        if tag.startswith(b"options"):
            while (option := cursor.u16("an option")) != options.DONE:
                size = cursor.u32("an option's size")
                at = cursor.at
                cursor.skip(size, "an option")
                inner = Cursor(cursor.data, cursor.path, at, cursor.at)
                if option == options.BUFFER:
                    instances.append((inner.u64("an instance's offset"), inner.string("an instance's name")))
                elif option == options.CPUCOUNT:
                    table_cpus = min(inner.u32("the CPU count"), MAX_COUNT)
                else:
                    options.read_option(header, option, inner)
            tag = cursor.take(10, "the section tag")
        if tag.startswith(b"latency"):
            header.text_offset = cursor.at
            return
        if not tag.startswith(b"flyrecord"):
            raise cursor.fail(f"unknown section tag {tag!r}", cursor.at - 10)
        header.buffers.append(_table(header, cursor, "", table_cpus))
    except InputError as error:
        header.incomplete = True
        header.damage.append(Damage(error.offset or cursor.at, error.reason))
    for offset, name in instances:
        inner = Cursor(cursor.data, cursor.path, offset)
        try:
            if not inner.take(10, f"the table of instance {name!r}").startswith(b"flyrecord"):
                raise inner.fail(f"no table of instance {name!r} here", offset)
            header.buffers.append(_table(header, inner, name, table_cpus))
        except InputError as error:
            header.incomplete = True
            header.damage.append(Damage(error.offset or offset, error.reason))


def _table(header: Header, cursor: Cursor, name: str, cpus: int) -> Buffer:
    """Per CPU {u64 offset, u64 size}; CPUs beyond the file's end have no data, and that is said later."""
    rows = []
    for cpu in range(cpus):
        if cursor.left < 16:
            header.damage.append(
                Damage(cursor.at, f"the table of buffer {name!r} ends after {cpu} of {cpus} CPUs")
            )
            break
        offset, size = cursor.numbers("QQ", "the table of CPUs")
        rows.append(CpuData(cpu, offset, size))
    return Buffer(name, None, header.page_size, tuple(rows))
