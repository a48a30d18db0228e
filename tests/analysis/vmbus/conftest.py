"""Stores of recordings with QEMU's own events, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from recordings import get

from hvtrace.pipeline.ingest import ingest
from hvtrace.store import Store


@pytest.fixture(scope="session")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Store]:
    """Name of a recording → its store, with QEMU's log where there is one. Skipped where there is no such recording."""
    made: dict[str, Store] = {}

    def store(name: str) -> Store:
        if name not in made:
            files = [get(name) / file for file in ("trace.dat", "qemu-trace.log")]
            path: Path = tmp_path_factory.mktemp("stores") / f"{name}.hvt"
            ingest([file for file in files if file.exists()], path)
            made[name] = Store(path)
        return made[name]

    return store
