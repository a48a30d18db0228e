"""What markers in a recording say: lines that QEMU's ftrace backend wrote become tables of its events.

The `print` rows stay as they were recorded. A table of decoded rows has their `seq`: it is the same event, read.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hvtrace.parsers.recording import IRQ
from hvtrace.parsers.text.cursor import Text
from hvtrace.parsers.text.events import EventReader
from hvtrace.schema.qemu import QEMU_EVENTS

__all__ = ["Markers"]

MARKER = "print"
#: The common columns of a window's tables.
COMMON = ("seq", "ts_ns", "ts_raw", "cpu", "tid", "comm", IRQ)


class Markers:
    """Reads markers, window by window."""

    def __init__(self) -> None:
        self._readers: dict[str, EventReader] = {}
        #: Lines that begin with an event's name and go on in another way.
        self.not_understood = 0

    def decode(self, tables: Mapping[str, pa.RecordBatch]) -> dict[str, pa.RecordBatch]:
        """Return tables of the events that the window's markers tell of, by name; the rest says nothing here."""
        batch = tables.get(MARKER)
        if batch is None:
            return {}
        column = batch.column("buf")
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        lines = column.dictionary.cast(pa.string())
        names = pc.list_element(pc.split_pattern(pc.fill_null(lines, ""), " ", max_splits=1), 0)
        # One line may stand in many rows: each is read once.
        line_of_row = np.asarray(column.indices.fill_null(-1)).astype(np.int64)
        found: dict[str, pa.RecordBatch] = {}
        for name in pc.unique(names).to_pylist():
            if name not in QEMU_EVENTS:
                continue
            which = np.flatnonzero(np.asarray(pc.equal(names, name)))
            columns, fits = self._read(name, lines.take(pa.array(which)))
            place = np.full(len(lines) + 1, -1)
            place[which[fits]] = np.arange(int(fits.sum()))
            self.not_understood += int(np.isin(line_of_row, which[~fits]).sum())
            rows = np.flatnonzero(place[line_of_row] >= 0)
            if not len(rows):
                continue
            own = pa.array(place[line_of_row[rows]])
            common = {n: batch.column(n).take(pa.array(rows)) for n in COMMON if n in batch.schema.names}
            found[name] = pa.RecordBatch.from_pydict(
                common | {title: values.take(own) for title, values in columns.items()}
            )
        return found

    def _read(self, name: str, lines: pa.Array) -> tuple[dict[str, pa.Array], np.ndarray]:
        """Columns of the lines that are understood, and which are."""
        texts = [line.removeprefix(name).strip() for line in lines.to_pylist()]
        data = [text.encode() for text in texts]
        ends = np.cumsum([len(text) + 1 for text in data], dtype=np.int64) - 1
        starts = ends - np.array([len(text) for text in data], np.int64)
        if name not in self._readers:
            self._readers[name] = EventReader(QEMU_EVENTS[name])
        read = self._readers[name].read(Text(b"\n".join(data) + b"\n"), starts, ends)
        kept = read.only_understood()
        return dict(zip(kept.names, kept.columns, strict=True)), read.understood
