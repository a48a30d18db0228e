"""Losses between two events, against the definition written out."""

from __future__ import annotations

import random
from typing import Any

import polars as pl
import pytest

from hvtrace.analysis.losses import lost_between

SCHEMA = {"cpu": pl.UInt16, "from_ns": pl.Int64, "to_ns": pl.Int64}


def hit(loss: dict[str, Any], start: int, end: int, cpus: tuple[int, int]) -> bool:
    begins = loss["from_ns"] is None or loss["from_ns"] < end
    ends = loss["to_ns"] is None or loss["to_ns"] > start
    return begins and ends and (loss["cpu"] is None or loss["cpu"] in cpus)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("offset", [0, -(1 << 40), (1 << 62)])
def test_a_loss_counts_where_it_overlaps(seed: int, offset: int) -> None:
    """Whatever the order of losses, their number, what is null in them, and how large the time stamps are."""
    draw = random.Random(seed)
    losses: list[dict[str, Any]] = []
    for _ in range(draw.randint(1, 6)):
        start = offset + draw.randint(0, 60)
        losses.append(
            {
                "cpu": draw.choice([0, 1, 2, 65535, None]),
                "from_ns": draw.choice([start, start, start, None]),
                "to_ns": draw.choice([start + draw.randint(0, 9)] * 3 + [None]),
            }
        )
    steps = []
    for _ in range(50):
        start = offset + draw.randint(-5, 70)
        steps.append((start, start + draw.randint(0, 12), draw.randint(0, 3), draw.randint(0, 3)))
    frame = pl.DataFrame(steps, schema=["start", "end", "a", "b"], orient="row")
    columns = (pl.col("a").cast(pl.UInt16), pl.col("b").cast(pl.UInt16))
    expression = lost_between(pl.DataFrame(losses, SCHEMA), pl.col("start"), pl.col("end"), columns)
    expected = [any(hit(loss, s, e, (a, b)) for loss in losses) for s, e, a, b in steps]
    assert expected == frame.select(expression).to_series().to_list()
