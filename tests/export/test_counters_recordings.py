"""Counters of real recordings against what polars makes of the tables."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import pairwise
from typing import TypeAlias

import polars as pl
import pytest
from builders.timeline import Timeline, read_timeline

from hvtrace.export.perfetto import write_trace
from hvtrace.export.streams import Which
from hvtrace.store import Store

RECORDINGS = ["two-vms", "lossy", "linux-plain", "baseline-hvmut-haltbig"]

Samples: TypeAlias = list[tuple[int, float]]
Whole: TypeAlias = "Callable[[str], tuple[Store, Timeline, Grid]]"

#: kvm_entry, kvm_exit, kvm_userspace_exit by letter, and the pairs between which the state is known.
LETTERS = {"kvm_entry": "E", "kvm_exit": "X", "kvm_userspace_exit": "U"}
KNOWN = ("EX", "XE", "XU", "UE", "UU")


def exported(store: Store, which: Which | None = None) -> Timeline:
    out = io.BytesIO()
    write_trace(store, out, which)
    return read_timeline(out.getvalue())


@pytest.fixture(scope="module")
def whole(recorded: Callable[[str], Store]) -> Whole:
    """Name of a recording → its store, its timeline, and the steps of that."""
    made: dict[str, tuple[Store, Timeline, Grid]] = {}

    def get(name: str) -> tuple[Store, Timeline, Grid]:
        if name not in made:
            store = recorded(name)
            timeline, time = exported(store), store.manifest.time
            made[name] = store, timeline, Grid(timeline, time["first_ns"], time["last_ns"])
        return made[name]

    return get


def states(store: Store) -> pl.DataFrame:
    """Known states of vCPUs: vm, vcpu, start, end, and whether it is guest time."""
    rows = pl.concat(
        store.scan(table).select("vm", "vcpu", "seq", "cpu", start="ts_ns", letter=pl.lit(letter))
        for table, letter in LETTERS.items()
    ).collect()
    last_ns = store.manifest.time["last_ns"]
    lasting = [vm["vm"] for vm in store.manifest.vms if vm["last_seq"] is None]
    after = {
        name: pl.col(name).shift(-1).over("vm", "vcpu", order_by="seq") for name in ("start", "cpu", "letter")
    }
    rows = rows.with_columns(
        # The last state of a VM that is there to the end lasts until then.
        end=pl.when(after["start"].is_not_null())
        .then(after["start"])
        .when(pl.col("vm").is_in(lasting))
        .then(last_ns),
        end_cpu=after["cpu"].fill_null(pl.col("cpu")),
        pair=pl.col("letter") + after["letter"],
    )
    hit = pl.lit(False)
    for loss in store.manifest.lost:
        there = (pl.col("cpu") == loss["cpu"]) | (pl.col("end_cpu") == loss["cpu"])
        hit |= there & (pl.col("end") > loss["from_ns"]) & (pl.col("start") < loss["to_ns"])
    follows = pl.col("pair").is_null() | pl.col("pair").is_in(KNOWN)
    return rows.filter(follows & (pl.col("end") >= pl.col("start")) & ~hit).select(
        "vm", "vcpu", "start", "end", guest=pl.col("letter") == "E"
    )


class Grid:
    """The steps of a timeline: their width as a track's description tells it."""

    def __init__(self, timeline: Timeline, first: int, last: int) -> None:
        told = next(t.description for path, t in timeline.tracks.items() if path[-1] == "Exits")
        self.width = int(float(told.rpartition("Steps of ")[2].removesuffix(" ms.")) * 1e6)
        self.count = max((last - first) // self.width, 1)
        left = first + pl.col("step") * self.width
        end = pl.when(pl.col("step") == self.count - 1).then(last).otherwise(left + self.width)
        self.all = pl.DataFrame({"step": range(self.count)}).with_columns(left=left, right=end)
        self.first, self.last = first, last

    def step(self, ts: str) -> pl.Expr:
        return ((pl.col(ts) - self.first) // self.width).clip(0, self.count - 1)

    def time(self, spans: pl.DataFrame) -> pl.DataFrame:
        """Spans (vm, vcpu, start, end, …) cut at the edges of steps: a row a piece, with its step and time in it."""
        inside = spans.filter((pl.col("end") > self.first) & (pl.col("start") < self.last))
        return (
            inside.with_columns(step=pl.int_ranges(self.step("start"), self.step("end") + 1))
            .explode("step")
            .join(self.all, on="step")
            .with_columns(time=pl.min_horizontal("end", "right") - pl.max_horizontal("start", "left"))
        )

    def drawn(self, samples: Samples) -> dict[int, float]:
        """Value of a counter in each step from its first sample on."""
        found = {}
        for (ts, value), (end, _) in pairwise([*(s for s in samples if s[0] < self.last), (self.last, 0.0)]):
            assert (ts - self.first) % self.width == 0
            for step in range((ts - self.first) // self.width, -(-(end - self.first) // self.width)):
                found[min(step, self.count - 1)] = value
        return found


@pytest.mark.parametrize("name", RECORDINGS)
def test_every_exit_is_counted(whole: Whole, name: str) -> None:
    """Rates times the width of steps are the rows of kvm_exit: per vCPU, per reason, per VM."""
    store, timeline, grid = whole(name)
    exits = store.scan("kvm_exit").select("vm", "vcpu", "isa", "exit_reason", start="ts_ns").collect()
    lengths = grid.all.with_columns(length=pl.col("right") - pl.col("left"))
    counted = exits.with_columns(step=grid.step("start")).join(lengths, on="step")

    def rates(rows: pl.DataFrame) -> dict[int, float]:
        counts = rows.group_by("step", "length").len().iter_rows()
        return {step: pytest.approx(n * 1e9 / length) for step, length, n in counts}

    def drawn(*track: str) -> dict[int, float]:
        return {step: value for step, value in grid.drawn(timeline.counters[track]).items() if value}

    for (vm,), of_vm in counted.group_by("vm"):
        assert drawn(f"VM {vm}", "Exits") == rates(of_vm)
        for (vcpu,), own in of_vm.group_by("vcpu"):
            assert drawn(f"VM {vm}", f"vCPU {vcpu}", "Exits") == rates(own)
            group = (f"VM {vm}", f"vCPU {vcpu}", "Exits by reason")
            reasons = [drawn(*track) for track in timeline.counters if track[:-1] == group]
            expected = [rates(rows) for _, rows in own.group_by("isa", "exit_reason")]
            assert sorted(map(sorted, reasons)) == sorted(map(sorted, expected))
            assert all(found in expected for found in reasons)


@pytest.mark.parametrize("name", RECORDINGS)
def test_guest_share_times_time_is_guest_time(whole: Whole, name: str) -> None:
    """In each step, for each vCPU and its VM; in all, every nanosecond in guest mode is there."""
    store, timeline, grid = whole(name)
    pieces = grid.time(states(store))
    compare(store, timeline, grid, "Guest share", pieces, pieces.filter("guest"))


@pytest.mark.parametrize("name", RECORDINGS)
def test_polling_share_times_time_is_what_is_drawn(whole: Whole, name: str) -> None:
    """As the slices of halts that polled, with success or without."""
    store, timeline, grid = whole(name)
    polls = [
        (int(s.track[0][3:]), int(s.track[1][5:]), s.start, s.end)
        for s in timeline.slices
        if s.name in ("halt poll (success)", "halt poll (failure)")
    ]
    assert polls
    spans = pl.DataFrame(polls, schema=["vm", "vcpu", "start", "end"], orient="row")
    compare(store, timeline, grid, "Polling share", grid.time(states(store)), grid.time(spans))


def compare(
    store: Store, timeline: Timeline, grid: Grid, name: str, known: pl.DataFrame, spent: pl.DataFrame
) -> None:
    """Hold the counters of this name against pieces of known time and of the time that counts."""
    for vm in store.manifest.vms:
        of_vm: dict[int, list[int]] = {step: [0, 0] for step in range(grid.count)}
        heard = False
        for vcpu in vm["vcpus"]:
            own = (pl.col("vm") == vm["vm"]) & (pl.col("vcpu") == vcpu["vcpu"])
            of, time = (
                dict(
                    p.filter(own).group_by("step").agg(pl.sum("time")).filter(pl.col("time") > 0).iter_rows()
                )
                for p in (known, spent)
            )
            for step, left, right in grid.all.iter_rows():
                alive = bool(of) and min(of) <= step <= max(of)
                of_vm[step][0] += time.get(step, 0)
                of_vm[step][1] += of.get(step, 0) if alive else right - left
            track = (f"VM {vm['vm']}", f"vCPU {vcpu['vcpu']}", name)
            if not of:
                assert track not in timeline.counters
                continue
            heard = True
            shown = grid.drawn(timeline.counters[track])
            assert set(shown) == set(range(min(of), grid.count))
            assert all(0 <= value <= 100 for value in shown.values())
            assert shown == {step: pytest.approx(100 * time.get(step, 0) / of.get(step, 1)) for step in shown}
            assert sum(time.values()) == round(sum(shown[step] / 100 * of[step] for step in of))
        if heard:
            shown = grid.drawn(timeline.counters[f"VM {vm['vm']}", name])
            assert shown == {
                step: pytest.approx(100 * of_vm[step][0] / max(of_vm[step][1], 1)) for step in shown
            }


@pytest.mark.parametrize("name", ["baseline-hvmut-haltbig", "lossy"])
def test_halt_poll_ns_is_what_the_events_say(whole: Whole, name: str) -> None:
    """Each row of kvm_halt_poll_ns, and before them what the first one changed, from the recording's start."""
    store, timeline, _ = whole(name)
    found = {track: own for track, own in timeline.counters.items() if track[-1] == "halt_poll_ns"}
    rows = store.scan("kvm_halt_poll_ns").collect().sort("seq")
    expected = {
        (f"VM {vm}", f"vCPU {vcpu}", "halt_poll_ns"): [
            (store.manifest.time["first_ns"], own["old"][0]),
            *own.select("ts_ns", "new").iter_rows(),
        ]
        for (vm, vcpu), own in rows.group_by("vm", "vcpu", maintain_order=True)
    }
    assert found == expected


def test_a_part_has_the_shares_of_that_part(whole: Whole) -> None:
    """Cut out of a recording, guest time is what lies between the two times, finer than in the whole."""
    store, _, coarse = whole("two-vms")
    first = store.manifest.time["first_ns"]
    span = (first + 1_000_000_123, first + 1_400_000_456)
    timeline = exported(store, Which(first_ns=span[0], last_ns=span[1]))
    grid = Grid(timeline, *span)
    assert grid.width < coarse.width
    pieces = grid.time(states(store))
    for track, samples in timeline.counters.items():
        if track[-1] == "Guest share" and len(track) == 3:
            own = (pl.col("vm") == int(track[0][3:])) & (pl.col("vcpu") == int(track[1][5:]))
            of = dict(pieces.filter(own).group_by("step").agg(pl.sum("time")).iter_rows())
            shown = grid.drawn(samples)
            guest = pieces.filter(own & pl.col("guest"))["time"].sum()
            assert guest == round(sum(value / 100 * of.get(step, 0) for step, value in shown.items()))
