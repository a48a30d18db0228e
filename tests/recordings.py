"""Where tests find real recordings: HVTRACE_RECORDINGS, or sample_traces/."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

__all__ = ["BROKEN", "ROOT", "SAMPLES", "UNMODIFIED", "carriers", "counts", "folders", "get"]

SAMPLES = Path(__file__).parent.parent / "sample_traces"
ROOT = Path(os.environ.get("HVTRACE_RECORDINGS") or SAMPLES)

#: A carrier's file, plain or packed, and its key in counts.json.
CARRIERS = ("trace.dat", "trace.v6.dat", "perf.data", "ftrace.txt", "report.txt", "perf-script.txt")


def folders(kind: str) -> list[Path]:
    """Folders of recordings, `kind` "unmodified" or "broken"."""
    return sorted(p for p in (ROOT / kind).iterdir() if (p / "trace.dat").exists())


UNMODIFIED = folders("unmodified")
BROKEN = folders("broken")


def get(name: str) -> Path:
    """Folder of the recording `name`; the test is skipped where it is not among the recordings."""
    for root in (ROOT, SAMPLES):
        for kind in ("unmodified", "broken"):
            if (root / kind / name).is_dir():
                return root / kind / name
    pytest.skip(f"{name} is not among the recordings in {ROOT}")


def carriers(folder: Path) -> dict[str, Path]:
    """Files of a run by carrier."""
    found = {}
    for carrier in CARRIERS:
        for ending in ("", ".zst"):
            if (path := folder / f"{carrier}{ending}").exists():
                found[carrier] = path
    return found


def counts(folder: Path) -> dict[str, dict[str, int]]:
    """counts.json: events by carrier and name."""
    loaded: dict[str, dict[str, int]] = json.loads((folder / "counts.json").read_text())
    return loaded
