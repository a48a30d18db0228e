"""Counters as the real Perfetto UI understands them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders.perfetto_ui import PerfettoUi, perfetto_ui
from builders.timeline import read_timeline

from hvtrace.export.perfetto import write_trace
from hvtrace.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ui() -> Iterator[PerfettoUi]:
    with perfetto_ui() as page:
        yield page


PATHS = """
WITH RECURSIVE path(id, name) AS (
  SELECT id, name FROM track WHERE parent_id IS NULL
  UNION ALL SELECT t.id, p.name || ' / ' || t.name FROM track t JOIN path p ON t.parent_id = p.id
)
"""


@pytest.mark.parametrize("name", ["two-vms", "baseline-hvmut-haltbig"])
def test_perfetto_holds_every_value(
    ui: PerfettoUi, recorded: Callable[[str], Store], tmp_path: Path, name: str
) -> None:
    """Each sample of each counter, bit for bit, with its unit and the key of the axis it shares."""
    path = tmp_path / "t.pftrace"
    with open(path, "wb") as out:
        write_trace(recorded(name), out)
    ui.open(path)
    ours = read_timeline(path.read_bytes())
    rows = ui.query(
        PATHS
        + "SELECT path.name, c.ts, c.value FROM counter c JOIN path ON c.track_id = path.id ORDER BY c.id"
    )
    theirs: dict[str, list[tuple[int, float]]] = {}
    for track, ts, value in rows:
        theirs.setdefault(track, []).append((ts, value))
    assert theirs == {" / ".join(track): samples for track, samples in ours.counters.items()}
    kinds = {track.split(" / ")[-1] for track in theirs}
    assert {"Exits", "Guest share", "Polling share", "halt_poll_ns", "hlt"} <= kinds
    facts = ui.query(
        PATHS + "SELECT path.name, t.unit, extract_arg(t.source_arg_set_id, 'y_axis_share_key') "
        "FROM counter_track t JOIN path USING (id)"
    )
    descriptors = {" / ".join(track): ours.tracks[track].counter for track in ours.counters}
    assert {track: (unit, key or "") for track, unit, key in facts} == {
        track: (counter.unit_name, counter.y_axis_share_key) for track, counter in descriptors.items()
    }


def test_shares_times_time_is_the_time_of_slices(
    ui: PerfettoUi, recorded: Callable[[str], Store], tmp_path: Path
) -> None:
    """The values, times the known time each is for, add up to the slices called "guest", and those of polling."""
    path = tmp_path / "t.pftrace"
    with open(path, "wb") as out:
        write_trace(recorded("baseline-hvmut-haltbig"), out)
    ui.open(path)
    for counter, condition in (
        ("Guest share", "name = 'guest'"),
        ("Polling share", "name GLOB 'halt poll*'"),
    ):
        [(by_counter,)] = ui.query(
            f"""
            WITH steps AS (
              SELECT t.parent_id, c.ts, c.value, lead(c.ts) OVER (PARTITION BY t.id ORDER BY c.ts) AS until
              FROM counter c JOIN track t ON c.track_id = t.id JOIN track vcpu ON t.parent_id = vcpu.id
              WHERE t.name = '{counter}' AND vcpu.name = 'vCPU 0'
            )
            SELECT sum(value / 100 * (min(s.ts + s.dur, until) - max(s.ts, steps.ts)))
            FROM steps JOIN slice s ON s.track_id = steps.parent_id
            WHERE s.depth = 0 AND s.ts < until AND s.ts + s.dur > steps.ts
            """
        )
        [(by_slices,)] = ui.query(f"SELECT sum(dur) FROM slice WHERE {condition}")
        assert round(by_counter) == by_slices > 0
