"""What tables a store has, for those who write SQL: rows, columns with their types, a sentence each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

import pyarrow as pa

from hvtrace.errors import InputError
from hvtrace.schema.arrow import ARROW_TYPES
from hvtrace.schema.common import COMMON_COLUMNS, RAW_STAMP
from hvtrace.schema.registry import BY_NAME, event_fields
from hvtrace.schema.tables import TABLE_DOCS, TABLES
from hvtrace.schema.tracepoint import Field
from hvtrace.store import Store

__all__ = ["Column", "Table", "absent", "names", "table", "tables"]

_WORDS = {arrow: word for word, arrow in ARROW_TYPES.items()}


@dataclass(frozen=True, slots=True)
class Column:
    """A column: `type` is a word of hvtrace.schema.tracepoint.TYPES (u64, str …), or Arrow's for others.

    `doc` is its sentence; None where the schema does not know the column.
    """

    name: str
    type: str
    doc: str | None


@dataclass(frozen=True, slots=True)
class Table:
    """A table. `rows` is None where the schema knows the table and the store does not have it."""

    name: str
    rows: int | None
    doc: str | None
    columns: tuple[Column, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the table as the JSON form has it."""
        return asdict(self)


def names(store: Store) -> list[str]:
    """Tables that the store has: tracepoints by name, events decoded from markers, lost, divergences, coverage."""
    return [*store.tracepoints, *store.decoded, *(name for name in TABLES if store.has(name))]


def tables(store: Store) -> list[Table]:
    """Describe all tables of a store."""
    return [table(store, name) for name in names(store)]


def table(store: Store, name: str) -> Table:
    """Describe one table, also one that a store might have and this one has not.

    Raises InputError where neither the store nor the schema knows it.
    """
    declared = {field.name: field for field in _declared(store, name)}
    doc = BY_NAME[name].doc if name in BY_NAME else TABLE_DOCS.get(name)
    if name not in names(store):
        if name not in TABLES and name not in BY_NAME:
            raise InputError(store.path, absent(store, name))
        return Table(name, None, doc, tuple(Column(f.name, f.type, f.doc) for f in declared.values()))
    file = store.parquet(name)
    columns = [
        Column(field.name, _word(field.type), declared[field.name].doc if field.name in declared else None)
        for field in file.schema_arrow
    ]
    there = {column.name for column in columns}
    if name in TABLES:
        # As hvtrace.store.Store.scan reads it.
        columns += [Column(f.name, f.type, f.doc) for f in TABLES[name] if f.name not in there]
    return Table(name, int(file.metadata.num_rows), doc, tuple(columns))


def absent(store: Store, name: str) -> str:
    """Why the store has no such table, and what tables it has.

    A tracepoint without events is not an empty table: whether it never fired or was never recorded is the difference
    between an answer and none.
    """
    there = names(store)
    known = BY_NAME.get(name)
    if name in TABLES:
        why = f"no table {name!r}: "
        why += (
            "the recording was not checked yet (hvtrace replay --check)"
            if name != "lost"
            else "not in this store"
        )
    elif known is not None and known.name != name and known.name in there:
        why = f"no table {name!r}: that tracepoint's newest name is {known.name!r}"
    elif known is not None:
        why = f"no table {name!r}: no such event is in this recording (it never fired, or was not recorded)"
    else:
        why = f"no table {name!r}"
        if close := get_close_matches(name, [*there, *BY_NAME], n=1):
            why += f" (did you mean {close[0]!r}?)"
    return f"{why}; there are {_listed(there)}"


def _declared(store: Store, name: str) -> Iterable[Field]:
    if name in TABLES:
        return TABLES[name]
    own = event_fields(BY_NAME[name]) if name in BY_NAME else ()
    raw = (RAW_STAMP,) if store.manifest.clock.get("raw") else ()
    return (*COMMON_COLUMNS, *raw, *own)


def _word(arrow: pa.DataType) -> str:
    if pa.types.is_list(arrow):
        return f"{_word(arrow.value_type)} list"
    if pa.types.is_dictionary(arrow) or pa.types.is_string(arrow) or pa.types.is_large_string(arrow):
        return "str"
    return _WORDS.get(arrow, str(arrow))


def _listed(there: list[str]) -> str:
    return ", ".join(there) or "none"
