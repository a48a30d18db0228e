"""Tape mutants: one event of a clean recording dropped, given twice, moved or altered is found, most of the time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from recordings import get
from tape_mutants import KINDS, Result, equivalent, judge, mutants, table

from hvtrace.pipeline.check import tape_of
from hvtrace.pipeline.ingest import ingest
from hvtrace.replay.tape import TAPE, Event, place_of
from hvtrace.store import Store

#: Recordings, and changes to each.
NAMES = ("baseline-hvmut-msr", "baseline-hvmut-stimer", "kut-hyperv_synic", "linux-6.12-kut-hyperv_synic")
EACH = 60

#: The share that must be found of the changes that no unmodified KVM can have made.
FOUND = {"drop": 0.9, "alter": 0.9, "duplicate": 0.9, "reorder": 0.85}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    """What was found of each change."""
    folder = tmp_path_factory.mktemp("mutants")
    found: list[Result] = []
    for name in NAMES:
        path = folder / f"{name}.hvt"
        ingest([get(name) / "trace.dat"], path)
        store = Store(path)
        tape = [event for window in tape_of(store) for event in window]
        found += judge(store, tape, mutants(tape, EACH, name))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_most_changes_are_found(kind: str, results: list[Result]) -> None:
    """Of each kind, those that no unmodified KVM can have made."""
    own = [result for result in results if result.mutant.kind == kind and not result.mutant.excuse]
    assert len(own) > EACH // 4
    missed = [result.mutant.text for result in own if not result.found]
    assert 1 - len(missed) / len(own) >= FOUND[kind], missed


def test_a_change_is_found_where_it_is(results: list[Result]) -> None:
    """Nine in ten of those that are found are reported within 0.1 ms of the change."""
    found = [result for result in results if result.found and not result.mutant.excuse]
    assert sum(result.near for result in found) >= 0.85 * len(found), table(results)


def test_one_change_is_one_divergence(results: list[Result]) -> None:
    """Seldom more than one rule reports it."""
    counts = Counter(len(result.rules) for result in results if result.found)
    assert counts[1] >= 0.8 * sum(counts.values()), counts


def event(name: str, **fields: int) -> Event:
    return (0, 0, name, place_of(0, 0), 100, *(fields.get(field, 0) for field in TAPE[name]))


def test_what_an_unmodified_kvm_may_do_is_excused() -> None:
    """Userspace's choices, clocks, contexts without an order; nothing of what KVM itself decides."""
    host = event("kvm_hv_synic_set_msr", msr=0x40000092, data=0x10000, host=1)
    assert equivalent("drop", host)
    assert equivalent("alter", host, event("kvm_hv_synic_set_msr", msr=0x40000092, data=5, host=1))
    assert not equivalent("alter", host, event("kvm_hv_synic_set_msr", msr=0x40000092, data=0x10000, host=0))
    config = event("kvm_hv_stimer_set_config", timer_index=1, host=1)
    assert not equivalent("drop", config)
    assert not equivalent("alter", config, event("kvm_hv_stimer_set_config", timer_index=2, host=1))
    clock = event("kvm_msr", ecx=0x40000020, data=1000)
    assert equivalent("alter", clock, event("kvm_msr", ecx=0x40000020, data=1001))
    assert not equivalent("alter", clock, event("kvm_msr", ecx=0x40000020, data=1000, exception=1))
    assert equivalent("reorder", event("kvm_hv_stimer_callback"), event("kvm_entry"))
    assert not equivalent("reorder", event("kvm_hv_stimer_expiration"), event("kvm_hv_stimer_cleanup"))


def test_the_same_seed_gives_the_same_changes(tmp_path: Path) -> None:
    """The measure can be repeated."""
    path = tmp_path / "r.hvt"
    ingest([get(NAMES[0]) / "trace.dat"], path)
    tape = [event for window in tape_of(Store(path)) for event in window]
    assert mutants(tape, 20, "a") == mutants(tape, 20, "a") != mutants(tape, 20, "b")
