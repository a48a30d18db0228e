"""Where a command takes a store it also takes a recording: that is ingested on the way, into a temporary store."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hvtrace.store import is_store

if TYPE_CHECKING:
    from hvtrace.pipeline.ingest import Progress

__all__ = ["store_for"]


def store_for(path: str | os.PathLike[str], progress: Progress | None = None) -> Path:
    """Return the store at `path`; where `path` is a recording, a temporary store of it, removed at exit."""
    if is_store(path):
        return Path(path)
    from hvtrace.pipeline.ingest import ingest

    folder = tempfile.mkdtemp(prefix="hvtrace-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target = Path(folder) / f"{Path(path).name}.hvt"
    ingest([path], target, progress=progress)
    return target
