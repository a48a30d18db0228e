"""Recorded halts, run again under other parameters: against hosts that had those parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.polling_host import Guest, Host
from builders.store import Row, tiny_store
from hypothesis import given, settings
from hypothesis import strategies as st

from hvtrace.analysis.halt_poll.answer import HaltPoll, Question, halt_poll
from hvtrace.analysis.halt_poll.recommend import recommend
from hvtrace.analysis.halt_poll.rules import GuestSetting, HostSetting
from hvtrace.analysis.halt_poll.settings import given_host, named, sweep
from hvtrace.analysis.halt_poll.what_if import Outcome, ranked

ARRIVALS = st.lists(st.one_of(st.integers(1, 30_000), st.integers(1, 600_000)), min_size=1, max_size=40)
CAPS = st.sampled_from([0, 20_000, 50_000, 200_000, 500_000])

#: Halts that polling of some length would see the end of, and some that it would not.
MIXED = [
    30_000,
    4_000,
    9_000,
    9_500,
    60_000,
    15_000,
    15_000,
    400_000,
    12_000,
    8_000,
    150_000,
    30_000,
    5_000,
] * 3


def recorded(path: Path, host: Host, arrivals: list[int]) -> HaltPoll:
    rows = host.rows(arrivals)
    own = f"halt_poll_ns={host.cap},grow={host.grow},shrink={host.shrink}"
    return halt_poll(tiny_store(path, rows), Question(what_if=("guest=on",), sweep="auto", own=own))


def of_host(host: Host) -> dict[str, int]:
    """The figures of a host's halts, summed up one by one."""
    ended = [halt for halt in host.halts if not halt.slept]
    failed = [halt for halt in host.halts if halt.slept and halt.poll]
    return {
        "successes": len(ended),
        "failures": len(failed),
        "polled_ns": sum(halt.ns for halt in ended),
        "vain_ns": sum(halt.poll for halt in failed),
    }


def figures(outcome: Outcome) -> dict[str, int]:
    names = ("successes", "failures", "polled_ns", "vain_ns")
    return {name: getattr(outcome, name) for name in names}


@settings(max_examples=40, deadline=None)
@given(
    arrivals=ARRIVALS, cap=CAPS, other=CAPS, shrink=st.sampled_from([0, 2, 3]), slept=st.integers(0, 20_000)
)
def test_other_parameters_bring_about_what_a_host_with_them_would(
    tmp_path_factory: pytest.TempPathFactory,
    arrivals: list[int],
    cap: int,
    other: int,
    shrink: int,
    slept: int,
) -> None:
    """Recorded with one cap, run again with another: exactly the other host's halts, where waking up always takes as
    long."""
    wakes = (0, slept)
    store = tiny_store(tmp_path_factory.mktemp("host") / "t.hvt", Host(cap, wakes=wakes).rows(arrivals))
    asked = f"halt_poll_ns={other},shrink={shrink}"
    answer = halt_poll(store, Question(what_if=(asked,), own=f"halt_poll_ns={cap}"))
    again = Host(
        other, shrink=shrink, wakes=(0, slept if any(h.slept for h in _halts(cap, wakes, arrivals)) else 0)
    )
    for arrival in arrivals:
        again.halt(arrival)
    own, off, found = answer.outcomes
    assert figures(found) == of_host(again)
    assert figures(own) == {name: answer.total[name] for name in figures(own)}
    assert off.burnt_ns == 0


def _halts(cap: int, wakes: tuple[int, int], arrivals: list[int]) -> list[Any]:
    host = Host(cap, wakes=wakes)
    return [host.halt(arrival) for arrival in arrivals]


def test_costs_and_latencies(tmp_path: Path) -> None:
    """Waking up takes 100 ns after polling and 5 µs after sleeping: the mean is theirs, by how many there are."""
    host = Host()
    answer = recorded(tmp_path / "t.hvt", host, MIXED)
    own = answer.outcomes[0]
    assert figures(own) == of_host(host)
    successes, sleeps = own.successes, len(MIXED) - own.successes
    assert successes > 5
    assert own.latency_mean_ns == round((successes * 100 + sleeps * 5_000) / len(MIXED))
    assert (own.latency_p50_ns, own.latency_p99_ns) == (5_000 if sleeps > successes else 100, 5_000)
    assert own.cpu_share == pytest.approx(own.burnt_ns / answer.length_ns)
    off = answer.outcomes[1]
    assert (off.name, off.successes, off.burnt_ns, off.latency_mean_ns) == ("off", 0, 0, 5_000)


def test_guest_side_polling(tmp_path: Path) -> None:
    """The guest polls before it halts: what its governor would do in the recorded idle times."""
    answer = recorded(tmp_path / "t.hvt", Host(cap=0), MIXED)
    guest = Guest()
    for arrival in MIXED:
        guest.idle(arrival)
    found = next(outcome for outcome in answer.outcomes if outcome.name == "guest=on")
    assert found.successes == sum(not vain and polled > 0 for polled, vain in guest.idles)
    assert found.failures == sum(vain for _, vain in guest.idles)
    assert found.burnt_ns == sum(polled for polled, _ in guest.idles)
    assert found.successes > 5


def test_halts_while_the_guest_forbids_polling_stay_as_they_are(tmp_path: Path) -> None:
    """Whatever the host's parameters, and though the guest might poll as well: it does already."""
    forbids: Row = (5, "kvm_msr", 0, 0, {"write": 1, "ecx": 0x4B564D05, "data": 0, "exception": 0})
    rows = Host(cap=0).rows(MIXED)
    asked = Question(what_if=("halt_poll_ns=200000", "guest=on"), own="halt_poll_ns=0")
    answer = halt_poll(tiny_store(tmp_path / "t.hvt", [rows[0], forbids, *rows[1:]]), asked)
    assert answer.total["barred"] == len(MIXED)
    assert [outcome.burnt_ns for outcome in answer.outcomes] == [0, 0, 0, 0]


def test_a_halt_that_was_over_at_once_waits_for_nothing(tmp_path: Path) -> None:
    """It has no wake-up latency, and no setting makes it poll for long."""
    over: Row = (90, "kvm_vcpu_wakeup", 0, 0, {"ns": 40, "waited": False, "valid": True})
    rows = [*Host(cap=0).rows([400_000], begin=0), (500_000, *over[1:])]
    answer = halt_poll(tiny_store(tmp_path / "t.hvt", rows), Question(sweep="auto", own="halt_poll_ns=0"))
    assert (answer.total["at_once"], answer.total["unpolled"]) == (1, 1)
    assert answer.latencies == {"polled": 0, "blocked": 1, "drawn": 0}
    assert {outcome.latency_mean_ns for outcome in answer.outcomes} == {5_000}


def test_latencies_that_are_not_known_are_drawn_from_the_others(tmp_path: Path) -> None:
    """Spread as those are: here every fourth takes long. No chance is in it."""
    values = np.array([1_000, 1_000, 1_000, 9_000])
    drawn = ranked(values, 1_000)
    assert set(drawn.tolist()) == {1_000, 9_000}
    assert np.mean(drawn == 9_000) == pytest.approx(0.25, abs=0.01)
    assert (drawn == ranked(values[::-1].copy(), 1_000)).all()
    assert ranked(values[:0], 3).tolist() == [0, 0, 0]
    rows = [row for n, row in enumerate(Host(cap=0).rows([300_000] * 8)) if n != 1]
    answer = halt_poll(tiny_store(tmp_path / "t.hvt", rows), Question(own="halt_poll_ns=0"))
    assert answer.latencies == {"polled": 0, "blocked": 7, "drawn": 1}
    assert answer.outcomes[1].latency_mean_ns == 5_000


def test_what_is_drawn_is_of_the_same_cause(tmp_path: Path) -> None:
    """Timers wake a sleeper within 2 µs here, interrupts take 9 µs: so they would the halts that polled."""
    rows: list[Row] = [(0, "kvm_write_tsc_offset", 0, 0, {"vcpu_id": 0, "previous_tsc_offset": 0})]
    now = 0
    for n in range(40):
        timer = n % 2 == 0
        cause = "kvm_hv_stimer_callback" if timer else "kvm_apic_accept_irq"
        # Every fourth of each polls and sees its end at once.
        ends = n % 8 < 2
        ns = 5_000 if ends else 300_000
        latency = 0 if ends else (2_000 if timer else 9_000)
        now += 1_000_000
        rows.append((now - latency, cause, 0, 0, {}))
        rows.append((now, "kvm_vcpu_wakeup", 0, 0, {"ns": ns, "waited": not ends, "valid": True}))
    changes = [
        (ts, "kvm_halt_poll_ns", 0, 0, {"grow": True, "vcpu_id": 0, "new": 10_000, "old": 10_000})
        for ts, table, _, _, told in rows
        if table == "kvm_vcpu_wakeup" and not told["waited"]
    ]
    rows = sorted([*rows, *changes], key=lambda row: (row[0], row[1] == "kvm_vcpu_wakeup"))
    answer = halt_poll(tiny_store(tmp_path / "t.hvt", rows, polling_cap=200_000))
    off = answer.outcomes[1]
    assert answer.total["successes"] == 10
    assert off.latency_mean_ns == (2_000 + 9_000) / 2


def outcome(name: str, burnt: int, latency: int | None) -> Outcome:
    return Outcome(name, {}, 0, 0, burnt, 0, None, latency, latency, latency)


@pytest.mark.parametrize(("prefer", "chosen"), [("cpu", "b"), ("balance", "c"), ("latency", "d")])
def test_the_setting_recommended(prefer: str, chosen: str) -> None:
    """Of what can be saved: half, cheaply; 90 %, where the price is fair; all of it, at any price."""
    off = outcome("off", 0, 100_000)
    # Of 10 halts each waits 50, 74, 75 or 90 µs less, for 1.2, 9.9, 10.7 or 11 times the waiting saved.
    others = [
        outcome("b", 600_000, 50_000),
        outcome("c", 7_300_000, 26_000),
        outcome("c'", 8_000_000, 25_000),
        outcome("d", 9_900_000, 10_000),
    ]
    found = recommend([off, outcome("dear", 9_800_000, 26_000), *others], off, prefer, 10)
    assert found is not None
    assert (found.name, found.edge) == (chosen, chosen == "d")
    assert found.saving_ns == {"b": 50_000, "c": 74_000, "d": 90_000}[chosen]
    assert found.obtainable_ns == {"b": 50_000, "c": 74_000, "d": 90_000}[chosen]
    assert found.price == pytest.approx({"b": 1.2, "c": 9.86, "d": 11}[chosen], abs=0.01)


def test_the_least_cpu_time_for_most_of_the_saving() -> None:
    """The last tenth of what can be saved is not worth another part of CPU time."""
    off = outcome("off", 0, 100_000)
    found = recommend([off, outcome("a", 10, 27_000), outcome("b", 90, 20_000)], off, "balance", 10)
    assert found is not None
    assert (found.name, found.share) == ("a", 73 / 80)


def test_no_polling_is_recommended_where_it_does_not_pay() -> None:
    """It saves less than one part in twenty, or costs too much; where no latency is known nothing is said."""
    off = outcome("off", 0, 100_000)
    little = recommend([off, outcome("own", 50, 95_001)], off, "latency", 10)
    assert little is not None
    assert (little.name, little.share) == ("off", None)
    assert "less than 5%" in little.reason
    dear = recommend([off, outcome("own", 10_000_000, 50_000)], off, "balance", 10)
    assert dear is not None
    assert (dear.name, dear.share) == ("off", None)
    assert "more than 10 times" in dear.reason
    assert recommend([off], outcome("off", 0, None), "balance", 10) is None


OWN = HostSetting(200_000, shrink=2)


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("off", HostSetting(0, shrink=2)),
        ("halt_poll_ns=50000", HostSetting(50_000, shrink=2)),
        ("halt_poll_ns=50_000, grow=3 ,grow_start=7,shrink=0", HostSetting(50_000, 3, 7, 0)),
        ("halt_poll_ns_grow=3,halt_poll_ns_shrink=0", HostSetting(200_000, 3)),
        ("vm_cap=100000", HostSetting(200_000, shrink=2, vm_cap=100_000)),
        ("guest=on", GuestSetting()),
        ("guest=on,guest_halt_poll_ns=9,guest_halt_poll_allow_shrink=N", GuestSetting(9, allow_shrink=False)),
    ],
)
def test_settings_in_words(text: str, setting: HostSetting | GuestSetting) -> None:
    """What is not said is as in the recording; of a guest that polls, as its module has it."""
    assert named(text, OWN)[:2] == (text, setting)


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "halt_poll_ns", "halt_poll_ns=", "halt_poll_ns=-1", "halt_poll_ns=1e5", "halt_poll_ns=4294967296",
        "grow=1,grow=2", "sleep=1", "guest=off", "guest=on,grow=2", "guest=on,guest_halt_poll_allow_shrink=7",
    ],
)  # fmt: skip
def test_words_that_are_no_setting(text: str) -> None:
    """Each is refused; a number is one of the kernel's unsigned ints."""
    with pytest.raises(ValueError, match=r"\S"):
        named(text, OWN)


def test_grids() -> None:
    """A grid in steps, with no polling for 0."""
    assert [one[0] for one in sweep("halt_poll_ns=0:100000:50000", OWN)] == [
        "off", "halt_poll_ns=50000", "halt_poll_ns=100000",
    ]  # fmt: skip
    assert [one[1].begins(10**9) for one in sweep("vm_cap=0:20:10", OWN)] == [0, 10, 20]
    assert len(sweep("auto", OWN)) == 8
    for wrong in (
        "halt_poll_ns=5:1:1",
        "halt_poll_ns=0:1:0",
        "grow=1:2:1",
        "1:2",
        "halt_poll_ns=0:1000000:1",
    ):
        with pytest.raises(ValueError, match=r"halt_poll_ns|FIRST|settings"):
            sweep(wrong, OWN)
    assert given_host("halt_poll_ns=5,vm_cap=6") == {"cap": 5, "vm_cap": 6}
