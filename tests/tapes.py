"""Little windows written as text, one event a line: `TS CPU TID EVENT field=value …`."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from hvtrace.parsers.recording import IRQ, Clock, Damage, Lost, NotUnderstood, Source, Threads, Window
from hvtrace.schema.arrow import ARROW_TYPES, DICTIONARY
from hvtrace.schema.common import column_name
from hvtrace.schema.registry import BY_NAME
from hvtrace.schema.tracepoint import Context

__all__ = ["Tape", "window"]


def window(text: str, lost: list[Lost] | None = None) -> Window:
    """Return the window of `text`. A `!` after the thread id: recorded in an interrupt."""
    rows: dict[str, list[dict[str, object]]] = {}
    for seq, line in enumerate(filter(None, (line.strip() for line in text.splitlines()))):
        ts, cpu, tid, name, *fields = line.split()
        row: dict[str, object] = {"seq": seq, "ts_ns": int(ts), "cpu": int(cpu), "tid": int(tid.rstrip("!"))}
        row |= {"comm": None, IRQ: tid.endswith("!")}
        for field in fields:
            key, value = field.split("=", 1)
            kind = next(f.type for f in BY_NAME[name].fields if f.name == key)
            row[column_name(key)] = value if kind == "str" else int(value, 0)
        rows.setdefault(name, []).append(row)
    tables = {name: _batch(name, own) for name, own in rows.items()}
    return Window(tables, sum(len(r) for r in rows.values()), lost or [])


def _batch(name: str, rows: list[dict[str, object]]) -> pa.RecordBatch:
    declared = BY_NAME[name]
    types = {
        "seq": pa.uint64(),
        "ts_ns": pa.int64(),
        "cpu": pa.uint16(),
        "tid": pa.int32(),
        "comm": DICTIONARY,
    }
    if declared.context in (Context.NAMED, Context.THREAD):
        types[IRQ] = pa.bool_()
    types |= {column_name(f.name): ARROW_TYPES[f.type] for f in declared.fields}
    arrays = []
    for column, kind in types.items():
        values = [row.get(column) for row in rows]
        if kind == pa.bool_():
            values = [None if v is None else bool(v) for v in values]
        arrays.append(pa.array(values, kind))
    return pa.RecordBatch.from_arrays(arrays, names=list(types))


class Tape:
    """A recording made of windows, for the pipeline's tests."""

    def __init__(self, *windows: Window, threads: Threads | None = None) -> None:
        self.source = Source("tape", 1, "tape")
        self.clock = Clock("local")
        self.kernel = None
        self.facts: dict[str, str] = {}
        self.threads = threads or Threads()
        self.damage: list[Damage] = []
        self.not_understood = NotUnderstood()
        self._windows = windows

    def windows(self, progress: object = None) -> Iterator[Window]:
        del progress
        return iter(self._windows)

    def close(self) -> None:
        pass
