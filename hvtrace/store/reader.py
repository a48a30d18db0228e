"""Reading a store: its manifest and its tables, as polars frames or Arrow."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hvtrace.errors import InputError
from hvtrace.schema.tables import TABLES, table_schema
from hvtrace.store.manifest import MANIFEST, Manifest

if TYPE_CHECKING:
    import polars as pl
    import pyarrow.parquet as pq

__all__ = ["Store", "is_store"]


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is the directory of a store."""
    return (Path(path) / MANIFEST).is_file()


class Store:
    """A store on disk. Raises InputError where `path` is none."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise InputError(path, "no such file or directory")
        if not is_store(path):
            raise InputError(path, "not an hvtrace store (no manifest.json in it)")
        self.manifest = Manifest.read(self.path)

    @cached_property
    def tracepoints(self) -> tuple[str, ...]:
        """Tracepoints that have rows, by name."""
        return tuple(sorted(p.stem for p in (self.path / "events").glob("*.parquet")))

    @cached_property
    def decoded(self) -> tuple[str, ...]:
        """Events that markers in the recording tell of, by name; their rows have the markers' `seq`."""
        return tuple(sorted(p.stem for p in (self.path / "decoded").glob("*.parquet")))

    def file(self, table: str) -> Path:
        """Path of a table: a tracepoint's, a decoded event's, or "lost", "divergences", "coverage"."""
        for folder in ("events", "decoded"):
            path = self.path / folder / f"{table}.parquet"
            if path.exists():
                return path
        return self.path / f"{table}.parquet"

    def has(self, table: str) -> bool:
        """Whether the store holds that table."""
        return self.file(table).exists()

    def parquet(self, table: str) -> pq.ParquetFile:
        """Open a table's file, for reading by row groups. Raises InputError."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.ParquetFile(self.file(table))
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(self.file(table), f"cannot be read: {error}") from error

    def scan(self, table: str) -> pl.LazyFrame:
        """A table as a polars LazyFrame. Raises InputError where the store does not have it.

        Columns that tables other than tracepoints have got since the store was written are null.
        """
        import polars as pl

        if not self.has(table):
            raise InputError(self.path, f"the store has no table {table!r}")
        frame = pl.scan_parquet(self.file(table))
        if table not in TABLES:
            return frame
        there = frame.collect_schema().names()
        schema = pl.DataFrame(pl.from_arrow(table_schema(table).empty_table())).schema
        return frame.with_columns(
            pl.lit(None, dtype).alias(name) for name, dtype in schema.items() if name not in there
        )
