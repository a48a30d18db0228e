"""`hvtrace exits` and `perf kvm stat report` say the same of the same recording."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from builders.perf_kvm_stat import perf

from hvtrace.analysis.exits import Exits, Question, exits
from hvtrace.store import Store

RECORDINGS = [
    "clock-mono",
    "kut-hyperv_connections",
    "kut-hyperv_stimer_direct",
    "kut-hyperv_synic",
    "linux-hv",
    "linux-hv-sched",
    "linux-plain",
    "two-vms",
]
EVENTS = ["vmexit", "mmio", "ioport"]


def printed(answer: Exits) -> tuple[dict[str, tuple[str, ...]], tuple[str, str]]:
    """The same of an answer, with as many digits as perf prints."""
    rows = {
        row["reason"]: (
            str(row["count"]),
            f"{100 * row['count_share']:.2f}",
            f"{100 * row['time_share']:.2f}",
            f"{row['min_ns'] / 1000:.2f}",
            f"{row['max_ns'] / 1000:.2f}",
            f"{row['time_ns'] / row['count'] / 1000:.2f}",
            f"{row['deviation']:.2f}",
        )
        for row in answer.rows
    }
    return rows, (str(answer.count), f"{answer.time_ns / 1000:.2f}")


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("name", RECORDINGS)
def test_every_figure_is_that_of_perf(
    perf_data: Callable[[str], Path], recorded: Callable[..., Store], name: str, event: str
) -> None:
    """Samples, shares, minimum, maximum, mean and deviation of every row, and the totals, to the last digit."""
    expected = perf(perf_data(name), event)
    assert expected == printed(exits(recorded(name, "perf.data"), Question(event=event)))


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("vcpu", [0, 1])
@pytest.mark.parametrize("name", ["kut-hyperv_synic", "two-vms"])
def test_every_figure_of_one_vcpu_is_that_of_perf(
    perf_data: Callable[[str], Path], recorded: Callable[..., Store], name: str, vcpu: int, event: str
) -> None:
    """`perf kvm stat report --vcpu N` takes that vCPU of every VM. Its minimum is always 0 and is not compared."""

    def without_minimum(
        answer: tuple[dict[str, tuple[str, ...]], tuple[str, str]],
    ) -> tuple[dict[str, tuple[str, ...]], tuple[str, str]]:
        return {key: (*row[:3], *row[4:]) for key, row in answer[0].items()}, answer[1]

    expected = perf(perf_data(name), event, f"--vcpu={vcpu}")
    own = printed(exits(recorded(name, "perf.data"), Question(event=event, vcpu=vcpu)))
    assert without_minimum(expected) == without_minimum(own)


def test_perf_adds_nested_exits_to_the_others(
    perf_data: Callable[[str], Path], recorded: Callable[..., Store]
) -> None:
    """Here they are rows apart; both together have perf's samples, minimum, maximum and mean."""
    expected, total = perf(perf_data("selftest-hyperv_svm_test"), "vmexit")
    answer = exits(recorded("selftest-hyperv_svm_test", "perf.data"), Question())
    assert {row["nested"] for row in answer.rows if row["reason"] == "npf"} == {False, True}
    assert (str(answer.count), f"{answer.time_ns / 1000:.2f}") == total
    for reason, (samples, _, _, least, most, mean, _) in expected.items():
        rows = [row for row in answer.rows if row["reason"] == reason]
        count = sum(row["count"] for row in rows)
        figures = (
            str(count),
            f"{min(row['min_ns'] for row in rows) / 1000:.2f}",
            f"{max(row['max_ns'] for row in rows) / 1000:.2f}",
            f"{sum(row['time_ns'] for row in rows) / count / 1000:.2f}",
        )
        assert figures == (samples, least, most, mean), reason


def test_perf_counts_pairs_across_losses(
    perf_data: Callable[[str], Path], recorded: Callable[..., Store], tmp_path: Path
) -> None:
    """On a recording with losses, perf's samples are the pairs that count and those in which events were lost.

    Without the table of losses every figure is perf's.
    """
    store = recorded("lossy", "perf.data")
    expected = perf(perf_data("lossy"), "vmexit")
    answer = exits(store)
    assert answer.excluded["lost"] > 0
    assert int(expected[1][0]) == answer.count + answer.excluded["lost"]
    blind = tmp_path / "blind.hvt"
    shutil.copytree(store.path, blind)
    (blind / "lost.parquet").unlink()
    assert expected == printed(exits(Store(blind)))


@pytest.mark.parametrize("name", RECORDINGS)
def test_two_tracers_of_one_run_agree(recorded: Callable[..., Store], name: str) -> None:
    """trace-cmd and perf recorded the same run: the counts of every reason are equal, the time within 5 %.

    Single exits differ by more: a thread is preempted between the stamps of the one and of the other.
    """
    ours, theirs = (exits(recorded(name, carrier)) for carrier in ("trace.dat", "perf.data"))
    assert {r["reason"]: r["count"] for r in theirs.rows} == {r["reason"]: r["count"] for r in ours.rows}
    assert abs(ours.time_ns - theirs.time_ns) <= 0.05 * theirs.time_ns
