"""Event tables of a window out of QEMU's events: the common columns, most of which QEMU does not know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hvtrace.schema.arrow import DICTIONARY

__all__ = ["REALTIME", "joined", "table"]

#: Name of the clock of stamps that are times of the day.
REALTIME = "realtime"


def table(
    seq: npt.NDArray[np.int64],
    ts: npt.NDArray[np.int64],
    tid: pa.Array | None,
    columns: Mapping[str, pa.Array],
) -> pa.RecordBatch:
    """Rows of one event: `seq`, `ts_ns`, `cpu` and `comm` (null: not told), `tid`, and its own columns."""
    number = len(seq)
    return pa.RecordBatch.from_pydict(
        {
            "seq": pa.array(seq.astype(np.uint64)),
            "ts_ns": pa.array(ts),
            "cpu": pa.nulls(number, pa.uint16()),
            "tid": pa.nulls(number, pa.int32()) if tid is None else tid,
            "comm": pa.nulls(number, DICTIONARY),
            **columns,
        }
    )


def joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Rows of several batches of one event as one, by `seq`."""
    whole = pa.Table.from_batches(batches).unify_dictionaries().sort_by("seq")
    return whole.combine_chunks().to_batches()[0]
