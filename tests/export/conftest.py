"""Stores of real recordings, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from recordings import get

from hvtrace.pipeline.ingest import ingest
from hvtrace.store import Store


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Store]:
    """Name of a recording → its store."""
    made: dict[str, Store] = {}

    def store(name: str) -> Store:
        if name not in made:
            path: Path = tmp_path_factory.mktemp("stores") / f"{name}.hvt"
            ingest([get(name) / "trace.dat"], path)
            made[name] = Store(path)
        return made[name]

    return store
