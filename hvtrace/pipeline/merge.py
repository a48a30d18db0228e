"""Several recordings of one run (one per buffer instance, say) as one stream of windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hvtrace.parsers.recording import Window

__all__ = ["merge"]


@dataclass(slots=True)
class _Head:
    """The rest of a recording's current window: stamps by seq, and how many of its rows have gone."""

    windows: Iterator[Window]
    window: Window | None = None
    ts: npt.NDArray[np.int64] | None = None
    gone: int = 0

    def advance(self) -> None:
        self.window, self.gone = next(self.windows, None), 0
        if self.window is not None:
            self.ts = np.zeros(self.window.events, np.int64)
            for table in self.window.tables.values():
                self.ts[table.column("seq").to_numpy().view(np.int64)] = table.column("ts_ns").to_numpy()
            # Rows are in time order already, but for stamps a carrier kept although they go back.
            self.ts = np.maximum.accumulate(self.ts)


def merge(recordings: Sequence[Iterator[Window]]) -> Iterator[Window]:
    """Yield windows of all recordings' events in one time order; ties in the order given."""
    heads = [_Head(windows) for windows in recordings]
    for head in heads:
        head.advance()
    while live := [h for h in heads if h.window is not None and h.ts is not None]:
        until = min(int(h.ts[-1]) if len(h.ts) else 0 for h in live if h.ts is not None)
        parts: list[tuple[Window, int, int, npt.NDArray[np.int64]]] = []
        for head in live:
            assert head.window is not None
            assert head.ts is not None
            stop = int(np.searchsorted(head.ts, until, "right"))
            parts.append((head.window, head.gone, max(stop, head.gone), head.ts[head.gone : stop]))
            head.gone = max(stop, head.gone)
        yield _joined(parts)
        for head in live:
            assert head.ts is not None
            if head.gone >= len(head.ts):
                head.advance()


def _joined(parts: list[tuple[Window, int, int, npt.NDArray[np.int64]]]) -> Window:
    stamps = np.concatenate([ts for *_, ts in parts])
    rank = np.empty(len(stamps), np.int64)
    rank[np.argsort(stamps, kind="stable")] = np.arange(len(stamps))
    tables: dict[str, list[pa.RecordBatch]] = {}
    lost = []
    offset = 0
    for window, start, stop, ts in parts:
        if start == 0:
            lost += window.lost
        for name, table in window.tables.items():
            seq = table.column("seq").to_numpy().view(np.int64)
            first, last = np.searchsorted(seq, start, "left"), np.searchsorted(seq, stop, "left")
            if first == last:
                continue
            own = rank[offset + seq[first:last] - start].astype(np.uint64)
            rows = table.slice(int(first), int(last - first)).set_column(0, "seq", pa.array(own))
            tables.setdefault(name, []).append(rows)
        offset += len(ts)
    return Window({name: _one(batches) for name, batches in tables.items()}, len(stamps), lost)


def _one(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    table = pa.Table.from_batches([b.cast(batches[0].schema) for b in batches]).unify_dictionaries()
    return table.sort_by("seq").combine_chunks().to_batches()[0]
