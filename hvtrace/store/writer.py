"""Writing a store: beside its final name, renamed when whole.

Rows arrive in windows; every table collects them into row groups of about a million rows, which worker threads
encode while the next window is decoded. Memory is bounded by what is collected and what waits to be encoded.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hvtrace.errors import HvtraceError, InputError
from hvtrace.schema.tables import table_schema
from hvtrace.store.manifest import MANIFEST, Manifest

__all__ = ["DECODED", "EVENTS", "StoreWriter"]

#: Rows of a row group, at most a little more.
ROW_GROUP = 1 << 20
#: Bytes collected over all tables before the largest is written early.
COLLECT_BYTES = 96 << 20
#: Bytes that may wait for a worker.
WAITING_BYTES = 96 << 20

#: Ascending by nature: differences are small.
DELTA = ("seq", "ts_ns", "ts_raw")

#: Folders of tables: one file a tracepoint; and what markers say, one file an event of whoever wrote them.
EVENTS, DECODED = "events", "decoded"


class _Table:
    """One event table in the making. Its row groups are written in order, by one worker at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.collected: list[pa.RecordBatch] = []
        self.rows = 0
        self.bytes = 0
        self.queue: deque[list[pa.RecordBatch]] = deque()
        self.running: Future[None] | None = None
        self.writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        if self.writer is None:
            names = set(table.column_names)
            self.writer = pq.ParquetWriter(
                self.path,
                table.schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=[f.name for f in table.schema if pa.types.is_dictionary(f.type)],
                column_encoding={name: "DELTA_BINARY_PACKED" for name in DELTA if name in names},
                write_statistics=[name for name in ("seq", "ts_ns", "vm", "vcpu") if name in names],
            )
        if table.schema != self.writer.schema:
            table = table.cast(self.writer.schema)
        self.writer.write_table(table, row_group_size=2 * ROW_GROUP)


class StoreWriter:
    """A store being written to `target`. Use as a context manager: leaving it without `finish` leaves nothing.

    `prepare` is applied to each row group by the worker that writes it (name, table → table).
    """

    def __init__(
        self,
        target: Path,
        *,
        force: bool = False,
        prepare: Callable[[str, pa.Table], pa.Table] | None = None,
        workers: int | None = None,
    ) -> None:
        self.target = target
        self.force = force
        self._prepare = prepare
        self._check()
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self.directory = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
            (self.directory / EVENTS).mkdir()
            # mkdtemp makes it private; a store is as readable as any file the user makes.
            mask = os.umask(0)
            os.umask(mask)
            self.directory.chmod(0o777 & ~mask)
        except OSError as error:
            raise InputError(target, f"cannot be written: {error.strerror}") from error
        self._tables: dict[str, _Table] = {}
        self._pool = ThreadPoolExecutor(workers or max(os.cpu_count() or 1, 1))
        self._waiting: deque[tuple[Future[None], int]] = deque()
        self._waiting_bytes = 0
        self._done = False

    def _check(self) -> None:
        if not self.target.exists():
            return
        if not (self.target / MANIFEST).is_file():
            raise InputError(self.target, "exists and is no hvtrace store; it is left alone")
        if not self.force:
            raise InputError(self.target, "exists already (--force replaces it)")

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, name: str, batch: pa.RecordBatch, folder: str = EVENTS) -> None:
        """Add rows to the table of event `name` in EVENTS or DECODED; they follow in time those added before."""
        key = name if folder == EVENTS else f"{folder}/{name}"
        table = self._tables.get(key)
        if table is None:
            if "/" in name or name in ("", ".", "..") or len(name) > 200 or not name.isprintable():
                raise HvtraceError(f"an event is named {name[:40]!r}, which cannot name a table")
            (self.directory / folder).mkdir(exist_ok=True)
            table = self._tables[key] = _Table(self.directory / folder / f"{name}.parquet")
        table.collected.append(batch)
        table.rows += batch.num_rows
        table.bytes += batch.nbytes
        if table.rows >= ROW_GROUP:
            self._flush(key, table)
        elif sum(t.bytes for t in self._tables.values()) > COLLECT_BYTES:
            self._flush(*max(self._tables.items(), key=lambda item: item[1].bytes))

    def _flush(self, name: str, table: _Table) -> None:
        if not table.collected:
            return
        size = table.bytes
        table.queue.append(table.collected)
        table.collected, table.rows, table.bytes = [], 0, 0
        if table.running is not None and table.running.done():
            table.running.result()
            table.running = None
        before = table.running
        table.running = self._pool.submit(self._drain, name, table, before)
        self._waiting.append((table.running, size))
        self._waiting_bytes += size
        while self._waiting_bytes > WAITING_BYTES:
            future, size = self._waiting.popleft()
            future.result()
            self._waiting_bytes -= size

    def _drain(self, name: str, table: _Table, before: Future[None] | None) -> None:
        # The pool starts tasks in order, so waiting for an earlier one cannot lock up.
        if before is not None:
            before.result()
        rows = pa.Table.from_batches(_alike(table.queue.popleft())).unify_dictionaries()
        if self._prepare is not None:
            rows = self._prepare(name.removeprefix(f"{DECODED}/"), rows)
        table.write(rows)

    def finish(self, manifest: Manifest) -> None:
        """Write what is left, and the manifest; give the store its name."""
        for name, table in sorted(self._tables.items(), key=lambda item: -item[1].bytes):
            self._flush(name, table)
        for table in self._tables.values():
            if table.running is not None:
                table.running.result()
            if table.writer is not None:
                table.writer.close()
        lost = pa.Table.from_pylist(manifest.lost, schema=table_schema("lost"))
        pq.write_table(lost, self.directory / "lost.parquet", compression="zstd")
        manifest.write(self.directory)
        old = None
        if self.target.exists():
            self._check()
            old = Path(tempfile.mkdtemp(prefix=f".{self.target.name}.old-", dir=self.target.parent))
            self.target.rename(old / self.target.name)
        try:
            self.directory.rename(self.target)
        except OSError as error:
            if old is not None:
                (old / self.target.name).rename(self.target)
            raise InputError(self.target, f"cannot be written: {error.strerror}") from error
        finally:
            if old is not None:
                shutil.rmtree(old, ignore_errors=True)
        self._done = True

    def close(self) -> None:
        """Stop the workers; remove what was not finished."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if not self._done:
            for table in self._tables.values():
                if table.writer is not None:
                    table.writer.close()
            shutil.rmtree(self.directory, ignore_errors=True)


def _alike(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Batches with the first one's schema; a carrier may know fewer columns in a later window."""
    schema = batches[0].schema
    return [batch if batch.schema == schema else batch.cast(schema) for batch in batches]
