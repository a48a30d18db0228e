"""The rules of halt polling, and the machine that runs many halts through them, against the rules written plainly."""

from __future__ import annotations

import numpy as np
from builders.polling_host import Guest, Host
from hypothesis import given, settings
from hypothesis import strategies as st

from hvtrace.analysis.halt_poll.machine import values_of, walks
from hvtrace.analysis.halt_poll.rules import GuestSetting, Halts, HostSetting
from hvtrace.replay.model.halt_poll import Learnt, Parameters, due

CAPS = st.one_of(st.sampled_from([0, 1, 10_000, 200_000, 2**32 - 1]), st.integers(0, 500_000))
SETTINGS = st.builds(
    HostSetting,
    cap=CAPS,
    grow=st.integers(0, 5),
    start=st.sampled_from([0, 1, 7_000, 10_000, 300_000]),
    shrink=st.integers(0, 4),
    clamps=st.booleans(),
    floors=st.booleans(),
)
GUESTS = st.builds(
    GuestSetting,
    cap=st.integers(1, 300_000),
    grow=st.integers(1, 4),
    start=st.integers(1, 100_000),
    shrink=st.integers(0, 4),
)
#: Many halts about as long as polling takes, some much longer.
ARRIVALS = st.lists(
    st.one_of(st.sampled_from([1, 10_000, 20_000]), st.integers(1, 30_000), st.integers(1, 600_000)),
    max_size=60,
)
WAKES = st.tuples(st.integers(0, 300), st.integers(0, 60_000))


def halts_of(vcpus: list[list[int]], wakes: tuple[int, int]) -> Halts:
    arrival = np.array([a for own in vcpus for a in own], np.int64)
    first = np.array([0 if n == 0 else -1 for own in vcpus for n in range(len(own))], np.int64)
    return Halts(arrival, arrival + wakes[0], arrival + wakes[1], np.ones(len(arrival), np.bool_), first)


def plainly(setting: HostSetting, vcpus: list[list[int]], wakes: tuple[int, int]) -> list[int]:
    """Polling times before each halt, halt by halt."""
    found = []
    for arrivals in vcpus:
        host = Host(
            setting.cap, setting.grow, setting.start, setting.shrink, setting.clamps, setting.floors, wakes
        )
        found += [host.halt(arrival).poll for arrival in arrivals]
    return found


@settings(deadline=None)
@given(st.lists(SETTINGS, min_size=1, max_size=10), st.lists(ARRIVALS, min_size=1, max_size=3), WAKES)
def test_all_halts_at_once_are_what_they_are_one_by_one(
    choices: list[HostSetting], vcpus: list[list[int]], wakes: tuple[int, int]
) -> None:
    """Under any settings, of any vCPUs: the polling time before each halt."""
    vcpus = [own for own in vcpus if own]
    for setting, walk in zip(choices, walks(choices, halts_of(vcpus, wakes)), strict=True):
        assert walk.tolist() == plainly(setting, vcpus, wakes)


def test_pieces_are_joined() -> None:
    """Tens of thousands of halts are cut into pieces; nothing shows where."""
    draw = np.random.default_rng(1)
    arrivals = np.exp(draw.normal(10.5, 1.5, 30_000)).astype(np.int64) + 1
    vcpus = [arrivals[:20_000].tolist(), arrivals[20_000:].tolist()]
    choices = [HostSetting(200_000), HostSetting(200_000, shrink=2), HostSetting(50_000, grow=3, shrink=2)]
    for setting, walk in zip(choices, walks(choices, halts_of(vcpus, (100, 5_000))), strict=True):
        assert walk.tolist() == plainly(setting, vcpus, (100, 5_000))
        assert len(np.unique(walk)) > 4


@settings(deadline=None)
@given(st.lists(GUESTS, min_size=1, max_size=4), ARRIVALS, st.integers(0, 60_000))
def test_a_guest_that_polls(choices: list[GuestSetting], arrivals: list[int], slept: int) -> None:
    """The governor's limit before each idle time, idle time by idle time."""
    found = walks(choices, halts_of([arrivals], (0, slept)))
    for setting, walk in zip(choices, found, strict=True):
        guest = Guest(setting.cap, setting.grow, setting.start, setting.shrink, slept)
        limits = []
        for arrival in arrivals:
            limits.append(guest.limit)
            guest.idle(arrival)
        assert walk.tolist() == limits


def test_edges_of_a_guest_that_polls() -> None:
    """HLT that took as long as the limit changes nothing, as long as the cap grows it, a moment longer shrinks it."""
    setting, slept = GuestSetting(), 0
    after = {
        limit + left: int(setting.after(np.array([limit]), halts_of([[limit + left]], (0, slept)))[0])
        for limit, left in ((50_000, 50_000), (50_000, 200_000), (50_000, 200_001), (200_000, 200_000))
    }
    assert after == {100_000: 50_000, 250_000: 100_000, 250_001: 25_000, 400_000: 200_000}


@settings(deadline=None)
@given(SETTINGS, st.integers(0, 2**32 - 1), st.one_of(st.integers(0, 400_000), st.integers(0, 2**33)))
def test_the_rules_are_those_the_replay_judges_by(setting: HostSetting, poll: int, ns: int) -> None:
    """What is due after a halt, and what the values become: as in the reference model."""
    one, time = np.array([poll], np.int64), np.array([ns], np.int64)
    grows, shrinks = (bool(flag[0]) for flag in setting.due(one, time))
    assert {"grow": (True, False), "shrink": (False, True), "": (False, False)}[
        due(poll, ns, setting.cap)
    ] == (
        grows,
        shrinks,
    )
    model = Learnt(
        Parameters(setting.cap, setting.grow, setting.start, setting.shrink), setting.clamps, setting.floors
    )
    assert model.shrunk(poll) == (int(setting.shrunk(one)[0]),)
    assert model.grown(poll, setting.cap) == (int(setting.grown(one)[0]),)


def test_values_that_a_polling_time_takes() -> None:
    """From 0 on, doubled until the cap holds it; shrunk, until it is below the start."""
    assert values_of(HostSetting(200_000), []) == [0, 10_000, 20_000, 40_000, 80_000, 160_000, 200_000]
    assert values_of(HostSetting(60_000, shrink=2), []) == [0, 10_000, 15_000, 20_000, 30_000, 40_000, 60_000]
    assert values_of(HostSetting(0), [30_000]) == [0]
    assert values_of(HostSetting(50_000), [30_000]) == [0, 10_000, 20_000, 30_000, 40_000, 50_000]


def test_odd_factors_lead_to_many_values() -> None:
    """There is no table of them; what they come to is the same."""
    setting = HostSetting(200_000, grow=3, shrink=2)
    assert values_of(setting, []) is None
    assert values_of(HostSetting(200_000, grow=4, shrink=2), []) is not None
