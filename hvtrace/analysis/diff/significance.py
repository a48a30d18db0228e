"""Whether two recordings differ by more than chance, where the events of a recording are not independent.

Events come in bursts and phases: a test that takes each of a million exits for a draw of its own finds differences
between two halves of one quiet minute. So the time of both recordings is cut into blocks of one width, each block
gives one number (a rate, a mean), and the blocks are compared by rank: Mann and Whitney's test asks nothing of how the
numbers are distributed. Blocks must be so long that neighbours do not resemble each other. They are lengthened until

- the variance of blocks falls with their length as that of independent ones does, with half as much to spare
  (batch means: m blocks in one have 1/m of the variance), and
- the correlation of neighbouring blocks is below 0.5 / √n.

Where fewer than FEWEST such blocks are left, the recording is a sequence of phases rather than a sample, and nothing
is said. Of many comparisons some look extreme by chance: Benjamini and Hochberg's procedure corrects for their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import erfc, sqrt

import numpy as np
import numpy.typing as npt

__all__ = [
    "BLOCKS",
    "F64",
    "FEWEST",
    "Series",
    "Verdict",
    "adjusted",
    "cliffs_delta",
    "compare",
    "hodges_lehmann",
    "probability",
]

F64 = npt.NDArray[np.float64]

#: Blocks into which the shorter recording is cut at first.
BLOCKS = 64

#: With fewer blocks on a side nothing is said: of 6 and 6, the most extreme order has p = 0.002.
FEWEST = 6

#: Lengths, in first blocks, at which the variance of longer blocks is looked at.
_LENGTHS = (4, 8, 16)

#: What is left to spare on the length found.
_SPARE = 1.5

#: The highest correlation of neighbours, times √n.
_CORRELATED = 0.5

#: A ratio needs so many events a block on average: fewer would make most of them 0 or 1.
_EVENTS = 4

#: Up to so many blocks in all, p is counted out.
_EXACT = 16


@dataclass(frozen=True, slots=True)
class Series:
    """A figure over time: each block's number is `above` / `below`, of sums where blocks are joined.

    For a rate, `above` are counts and `below` lengths; for a mean, sums and counts. A block with nothing below has no
    number. `ratio` says that `below` are counts of events, of which there must be some in a block.
    """

    above: F64
    below: F64
    ratio: bool = False

    def joined(self, length: int) -> F64:
        """The numbers of blocks of `length` first blocks; what is left over at the end is left out."""
        number = len(self.above) // length
        above, below = (x[: number * length].reshape(number, length).sum(1) for x in (self.above, self.below))
        # Blocks of which little was recorded, or in which little happened, say little.
        enough = below >= (2 if self.ratio else 0.5 * np.median(below) if number else 0)
        enough &= below > 0
        found: F64 = above[enough] / below[enough]
        return found

    @property
    def shortest(self) -> int:
        """The shortest length that gives blocks with events in them."""
        if not self.ratio:
            return 1
        events = float(self.below.sum())
        return max(1, int(np.ceil(_EVENTS * len(self.below) / events))) if events else len(self.below) + 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """How two series compare. `p` is None where it cannot be said, and `why` not: "few" events, or "phases".

    `delta` is Cliff's: how much likelier a block of the second is above one of the first than below, -1 to 1.
    `shift` is Hodges and Lehmann's: the median of all differences between a block of the second and one of the first.
    `blocks` are those compared.
    """

    p: float | None = None
    delta: float | None = None
    shift: float | None = None
    blocks: tuple[int, int] = (0, 0)
    why: str | None = None


def compare(first: Series, second: Series) -> Verdict:
    """Compare two series of blocks of the same width."""
    length = max(first.shortest, second.shortest)
    a, b = first.joined(length), second.joined(length)
    if min(len(a), len(b)) < FEWEST:
        return Verdict(why="few")
    if (inflation := max(_inflation(a), _inflation(b))) > 1:
        length = int(np.ceil(length * inflation * _SPARE))
    while True:
        a, b = first.joined(length), second.joined(length)
        if min(len(a), len(b)) < FEWEST:
            return Verdict(why="phases")
        if all(_neighbours(x) < _CORRELATED / np.sqrt(len(x)) for x in (a, b)):
            break
        length = int(np.ceil(length * _SPARE))
    return Verdict(probability(a, b), cliffs_delta(a, b), hodges_lehmann(a, b), (len(a), len(b)))


def _inflation(numbers: F64) -> float:
    """How much larger the variance of joined blocks is than that of independent ones; at least 1."""
    variance = numbers.var(ddof=1)
    if variance == 0:
        return 1.0
    found = 1.0
    for length in _LENGTHS:
        number = len(numbers) // length
        if number >= 3:
            means = numbers[: number * length].reshape(number, length).mean(1)
            found = max(found, float(length * means.var(ddof=1) / variance))
    return found


def _neighbours(numbers: F64) -> float:
    """Correlation of each number with the next."""
    centred = numbers - numbers.mean()
    total = float((centred * centred).sum())
    return float((centred[1:] * centred[:-1]).sum()) / total if total else 0.0


def probability(a: F64, b: F64) -> float:
    """Of Mann and Whitney's test, two-sided: exact for few blocks, else by the normal distribution, as scipy's.

    With ties, and half a rank towards no difference, as the statistic has steps.
    """
    ranks, counts = _ranks(np.concatenate([a, b]))
    number, first = len(ranks), len(a)
    distance = abs(float(ranks[:first].sum()) - first * (number + 1) / 2)
    if number <= _EXACT:
        sums = ranks[_choices(number, first)].sum(1)
        return float(np.mean(np.abs(sums - first * (number + 1) / 2) >= distance - 1e-9))
    ties = float((counts**3 - counts).sum()) / (number * (number - 1))
    variance = first * len(b) / 12 * (number + 1 - ties)
    return erfc(max(distance - 0.5, 0.0) / sqrt(2 * variance)) if variance > 0 else 1.0


@cache
def _choices(number: int, of: int) -> npt.NDArray[np.int64]:
    return np.array(list(combinations(range(number), of)))


def _ranks(values: F64) -> tuple[F64, F64]:
    """Ranks from 1, those of equal values averaged; and how often each value occurs."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: F64 = (np.cumsum(counts) - (counts - 1) / 2)[index]
    return ranks, counts.astype(np.float64)


def cliffs_delta(a: F64, b: F64) -> float:
    """Share of pairs in which `b` is above `a`, less that in which it is below."""
    return float(np.sign(b[:, None] - a[None, :]).mean())


def hodges_lehmann(a: F64, b: F64) -> float:
    """The median difference of pairs."""
    return float(np.median(b[:, None] - a[None, :]))


def adjusted(p: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's q: reject those up to x, and of all rejected x are expected to be false at most."""
    if not p:
        return []
    values = np.asarray(p)
    order = np.argsort(values)[::-1]
    number = len(values)
    scaled = values[order] * number / np.arange(number, 0, -1)
    found = np.empty(number)
    found[order] = np.minimum(np.minimum.accumulate(scaled), 1.0)
    return [float(q) for q in found]
