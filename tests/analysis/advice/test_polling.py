"""Halt polling: burnt for little, or missed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from advice_cases.costs import HLT, SECOND, short_halts, unit
from builders.store import Row, tiny_store

from hvtrace.analysis.advise import Question, advise
from hvtrace.analysis.halt_poll.answer import halt_poll
from hvtrace.store import Store


def halts(times: int, polled: int, slept: int) -> list[Row]:
    """Halts of vCPU 0 that poll in vain for `polled` ns, and sleep; 100 a second."""
    rows: list[Row] = [(0, "kvm_entry", 0, 0, {})]
    for n in range(times):
        at = SECOND + n * 10_000_000
        change = ("kvm_halt_poll_ns", {"grow": True, "new": polled, "old": polled})
        woken = ("kvm_vcpu_wakeup", {"ns": polled + slept, "waited": True, "valid": True})
        rows += unit(at, HLT, change, woken, ns=polled + slept)
    return rows


@pytest.mark.parametrize(("polled", "told"), [(110_000, True), (90_000, False)])
def test_polled_in_vain(polled: int, tmp_path: Path, *, told: bool) -> None:
    """From one per cent of a CPU on, where it saves nothing."""
    store = tiny_store(tmp_path / "a.hvt", halts(300, polled, 3_000_000), polling_cap=10_000_000)
    findings = advise(store, Question(codes=("AD501",))).findings
    assert bool(findings) == told
    if told:
        assert findings[0].evidence[0].sentence == (
            "of 300 halts that polled, 0 ended while they polled (0 ns), and 300 polled in vain (33.0 ms)"
        )


def test_a_halt_without_a_cpu_is_no_polling(recorded: Callable[..., Store]) -> None:
    """Of five seconds of a real guest two halts took 88 ms without sleeping, under a limit of some ms: the thread was
    preempted.
    """
    store = recorded("linux-hv-bigpoll-5s")
    total = halt_poll(store).total
    assert total["burnt_ns"] > 0.01 * store.manifest.time["duration_ns"]
    assert (
        total["successes"] * total["poll_max_ns"] + total["vain_ns"]
        < 0.01 * store.manifest.time["duration_ns"]
    )
    assert advise(store, Question(codes=("AD501",))).findings == []


def test_polling_that_is_off(tmp_path: Path) -> None:
    """Short halts that KVM's default would have ended while polling, and what that would cost and save."""
    store = tiny_store(tmp_path / "a.hvt", short_halts(), polling_cap=0)
    (found,) = advise(store, Question(codes=("AD502",))).findings
    assert found.title == "Halt polling is off, and many of 200 halts are short: each pays for a full wake-up"
    assert found.evidence[0].count is not None
    assert 150 <= found.evidence[0].count <= 200


@pytest.mark.parametrize("cap", [None, 200_000], ids=["not known", "on"])
def test_polling_that_is_not_known_to_be_off(cap: int | None, tmp_path: Path) -> None:
    """Without the host's parameter nobody knows."""
    store = tiny_store(tmp_path / "a.hvt", short_halts(), polling_cap=cap)
    assert advise(store, Question(codes=("AD502",))).findings == []
