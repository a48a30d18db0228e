"""Every recording gives exactly the events its tracers counted, by name, in every carrier."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from recordings import BROKEN, UNMODIFIED, carriers, counts

from hvtrace.parsers.open import open_recording

FILES = [
    pytest.param(folder, carrier, path, id=f"{folder.name}-{carrier}")
    for folder in (*UNMODIFIED, *BROKEN)
    for carrier, path in carriers(folder).items()
]


@pytest.mark.parametrize(("folder", "carrier", "path"), FILES)
def test_counts_are_those_of_the_recording(folder: Path, carrier: str, path: Path) -> None:
    """Rows by tracepoint equal counts.json (a report's are trace.dat's); `seq` has no gap; nothing is damaged."""
    recording = open_recording(path, 2_600_000)
    found: Counter[str] = Counter()
    for window in recording.windows():
        ranks = np.sort(np.concatenate([t.column("seq").to_numpy() for t in window.tables.values()]))
        assert np.array_equal(ranks, np.arange(window.events))
        found.update({name: table.num_rows for name, table in window.tables.items()})
    expected = counts(folder)["trace.dat" if carrier == "report.txt" else carrier]
    assert dict(found) == expected
    assert recording.damage == []
    recording.close()
