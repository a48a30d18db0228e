"""The Arrow tables on disk: a directory `NAME.hvt` of Parquet files and a manifest, readable without hvtrace."""

from hvtrace.store.manifest import FORMAT_VERSION, Manifest
from hvtrace.store.reader import Store, is_store
from hvtrace.store.writer import DECODED, EVENTS, StoreWriter

__all__ = ["DECODED", "EVENTS", "FORMAT_VERSION", "Manifest", "Store", "StoreWriter", "is_store"]
