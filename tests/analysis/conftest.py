"""Stores of real recordings, made once."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from recordings import carriers, get

from hvtrace.pipeline.ingest import ingest
from hvtrace.store import Store


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Store]:
    """Name of a recording, and a carrier → its store. Skipped where there is no such file."""
    made: dict[tuple[str, str], Store] = {}

    def store(name: str, carrier: str = "trace.dat") -> Store:
        if (name, carrier) not in made:
            files = carriers(get(name))
            if carrier not in files:
                pytest.skip(f"{name} has no {carrier}")
            path: Path = tmp_path_factory.mktemp("stores") / f"{name}.hvt"
            ingest([files[carrier]], path)
            made[name, carrier] = Store(path)
        return made[name, carrier]

    return store


@pytest.fixture(scope="session")
def perf_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name of a recording → its perf.data, unpacked. Skipped where it has none, or perf or zstd are missing."""
    made: dict[str, Path] = {}

    def path(name: str) -> Path:
        packed = carriers(get(name)).get("perf.data")
        if packed is None:
            pytest.skip(f"{name} has no perf.data")
        if packed.suffix != ".zst":
            return packed
        if shutil.which("zstd") is None:
            pytest.skip("zstd is not installed")
        if name not in made:
            made[name] = tmp_path_factory.mktemp("perf") / "perf.data"
            subprocess.run(["zstd", "-qd", packed, "-o", made[name]], check=True)
        return made[name]

    return path
