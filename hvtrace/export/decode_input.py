"""Input of fast hypercalls, which comes in registers and so in the trace: the fields by name, as arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from hvtrace.abi.hypercall import HYPERV_HYPERCALLS, InputField, input_fields

__all__ = ["decoded_input"]

#: What a fast call passes in the two registers that are traced (without XMM registers).
_REGISTERS, _REGISTER = 128, 64

#: Shown by its value nowhere.
_RESERVED = "reserved"

#: By code: the fields that lie in the registers.
FIELDS: Mapping[int, tuple[InputField, ...]] = {
    call.code: tuple(
        field
        for field in input_fields(call)
        if field.offset + field.width <= _REGISTERS and field.name != _RESERVED
    )
    for call in HYPERV_HYPERCALLS
}


def decoded_input(rows: pl.DataFrame) -> Iterator[tuple[str, npt.NDArray[Any], npt.NDArray[np.bool_]]]:
    """Yield for rows of kvm_hv_hypercall each field's name, its values, and where a fast call has it.

    TLFS, Hypercall Inputs: the first eight bytes of a fast call's input come in RDX, traced as `ingpa`, the next eight
    in R8, traced as `outgpa`.
    """
    fast = rows["fast"].fill_null(False).to_numpy()
    if not fast.any():
        return
    code = rows["code"].fill_null(0).to_numpy()
    words = [rows[name].fill_null(0).to_numpy() for name in ("ingpa", "outgpa")]
    values: dict[str, npt.NDArray[Any]] = {}
    present: dict[str, npt.NDArray[np.bool_]] = {}
    for number in np.unique(code[fast]).tolist():
        own = fast & (code == number)
        for field in FIELDS.get(number, ()):
            word = words[field.offset // _REGISTER]
            value = word >> np.uint64(field.offset % _REGISTER) & np.uint64((1 << field.width) - 1)
            values.setdefault(field.name, np.zeros(len(rows), np.uint64))[own] = value[own]
            present.setdefault(field.name, np.zeros(len(rows), np.bool_))[own] = True
    for name, column in values.items():
        yield name, column, present[name]
