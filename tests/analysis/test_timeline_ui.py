"""What Perfetto's own trace processor adds up in a timeline is what `hvtrace exits` and `perf kvm stat` count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders.perf_kvm_stat import perf
from builders.perfetto_ui import PerfettoUi, perfetto_ui

from hvtrace.analysis.exits import Question, exits
from hvtrace.export.perfetto import write_trace
from hvtrace.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ui() -> Iterator[PerfettoUi]:
    with perfetto_ui() as page:
        yield page


#: Exits by reason as perf defines them: from the exit to the next entry, on vCPUs that have entered before.
EXITS = """
WITH states AS (
  SELECT name, category, ts, dur,
    min(iif(category = 'guest', ts, NULL))
      OVER (PARTITION BY track_id ORDER BY ts ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS next_entry,
    min(iif(category = 'guest', ts, NULL)) OVER (PARTITION BY track_id) AS first_entry
  FROM slice WHERE category IN ('guest', 'exit', 'userspace')
)
SELECT name, count(*), sum(next_entry - ts), sum(dur) FROM states
WHERE category = 'exit' AND ts > first_entry AND next_entry IS NOT NULL GROUP BY name
"""


@pytest.mark.parametrize("name", ["kut-hyperv_synic", "two-vms", "linux-hv-sched"])
def test_time_by_reason_is_that_of_exits(
    ui: PerfettoUi, recorded: Callable[..., Store], tmp_path: Path, name: str
) -> None:
    """By reason: how many, the time from exit to entry, and the time of it in the kernel, to the nanosecond."""
    store = recorded(name)
    with open(tmp_path / "t.pftrace", "wb") as out:
        write_trace(store, out)
    ui.open(tmp_path / "t.pftrace")
    answer = exits(store)
    assert sum(answer.excluded[why] for why in ("lost", "backwards", "unattributed")) == 0
    expected = {(r["reason"], r["count"], r["time_ns"], r["kernel_ns"]) for r in answer.rows}
    assert set(ui.query(EXITS)) == expected


@pytest.mark.parametrize("name", ["kut-hyperv_synic", "two-vms"])
def test_time_by_reason_is_that_of_perf(
    ui: PerfettoUi,
    recorded: Callable[..., Store],
    perf_data: Callable[[str], Path],
    tmp_path: Path,
    name: str,
) -> None:
    """The same perf.data through the timeline and through perf: samples by reason, and the mean as perf prints it."""
    with open(tmp_path / "t.pftrace", "wb") as out:
        write_trace(recorded(name, "perf.data"), out)
    ui.open(tmp_path / "t.pftrace")
    rows, (samples, time) = perf(perf_data(name), "vmexit")
    found = ui.query(EXITS)
    assert {r: (str(count), f"{total / count / 1000:.2f}") for r, count, total, _ in found} == {
        r: (figures[0], figures[5]) for r, figures in rows.items()
    }
    assert samples == str(sum(count for _, count, _, _ in found))
    assert time == f"{sum(total for _, _, total, _ in found) / 1000:.2f}"
    assert exits(recorded(name, "perf.data"), Question()).count == int(samples)
