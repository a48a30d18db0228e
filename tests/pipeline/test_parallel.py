"""VMs replayed in several processes: the same verdicts as in one, byte for byte."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from recordings import get

from hvtrace.errors import HvtraceError
from hvtrace.pipeline import check as checking
from hvtrace.pipeline import parallel
from hvtrace.pipeline.check import Options, check
from hvtrace.pipeline.ingest import ingest
from hvtrace.pipeline.parallel import in_processes, jobs_for, shares
from hvtrace.render.verdicts import as_json
from hvtrace.store import Store


@pytest.fixture(scope="module", params=["two-vms", "selftest-hyperv_features"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("stores") / f"{request.param}.hvt"
    ingest([get(request.param) / "trace.dat"], path)
    return Store(path)


def serially(work: Any, calls: Any) -> list[Any]:
    """Each share replayed by an engine of its own, in this process."""
    return [work(*call) for call in calls]


def told(store: Store, jobs: int) -> tuple[str, bytes, bytes]:
    answer = as_json(check(store, Options(jobs=jobs)))
    return answer, *(store.file(name).read_bytes() for name in ("divergences", "coverage"))


@pytest.mark.parametrize("jobs", [2, 5])
def test_shares_replayed_apart_find_the_same(
    store: Store, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer and the tables."""
    expected = told(store, 1)
    monkeypatch.setattr(checking, "in_processes", serially)
    assert told(store, jobs) == expected


def test_losses_make_no_difference(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever they are, also where a VM is over before they begin."""
    first, last = store.manifest.time["first_ns"], store.manifest.time["last_ns"]
    assert first is not None
    assert last is not None
    span = last - first
    places = [(0.1, 0.15), (0.3, 0.3), (0.5, 0.6), (0.97, 0.99)]
    lost = [
        {"cpu": 0, "from_ns": first + int(a * span), "to_ns": first + int(b * span), "count": None}
        for a, b in places
    ]
    monkeypatch.setattr(store.manifest, "lost", lost)
    monkeypatch.setattr(checking, "Store", lambda path: store)
    expected = told(store, 1)
    monkeypatch.setattr(checking, "in_processes", serially)
    assert told(store, 2) == expected


def test_processes_give_what_one_gives(tmp_path: Path) -> None:
    """Two real processes."""
    path = tmp_path / "x.hvt"
    ingest([get("two-vms") / "trace.dat"], path)
    assert told(Store(path), 2) == told(Store(path), 1)


def test_shares_are_even_and_complete() -> None:
    """By span; every VM once; the same each time."""
    vms = [{"vm": n, "first_seq": 0, "last_seq": span} for n, span in enumerate([10, 90, 40, 50, None])]
    found = shares(vms, 2)
    assert found == [frozenset({1, 0}), frozenset({3, 2, 4})]
    assert shares(vms, 5) == [frozenset({n}) for n in (1, 3, 2, 0, 4)]


@pytest.mark.parametrize(
    ("total", "vms", "wanted", "jobs"),
    [
        (10, 8, None, 1),
        (10, 8, 3, 3),
        (10, 2, 3, 2),
        (10, 0, 3, 1),
        (10**9, 64, None, 4),
        (10**9, 1, None, 1),
    ],
)
def test_several_processes_only_where_they_help(
    total: int, vms: int, wanted: int | None, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as asked for; for a large recording as many as CPUs; never more than VMs."""
    monkeypatch.setattr(parallel.os, "cpu_count", lambda: 4)
    assert jobs_for(total, vms, wanted) == jobs


def fail(how: str) -> str:
    """What a process may do."""
    if how == "die":
        os._exit(9)
    if how == "complain":
        raise HvtraceError("a table cannot be read")
    return how


def test_a_process_that_fails_is_an_error_and_none_is_left() -> None:
    """Its own words where it has some."""
    with pytest.raises(HvtraceError, match="a table cannot be read"):
        in_processes(fail, [("well",), ("complain",)])
    with pytest.raises(HvtraceError, match="ended before its work was done"):
        in_processes(fail, [("die",), ("well",)])
