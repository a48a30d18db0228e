"""The input of fast hypercalls by field."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from hvtrace.export.decode_input import decoded_input

SCHEMA = {"code": pl.UInt16, "fast": pl.Boolean, "ingpa": pl.UInt64, "outgpa": pl.UInt64}


def calls(**columns: list[Any]) -> pl.DataFrame:
    """Rows of kvm_hv_hypercall."""
    return pl.DataFrame(columns, schema=SCHEMA)


@pytest.mark.parametrize(
    ("code", "ingpa", "outgpa", "fields"),
    [
        (0x000B, 0x0000_0001_0000_00FB, 0b101, {"vector": 0xFB, "vp_mask": 0b101}),
        (0x005D, 0x0003_0001_0001, 0xDEAD, {"connection_id": 0x10001, "flag_number": 3}),
        (0x0008, 0x7FF, 0, {"spin_count": 0x7FF}),
        (0x7777, 1, 2, {}),
    ],
)
def test_fields_of_a_fast_call(code: int, ingpa: int, outgpa: int, fields: dict[str, int]) -> None:
    """The first eight bytes of the input come in `ingpa`, the next eight in `outgpa`; reserved fields are left out."""
    rows = calls(code=[code], fast=[True], ingpa=[ingpa], outgpa=[outgpa])
    found = {name: int(values[0]) for name, values, present in decoded_input(rows) if present[0]}
    assert found == fields


def test_a_slow_call_has_addresses_there() -> None:
    """Nothing is decoded where the two words are where input and output lie in memory."""
    rows = calls(code=[0x0B], fast=[False], ingpa=[0x1000], outgpa=[0])
    assert list(decoded_input(rows)) == []


def test_calls_side_by_side() -> None:
    """A field is there for the calls that have it, and for no other."""
    rows = calls(
        code=[0x0B, 0x5D, 0x0B],
        fast=[True, True, False],
        ingpa=[0xFB, 0x10001, 0x1000],
        outgpa=[1, 0, 0],
    )
    there = {name: present.tolist() for name, _, present in decoded_input(rows)}
    assert there["vector"] == [True, False, False]
    assert there["connection_id"] == [False, True, False]
