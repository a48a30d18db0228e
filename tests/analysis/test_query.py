"""SQL over a store's tables, by either engine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from builders.store import Row, add_divergences, tiny_store

import hvtrace
from hvtrace.analysis.catalogue import table, tables
from hvtrace.analysis.query import ENGINES, query, told
from hvtrace.analysis.scope import Scope
from hvtrace.errors import HvtraceError, InputError
from hvtrace.schema.registry import TRACEPOINTS
from hvtrace.store import Store

TOP_BIT = 1 << 63

EVENTS: list[Row] = [
    (
        100,
        "kvm_exit",
        0,
        0,
        {"isa": 2, "exit_reason": 0x78, "exit_reason_name": "hlt", "guest_rip": TOP_BIT + 1},
    ),
    (200, "kvm_msr", 0, 0, {"write": 1, "ecx": 0x40000070, "msr_name": "HV_X64_MSR_EOI", "data": TOP_BIT}),
    (300, "kvm_exit", 1, 1, {"isa": 2, "exit_reason": 0x7B, "exit_reason_name": "io"}),
    (400, "kvm_exit", 1, 1, {"isa": 2, "exit_reason": 0x7FF0}),
]
LOST = [
    {"cpu": 0, "from_ns": 100, "to_ns": 200, "count": None},
    {"cpu": 1, "from_ns": 300, "to_ns": 400, "count": 5},
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return tiny_store(tmp_path / "t.hvt", EVENTS, lost=LOST)


def rows(store: Store, sql: str, engine: str = "polars", **part: int) -> list[tuple[object, ...]]:
    with told(store):
        return query(store, sql, Scope(**part), engine).collect().rows()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT exit_reason_name FROM kvm_exit ORDER BY seq", [("hlt",), ("io",), (None,)]),
        ("SELECT ts_ns FROM kvm_exit WHERE exit_reason_name LIKE 'h%'", [(100,)]),
        ("SELECT guest_rip FROM kvm_exit WHERE guest_rip > 9223372036854775808", [(TOP_BIT + 1,)]),
        ("SELECT vcpu, count(*) AS n FROM kvm_exit GROUP BY vcpu ORDER BY vcpu", [(0, 1), (1, 2)]),
        ("SELECT m.ecx FROM kvm_msr m JOIN kvm_exit e ON e.seq + 1 = m.seq", [(0x40000070,)]),
        ("WITH a AS (SELECT * FROM kvm_exit) SELECT count(*) FROM a", [(3,)]),
        ("SELECT 'read_csv(x)' -- DROP", [("read_csv(x)",)]),
        ("SELECT count(*) FROM kvm_exit WHERE comm IS NULL", [(3,)]),
    ],
)
def test_both_engines_say_the_same(store: Store, engine: str, sql: str, expected: list[object]) -> None:
    """Names are strings, u64 keeps its width, null is null."""
    assert rows(store, sql, engine) == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_a_part_of_the_recording(store: Store, engine: str) -> None:
    """Tables have the rows of the part asked for; of lost, losses that reach into it."""
    assert rows(store, "SELECT ts_ns FROM kvm_exit", engine, vcpu=1, last_ns=300) == [(300,)]
    assert rows(store, "SELECT cpu FROM lost", engine, first_ns=150, last_ns=250) == [(0,)]
    with pytest.raises(InputError, match="has no vCPU 7; it has 0, 1"):
        query(store, "SELECT 1", Scope(vcpu=7), engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_lists_and_verdicts(store: Store, engine: str) -> None:
    """divergences is a table where the recording was checked."""
    absent = "no table 'divergences': the recording was not checked yet"
    with pytest.raises(HvtraceError, match=absent):
        rows(store, "SELECT * FROM divergences", engine)
    add_divergences(store, [{"rule": "HV501", "ts_ns": 200, "history": [0, 1]}])
    assert rows(store, "SELECT rule, history FROM divergences", engine) == [("HV501", [0, 1])]


MISTAKES = [
    ("SELECT * FROM nix", r"no table 'nix'; there are kvm_exit, kvm_msr, lost$"),
    ("SELECT * FROM kvm_exot", r"no table 'kvm_exot' \(did you mean 'kvm_exit'\?\); there are kvm_exit, "),
    (
        "SELECT * FROM kvm_eoi",
        r"'kvm_eoi': no such event is in this recording \(it never fired, or was not rec",
    ),
    ("SELECT nope FROM kvm_exit", r"^SQL: .*\"nope\""),
    ("SELEC", r"^SQL: "),
    ("SELECT 1; SELECT 2", r"^SQL: .*one"),
    ("", r"^SQL: "),
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("sql", "message"), MISTAKES)
def test_a_mistake_is_one_line(store: Store, engine: str, sql: str, message: str) -> None:
    """It says what tables there are; a tracepoint without events is no empty table."""
    with pytest.raises(HvtraceError, match=message) as caught:
        rows(store, sql, engine)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('{secret}')",
        "WITH a AS (SELECT * FROM \"read_csv\" ('{secret}')) SELECT * FROM a",
        "SELECT * FROM read_parquet('{secret}')",
        "SELECT * FROM '{secret}'",
        'SELECT * FROM "{secret}"',
        "SELECT * FROM read_text('{secret}')",
        "COPY kvm_exit TO '{folder}/new.csv'",
        "COPY kvm_exit TO '{store}/events/kvm_exit.parquet' (FORMAT parquet)",
        "CREATE TABLE x AS SELECT 1",
        "DROP TABLE kvm_exit",
        "DELETE FROM kvm_exit",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "ATTACH '{folder}/new.db'",
        "EXPORT DATABASE '{folder}/new'",
    ],
)
def test_a_query_only_reads_the_tables(store: Store, tmp_path: Path, engine: str, sql: str) -> None:
    """No other file is read, none is written, nothing is changed or fetched."""
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(HvtraceError):
        rows(store, sql.format(secret=secret, folder=tmp_path, store=store.path), engine)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_variables_are_no_tables(store: Store) -> None:
    """DuckDB would take a Python variable of that name."""
    frame = pl.DataFrame({"a": [1]})
    with pytest.raises(HvtraceError, match="no table 'frame'"):
        rows(store, "SELECT * FROM frame", "duckdb")
    assert frame.height == 1


def test_duckdb_names_twice_the_same(store: Store) -> None:
    """The later ones get a number; polars' SQL refuses them."""
    with told(store):
        found = query(store, "SELECT seq, seq FROM kvm_msr", engine="duckdb").collect()
    assert found.columns == ["seq", "seq_2"]
    with pytest.raises(HvtraceError, match="duplicate"):
        rows(store, "SELECT seq, seq FROM kvm_msr")


def test_without_duckdb(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra: the message says how to get it."""
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(HvtraceError, match=r"pip install 'hvtrace\[duckdb\]'"):
        rows(store, "SELECT 1", "duckdb")
    with pytest.raises(HvtraceError, match="no engine 'sqlite'; there are polars, duckdb"):
        rows(store, "SELECT 1", "sqlite")


def test_what_tables_there_are(store: Store) -> None:
    """Rows, columns with the words of the schema for their types, and a sentence each."""
    found = {one.name: one for one in tables(store)}
    assert {name: one.rows for name, one in found.items()} == {"kvm_exit": 3, "kvm_msr": 1, "lost": 2}
    by_name = {column.name: column for column in found["kvm_msr"].columns}
    assert (by_name["data"].type, by_name["msr_name"].type, by_name["vcpu"].type) == ("u64", "str", "u16")
    assert (
        by_name["seq"].doc
        == "Rank of the event in the merged time order of the recording: unique and gapless."
    )
    assert found["lost"].doc == "Intervals in which events are known to be lost."


def test_a_table_that_might_be_there(store: Store) -> None:
    """Its columns are known; its rows are not none, but null."""
    found = table(store, "kvm_hv_hypercall")
    assert found.rows is None
    assert "code_name" in [column.name for column in found.columns]
    assert [column.type for column in table(store, "divergences").columns if column.name == "history"] == [
        "u64 list"
    ]
    with pytest.raises(InputError, match="no table 'nix'"):
        table(store, "nix")


def test_every_column_of_a_recording_has_its_sentence(recorded: Callable[..., Store]) -> None:
    """As every column that the schema declares."""
    store = recorded("lossy")
    known = {tracepoint.name for tracepoint in TRACEPOINTS}
    silent = [
        (one.name, column.name)
        for one in tables(store)
        if one.name in known or one.name == "lost"
        for column in one.columns
        if not column.doc
    ]
    assert silent == []


def test_from_python(tmp_path: Path) -> None:
    """A frame; the part is given by keywords."""
    tiny_store(tmp_path / "t.hvt", EVENTS)
    found = hvtrace.open(tmp_path / "t.hvt").query("SELECT seq, comm FROM kvm_exit", vcpu=1)
    assert found.schema == {"seq": pl.UInt64, "comm": pl.String}
    assert found["seq"].to_list() == [2, 3]


def test_counts_are_those_of_the_manifest(recorded: Callable[..., Store]) -> None:
    """Of a real recording, by both engines, table by table."""
    store = recorded("lossy")
    for engine in ENGINES:
        for name in store.tracepoints:
            assert rows(store, f'SELECT count(*) FROM "{name}"', engine) == [(store.manifest.events[name],)]
