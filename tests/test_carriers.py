"""One run, several carriers: the same rows, as far as each carrier carries them.

`trace.dat`, its version-6 copy and its report are one recording. perf.data and its script are another of the same
run, and ftrace.txt a third: those were stamped by other tracers, so order is compared per thread.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from recordings import UNMODIFIED, carriers

from hvtrace.pipeline.ingest import ingest
from hvtrace.schema.registry import BY_NAME

RUNS = [folder for folder in UNMODIFIED if len(carriers(folder)) > 1 and folder.name != "lossy"]


def having(*wanted: str) -> list[Path]:
    """Runs that have these carriers."""
    return [folder for folder in RUNS if all(carrier in carriers(folder) for carrier in wanted)]


#: Fired in hard interrupts: which of two neighbours comes first is a matter of nanoseconds between tracers.
FROM_INTERRUPT = {"kvm_hv_stimer_callback"}
#: Tracers start and stop at different times, and see their own and each other's scheduling.
NOT_COMPARED = {"sched_switch", "sched_wakeup", "sched_waking", "sched_wakeup_new", "print"}

#: Fields that no kernel ever fills: what they hold is what the ring buffer held before.
UNSET = {("kvm_hv_synic_send_eoi", "sint"), ("kvm_hv_synic_send_eoi", "ret")}

#: Fields whose text says only zero or not (`edge`, `level`).
TRUTH_ONLY = {"tm"}

#: Rounded to microseconds (ftrace, trace-cmd), or truncated (perf script).
ROUNDED_NS, TRUNCATED_NS = 500, 999


def tables(folder: Path, carrier: str, tmp: Path) -> dict[str, pl.DataFrame]:
    """Ingest a carrier and return its tables, names as strings."""
    store = tmp / f"{carrier}.hvt"
    ingest([carriers(folder)[carrier]], store)
    found = {p.stem: pl.read_parquet(p) for p in (store / "events").iterdir()}
    return {name: t.with_columns(pl.col(pl.Categorical).cast(pl.String)) for name, t in found.items()}


def fields(name: str, table: pl.DataFrame) -> pl.DataFrame:
    """Return the tracepoint's own columns, those that text cannot tell apart made alike."""
    declared = BY_NAME[name]
    left_out = {n.column for n in declared.names} | {"ts_raw"} | {c for t, c in UNSET if t == name}
    own = [c for c in table.columns[7:] if c not in left_out]
    return table.select(
        *((pl.col(c) != 0).alias(c) if c in TRUTH_ONLY else pl.col(c) for c in own),
        pl.col("vcpu"),
        pl.col("vm"),
    )


def assert_same_where_carried(name: str, whole: pl.DataFrame, other: pl.DataFrame) -> None:
    """Every value that `other` carries is that of `whole`; a VM only one of them knows is no difference."""
    for column in other.columns:
        carried = other[column].is_not_null()
        if column == "vm":
            carried &= whole[column].is_not_null()
        same = whole[column].filter(carried).eq_missing(other[column].filter(carried))
        assert same.all(), f"{name}.{column}: {(~same).sum()} of {len(same)} values differ"


@pytest.mark.parametrize("folder", having("trace.dat", "trace.v6.dat"), ids=lambda f: f.name)
def test_the_version_6_copy_has_the_same_rows(folder: Path, tmp_path: Path) -> None:
    """Every column of every table is equal, stamps to the nanosecond."""
    copy = tables(folder, "trace.v6.dat", tmp_path)
    original = tables(folder, "trace.dat", tmp_path)
    assert copy.keys() == original.keys()
    for name, table in original.items():
        assert table.equals(copy[name]), name


@pytest.mark.parametrize("folder", having("trace.dat", "report.txt"), ids=lambda f: f.name)
def test_the_report_has_the_same_rows(folder: Path, tmp_path: Path) -> None:
    """Same rows in the same order, same types, stamps rounded, every value the report prints equal."""
    report = tables(folder, "report.txt", tmp_path)
    original = tables(folder, "trace.dat", tmp_path)
    assert report.keys() == original.keys()
    for name, table in original.items():
        other = report[name]
        assert table.schema == other.schema, name
        assert table["seq"].equals(other["seq"]), name
        assert (table["ts_ns"] - other["ts_ns"]).abs().max() <= ROUNDED_NS
        assert table.select("cpu", "tid").equals(other.select("cpu", "tid")), name
        assert_same_where_carried(name, fields(name, table), fields(name, other))


@pytest.mark.parametrize("folder", having("perf.data", "perf-script.txt"), ids=lambda f: f.name)
def test_every_row_of_the_perf_script_is_in_perf_data(folder: Path, tmp_path: Path) -> None:
    """perf script hides guest-mode samples; each sample it shows is there with the same values."""
    script = tables(folder, "perf-script.txt", tmp_path)
    data = tables(folder, "perf.data", tmp_path)
    for name, shown in script.items():
        whole = data[name]
        assert whole.schema == shown.schema, name
        us = (pl.col("ts_ns") // 1000).alias("us")
        own = fields(name, shown)
        # Of a column that text may leave out, only what it always carries can identify a row.
        keys = [
            c for c in own.columns if c != "vm" and own[c].null_count() == 0 and own.schema[c] != pl.Binary
        ]
        left = pl.concat([shown.select("tid", "cpu", us), own.select(keys)], how="horizontal")
        right = pl.concat(
            [whole.select("tid", "cpu", us), fields(name, whole).select(keys)], how="horizontal"
        )
        counted = (
            left.group_by(left.columns)
            .len("shown")
            .join(right.group_by(right.columns).len("there"), on=left.columns, how="left", nulls_equal=True)
        )
        # A thread that is gone has the id −1 in perf's sample; the record still knows it.
        missing = counted.filter(pl.col("there").fill_null(0) < pl.col("shown"), pl.col("tid") >= 0)
        assert missing.is_empty(), f"{name}: {missing.head(3)}"


PAIRS = [
    pytest.param(folder, one, two, id=f"{folder.name}-{one}-{two}")
    for one, two in (("trace.dat", "perf.data"), ("trace.dat", "ftrace.txt"), ("perf.data", "ftrace.txt"))
    for folder in having(one, two)
]


#: So many stamps may be far off in a recording of any length.
FEW = 10


@pytest.mark.parametrize(("folder", "one", "two"), PAIRS)
def test_tracers_of_one_run_agree_per_thread(folder: Path, one: str, two: str, tmp_path: Path) -> None:
    """Per thread: the same events in the same order with the same values, a constant offset of clocks apart."""
    first, second = tables(folder, one, tmp_path), tables(folder, two, tmp_path)
    names = (first.keys() & second.keys()) - NOT_COMPARED
    offsets = []
    for name in sorted(names):
        a, b = (t[name].sort("tid", "seq", maintain_order=True) for t in (first, second))
        tids = (set(a["tid"]) & set(b["tid"])) - {0}
        if name in FROM_INTERRUPT:
            continue
        a, b = (t.filter(pl.col("tid").is_in(tids)) for t in (a, b))
        per_thread = [dict(t.group_by("tid").len().iter_rows()) for t in (a, b)]
        # The tracers are started and stopped one after the other: at most a few events at the ends differ.
        for tid in [t for t in tids if per_thread[0][t] != per_thread[1][t]]:
            assert abs(per_thread[0][tid] - per_thread[1][tid]) <= 2, f"{name}: thread {tid}"
            a, b = (t.filter(pl.col("tid") != tid) for t in (a, b))
        assert_same_where_carried(name, fields(name, a), fields(name, b))
        offsets.append(a["ts_ns"] - b["ts_ns"])
    together = pl.concat(offsets)
    middle = together.median()
    assert isinstance(middle, int | float)
    far = int(((together - int(middle)).abs() > 100_000).sum())
    # A thread is interrupted between two tracers' stamps; in a short recording a few times are more than 1 %.
    assert far <= max(len(together) // 100, FEW), (
        "nearly all stamps agree within 100 µs after a constant offset"
    )


@pytest.mark.parametrize(("folder", "one", "two"), PAIRS)
def test_order_within_a_vcpu_thread_is_the_same(folder: Path, one: str, two: str, tmp_path: Path) -> None:
    """The sequence of event names of each vCPU thread is equal, interrupts' and the scheduler's events apart."""
    sequences = []
    for carrier in (one, two):
        found = tables(folder, carrier, tmp_path)
        parts = [
            t.select("seq", "tid", pl.lit(name).alias("name"))
            for name, t in found.items()
            if name not in FROM_INTERRUPT | NOT_COMPARED
        ]
        threads = set(found["kvm_entry"]["tid"])
        sequences.append(pl.concat(parts).filter(pl.col("tid").is_in(threads)).sort("tid", "seq"))
    for tid in sorted(set(sequences[0]["tid"]) | set(sequences[1]["tid"])):
        a, b = (t.filter(pl.col("tid") == tid)["name"] for t in sequences)
        # A tracer that started earlier or stopped later may have an event more at either end.
        n = min(len(a), len(b))
        assert max(len(a), len(b)) - n <= 2
        ahead = (a.head(n) == b.head(n)).cum_min().sum()
        behind = (a.tail(n).reverse() == b.tail(n).reverse()).cum_min().sum()
        assert ahead + behind >= n, f"thread {tid}: event {ahead} of {n} differs"
