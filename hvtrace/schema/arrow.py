"""Declared columns as Arrow types."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from hvtrace.schema.tracepoint import Field

__all__ = ["ARROW_TYPES", "DICTIONARY", "arrow_schema", "arrow_type"]

#: Names repeat: they are kept as dictionary-encoded strings.
DICTIONARY = pa.dictionary(pa.int32(), pa.string())

ARROW_TYPES: dict[str, pa.DataType] = {
    "u8": pa.uint8(),
    "u16": pa.uint16(),
    "u32": pa.uint32(),
    "u64": pa.uint64(),
    "s8": pa.int8(),
    "s16": pa.int16(),
    "s32": pa.int32(),
    "s64": pa.int64(),
    "bool": pa.bool_(),
    "str": DICTIONARY,
    "bytes": pa.binary(),
}


def arrow_type(field: Field) -> pa.DataType:
    """Arrow type of a declared column; "u64 list" is a list of u64."""
    of, is_list, _ = field.type.partition(" list")
    return pa.list_(ARROW_TYPES[of]) if is_list else ARROW_TYPES[of]


def arrow_schema(fields: Iterable[Field]) -> pa.Schema:
    """Arrow schema of declared columns, in their order."""
    return pa.schema([pa.field(f.name, arrow_type(f)) for f in fields])
