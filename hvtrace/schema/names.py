"""Names for numbers: what stands in a decoded column beside the number it decodes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hvtrace.abi import exit_reasons, hypercall, msr
from hvtrace.schema.arrow import DICTIONARY
from hvtrace.schema.tracepoint import Named

__all__ = ["EXIT_REASON", "NAME_TABLES", "decoded"]

#: The one table whose meaning depends on the instruction set (`isa`).
EXIT_REASON = "exit_reason"

#: Where the instruction set stands in the keys of the table `exit_reason`.
_ISA_SHIFT = 32


def _exit_reasons() -> dict[int, str]:
    """Exit reasons of both instruction sets; the key is isa << 32 | reason (VMX: the basic reason)."""
    tables = ((exit_reasons.ISA_VMX, exit_reasons.VMX), (exit_reasons.ISA_SVM, exit_reasons.SVM))
    return {isa << _ISA_SHIFT | reason: name for isa, table in tables for reason, name in table.items()}


#: Name of the table (`Named.table`) → number → name.
NAME_TABLES: dict[str, Mapping[int, str]] = {
    EXIT_REASON: _exit_reasons(),
    "userspace_exit": exit_reasons.USERSPACE,
    "msr": {row.index: row.name for row in msr.MSRS},
    "hv_hypercall": {call.code: call.name for call in hypercall.HYPERV_HYPERCALLS},
    "kvm_hypercall": {call.code: call.name for call in hypercall.KVM_HYPERCALLS},
}


@cache
def _lookup(table: str) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32], pa.Array]:
    """Sorted keys of a table, the code of each key's name, and the names by code."""
    rows = sorted(NAME_TABLES[table].items())
    names = sorted(set(NAME_TABLES[table].values()))
    code = {name: i for i, name in enumerate(names)}
    keys = np.array([key for key, _ in rows], dtype=np.uint64)
    codes = np.array([code[name] for _, name in rows], dtype=np.int32)
    return keys, codes, pa.array(names, type=pa.string())


def decoded(
    named: Named,
    values: npt.NDArray[Any],
    isa: npt.NDArray[Any] | None = None,
    valid: npt.NDArray[np.bool_] | None = None,
) -> pa.DictionaryArray:
    """Names for a column of numbers (one pass, no Python per row).

    `isa` is needed for the table `exit_reason` only (1 VMX, 2 SVM; anything else has no names). `valid` is
    false where the value is null. The name is null where the value is, or where the table has none for it.
    Every result for one table has the same dictionary, so chunks may be put together as they are.
    """
    keys, codes, names = _lookup(named.table)
    wanted = values.astype(np.uint64)
    if named.table == EXIT_REASON:
        if isa is None:
            raise ValueError(f"{named.column}: exit reasons have names only with their isa")
        basic = np.where(
            isa == exit_reasons.ISA_VMX, wanted & np.uint64(0xFFFF), wanted & np.uint64(0xFFFFFFFF)
        )
        wanted = isa.astype(np.uint64) << np.uint64(_ISA_SHIFT) | basic
    at = np.searchsorted(keys, wanted)
    np.minimum(at, len(keys) - 1, out=at)
    missing = keys[at] != wanted
    if valid is not None:
        missing |= ~valid
    indices = pa.array(codes[at], mask=missing)
    return pa.DictionaryArray.from_arrays(indices, names).cast(DICTIONARY)
