"""Blocks of time compared by rank: what is found, and how often chance is taken for a change."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import false_discovery_control, mannwhitneyu

from hvtrace.analysis.diff.significance import (
    BLOCKS,
    F64,
    FEWEST,
    Series,
    adjusted,
    cliffs_delta,
    compare,
    hodges_lehmann,
    probability,
)

Process = Callable[[np.random.Generator], F64]


def rate(numbers: F64) -> Series:
    """A series whose blocks have these numbers."""
    return Series(numbers, np.ones_like(numbers))


def correlated(phi: float) -> Process:
    """Each block is `phi` of the one before, and chance."""

    def process(chance: np.random.Generator) -> F64:
        steps = chance.standard_normal(BLOCKS + 200)
        numbers = np.empty_like(steps)
        last = 0.0
        for place, step in enumerate(steps):
            last = numbers[place] = phi * last + step
        return numbers[-BLOCKS:] + 100

    return process


def bursts(chance: np.random.Generator) -> F64:
    """A quiet load, and now and then a burst far above it."""
    numbers = chance.poisson(3, BLOCKS).astype(float)
    for _ in range(chance.poisson(6)):
        numbers[chance.integers(BLOCKS)] += chance.exponential(60)
    return numbers


def switching(chance: np.random.Generator) -> F64:
    """Counts of a load that changes between two levels, every third block on average."""
    high, level = [], int(chance.integers(2))
    for _ in range(BLOCKS):
        level ^= int(chance.random() < 0.3)
        high.append(level)
    return chance.poisson(20 + 10 * np.array(high)).astype(float)


STEADY = {
    "independent": correlated(0.0),
    "weakly correlated": correlated(0.3),
    "correlated": correlated(0.5),
    "strongly correlated": correlated(0.7),
    "bursts": bursts,
    "switching": switching,
}


@pytest.mark.parametrize("name", STEADY)
def test_chance_is_taken_for_a_change_no_oftener_than_said(name: str) -> None:
    """Of pairs of the same steady process 5 % have p below 0.05, as 5 % must; three standard errors are let pass."""
    chance, pairs = np.random.default_rng(20), 400
    process = STEADY[name]
    found = [compare(rate(process(chance)), rate(process(chance))).p for _ in range(pairs)]
    alarms = sum(p is not None and p < 0.05 for p in found) / pairs
    assert alarms <= 0.05 + 3 * (0.05 * 0.95 / pairs) ** 0.5
    # A test that never says anything would pass that, too.
    assert sum(p is not None for p in found) > pairs / 4


@pytest.mark.parametrize("name", ["independent", "bursts", "switching"])
def test_many_figures_of_one_recording(name: str) -> None:
    """Of pairs with forty figures each, few have a false alarm: q corrects for the number of figures."""
    chance, pairs, figures = np.random.default_rng(21), 60, 40
    process = STEADY[name]
    alarms = 0
    for _ in range(pairs):
        p = [compare(rate(process(chance)), rate(process(chance))).p for _ in range(figures)]
        alarms += min(adjusted([value for value in p if value is not None])) <= 0.05
    assert alarms / pairs <= 0.05 + 3 * (0.05 * 0.95 / pairs) ** 0.5


def test_a_naive_test_takes_bursts_of_events_for_a_change() -> None:
    """What the blocks are for: events compared one by one find a change in every other pair of the same process."""
    chance, pairs = np.random.default_rng(22), 100
    alarms = 0
    for _ in range(pairs):
        sides = [np.repeat(correlated(0.5)(chance), 100) + chance.standard_normal(BLOCKS * 100) for _ in "ab"]
        alarms += mannwhitneyu(*sides, method="asymptotic").pvalue < 0.05
    assert alarms > pairs / 2


@pytest.mark.parametrize(("shift", "least"), [(1.0, 0.8), (2.0, 0.85)])
def test_a_change_is_found(shift: float, least: float) -> None:
    """Of independent blocks one standard deviation apart; those not found were called phases, not equal."""
    chance, pairs = np.random.default_rng(23), 200
    process = STEADY["independent"]
    verdicts = [compare(rate(process(chance)), rate(process(chance) + shift)) for _ in range(pairs)]
    found = [verdict for verdict in verdicts if verdict.p is not None and verdict.p < 0.01]
    assert len(found) / pairs >= least
    assert np.mean([verdict.delta or 0 for verdict in found]) > 0.4
    assert np.mean([verdict.shift or 0 for verdict in found]) == pytest.approx(shift, rel=0.1)


def test_recordings_of_different_length() -> None:
    """The longer one has more blocks of the same width."""
    chance = np.random.default_rng(24)
    verdict = compare(rate(chance.normal(10, 1, 64)), rate(chance.normal(10, 1, 640)))
    assert verdict.p is not None
    assert verdict.blocks[1] == pytest.approx(10 * verdict.blocks[0], rel=0.1)


def test_phases_are_no_sample() -> None:
    """First one load, then another: nobody knows how long the next phase would be."""
    chance = np.random.default_rng(25)
    boot = np.concatenate([chance.normal(100, 1, 32), chance.normal(10, 1, 32)])
    verdict = compare(rate(boot), rate(boot[::-1] * 2))
    assert (verdict.p, verdict.why, verdict.blocks) == (None, "phases", (0, 0))


def test_few_blocks_say_nothing() -> None:
    """Neither do few events: blocks are lengthened until they have some."""
    assert compare(rate(np.arange(FEWEST - 1.0)), rate(np.arange(FEWEST - 1.0))).why == "few"
    rare = np.zeros(64)
    rare[::16] = 1
    assert compare(Series(rare * 5, rare, ratio=True), Series(rare * 5, rare, ratio=True)).why == "few"


def test_blocks_of_which_little_was_recorded_do_not_count() -> None:
    """Their rate says little."""
    exposure = np.ones(64)
    exposure[10:20] = 0.1
    series = Series(exposure * 7, exposure)
    assert series.joined(1).tolist() == pytest.approx([7.0] * 54)
    assert series.joined(32).tolist() == pytest.approx([7.0] * 2)


def test_equal_recordings() -> None:
    """No change at all is no change by chance."""
    numbers = np.random.default_rng(26).normal(10, 1, 64)
    verdict = compare(rate(numbers), rate(numbers))
    assert (verdict.p, verdict.delta, verdict.shift) == (1.0, 0.0, 0.0)
    assert compare(rate(np.ones(64)), rate(np.ones(64))).p == 1.0


VALUES = st.integers(0, 12).map(float)


@given(arrays(float, st.integers(6, 10), elements=VALUES), arrays(float, st.integers(7, 40), elements=VALUES))
def test_p_is_that_of_scipy(a: F64, b: F64) -> None:
    """With ties: by the normal distribution; few blocks are counted out instead."""
    if len(a) + len(b) <= 16 or len({*a, *b}) == 1:
        return
    assert probability(a, b) == pytest.approx(mannwhitneyu(a, b, method="asymptotic").pvalue, abs=1e-12)


@given(st.permutations(list(range(14))), st.integers(6, 8))
def test_p_of_few_blocks_is_exact(order: list[int], first: int) -> None:
    """As scipy counts it out where there are no ties."""
    a, b = np.array(order[:first], float), np.array(order[first:], float)
    assert probability(a, b) == pytest.approx(mannwhitneyu(a, b, method="exact").pvalue)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_q_is_that_of_scipy(p: list[float]) -> None:
    """Benjamini and Hochberg's."""
    assert adjusted(p) == pytest.approx(list(false_discovery_control(p)))


def test_sizes_of_an_effect() -> None:
    """Cliff's delta: how much oftener b is above a; Hodges and Lehmann's shift: the median difference."""
    a, b = np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0])
    assert cliffs_delta(a, b) == pytest.approx((4 - 1) / 6)
    assert hodges_lehmann(a, b) == pytest.approx(1.0)
    assert adjusted([]) == []
