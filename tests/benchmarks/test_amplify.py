"""A repeated recording is the recording, again and again, later each time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from builders.samples import EVENTS, SAMPLES

from hvtrace.parsers.open import open_recording

AMPLIFY = Path(__file__).parents[2] / "benchmarks" / "amplify.py"
TIMES = 3


def rows(path: Path) -> list[tuple[int, int, int, str]]:
    """(stamp, CPU, thread, tracepoint) of every event, in the recording's order."""
    recording = open_recording(path)
    found = []
    for window in recording.windows():
        numbered = [
            (row["seq"], (row["ts_ns"], row["cpu"], row["tid"], name))
            for name, table in window.tables.items()
            for row in table.select(["seq", "ts_ns", "cpu", "tid"]).to_pylist()
        ]
        found += [row for _, row in sorted(numbered)]
    recording.close()
    return found


@pytest.mark.parametrize("name", ["trace.dat 6", "perf.data", "zstd"])
def test_every_round_holds_the_same_events_one_period_later(name: str, tmp_path: Path) -> None:
    """Also the absolute stamps inside pages move; the order over all rounds is that of time."""
    source, target = tmp_path / "source", tmp_path / "large"
    source.write_bytes(SAMPLES[name]())
    command = [sys.executable, str(AMPLIFY), str(source), str(target), "--times", str(TIMES)]
    done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert done["events"] == TIMES * EVENTS
    assert done["size"] == target.stat().st_size

    once = rows(source)
    expected = [(ts + n * done["period_ns"], *rest) for n in range(TIMES) for ts, *rest in once]
    assert rows(target) == expected
