"""`hvtrace query` as a user meets it."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from builders.store import Row, add_divergences, tiny_store
from recordings import SAMPLES

EVENTS: list[Row] = [
    (
        1_000_000_000,
        "kvm_exit",
        0,
        0,
        {"isa": 2, "exit_reason": 0x78, "exit_reason_name": "hlt", "info1": (1 << 64) - 1},
    ),
    (1_100_000_000, "kvm_exit", 1, 0, {"isa": 2, "exit_reason": 0x7B, "comm": "\x1b[31mred"}),
    (1_200_000_000, "kvm_exit", 1, 0, {"isa": 2, "exit_reason": 0x7B}),
]


def run(
    *words: str | Path, cwd: Path, columns: int = 80, stdin: str | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "hvtrace", "query", *map(str, words)],
        capture_output=True,
        check=False,
        cwd=cwd,
        input=None if stdin is None else stdin.encode(),
        env={"PATH": "/usr/bin:/bin", "COLUMNS": str(columns), "NO_COLOR": "1", "LC_ALL": "C.UTF-8"},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = tiny_store(tmp_path / "t.hvt", EVENTS)
    add_divergences(store, [{"rule": "HV501", "history": [1, 2]}])
    return tmp_path


def test_a_table_for_people(folder: Path) -> None:
    """Numbers to the right, null as null, control characters made visible."""
    done = run("t.hvt", "SELECT ts_ns, comm, exit_reason_name, info1 FROM kvm_exit LIMIT 2", cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().splitlines() == [
        "     ts_ns comm        exit_reason_name                info1",
        "1000000000 null        hlt              18446744073709551615",
        "1100000000 \\x1b[31mred null                             null",
    ]


def test_what_does_not_fit_is_named(folder: Path) -> None:
    """-x shows a value a line."""
    done = run("t.hvt", "SELECT * FROM kvm_exit", "--top", "1", cwd=folder)
    lines = done.stdout.decode().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[2].startswith("Not shown, for want of room: info")
    assert lines[-1] == "… and more rows (all: --top 0)"
    expanded = run("t.hvt", "SELECT seq, info1 FROM kvm_exit", "-x", "--top", "1", cwd=folder)
    assert expanded.stdout.decode().splitlines() == [
        "row 1",
        "seq    0",
        "info1  18446744073709551615",
        "… and more rows (all: --top 0)",
    ]
    nothing = run("t.hvt", "SELECT seq FROM kvm_exit", "--from", "3", cwd=folder)
    assert nothing.stdout.decode().splitlines() == ["seq", "no rows"]


def test_json_is_one_object(folder: Path) -> None:
    """Columns with types, rows as objects; u64, lists, null, and what JSON has no number for."""
    sql = "SELECT info1, comm, info1 * 0.0 / 0.0 AS nan FROM kvm_exit LIMIT 2"
    done = run("t.hvt", "-", "--engine", "duckdb", "--output-format", "json", cwd=folder, stdin=sql)
    answer = json.loads(done.stdout)
    assert {name: answer[name] for name in ("schema_version", "source", "sql", "engine")} == {
        "schema_version": 1,
        "source": "t.hvt",
        "sql": sql,
        "engine": "duckdb",
    }
    assert [column["type"] for column in answer["columns"]] == ["u64", "str", "f64"]
    assert answer["rows"] == [
        {"info1": (1 << 64) - 1, "comm": None, "nan": None},
        {"info1": None, "comm": "\x1b[31mred", "nan": None},
    ]
    lists = run("t.hvt", "SELECT history FROM divergences", "--output-format", "json", cwd=folder)
    assert json.loads(lists.stdout)["rows"] == [{"history": [1, 2]}]
    nothing = run("t.hvt", "SELECT seq FROM kvm_exit", "--from", "3", "--output-format", "json", cwd=folder)
    assert json.loads(nothing.stdout)["rows"] == []


def test_csv(folder: Path) -> None:
    """A line of names; null is empty, a list is JSON."""
    done = run("t.hvt", "SELECT seq, exit_reason_name FROM kvm_exit", "--output-format", "csv", cwd=folder)
    assert done.stdout == b"seq,exit_reason_name\n0,hlt\n1,\n2,\n"
    lists = run("t.hvt", "SELECT rule, history FROM divergences", "--output-format", "csv", cwd=folder)
    assert list(csv.reader(io.StringIO(lists.stdout.decode())))[1] == ["HV501", "[1, 2]"]


def test_parquet_and_arrow(folder: Path) -> None:
    """Into a file, or to a pipe; types stay."""
    words = ("t.hvt", "SELECT seq, vcpu, info1 FROM kvm_exit", "--output-format")
    expected = {"seq": [0, 1, 2], "vcpu": [0, 1, 1], "info1": [(1 << 64) - 1, None, None]}
    parquet = run(*words, "parquet", "-o", "x.parquet", cwd=folder)
    assert (parquet.returncode, parquet.stdout) == (0, b"")
    frame = pl.read_parquet(folder / "x.parquet")
    assert frame.to_dict(as_series=False) == expected
    assert frame.schema == {"seq": pl.UInt64, "vcpu": pl.UInt16, "info1": pl.UInt64}
    arrow = pa.ipc.open_stream(run(*words, "arrow", cwd=folder).stdout).read_all()
    assert arrow.to_pydict() == expected
    assert sorted(path.name for path in folder.iterdir()) == ["t.hvt", "x.parquet"]


def test_tables(folder: Path) -> None:
    """All of them in a line each; one of them with its columns."""
    listed = run("t.hvt", "--tables", cwd=folder).stdout.decode().splitlines()
    assert listed[0] == "kvm_exit     3  The guest left guest mode."
    one = run("t.hvt", "--tables", "kvm_exit", cwd=folder).stdout.decode().splitlines()
    assert one[:2] == ["kvm_exit, 3 rows", "The guest left guest mode."]
    assert one[3].split()[:3] == ["seq", "u64", "Rank"]
    assert max(map(len, listed + one)) <= 80
    absent = run("t.hvt", "--tables", "kvm_eoi", cwd=folder).stdout.decode().splitlines()
    assert absent[0] == "kvm_eoi, not in this recording"
    found = json.loads(run("t.hvt", "--tables", "--output-format", "json", cwd=folder).stdout)
    assert [(one["name"], one["rows"]) for one in found["tables"]] == [
        ("kvm_exit", 3),
        ("lost", 0),
        ("divergences", 1),
    ]
    rows = run("t.hvt", "--tables", "lost", "--output-format", "csv", cwd=folder).stdout.decode()
    assert [row["column"] for row in csv.DictReader(io.StringIO(rows))] == [
        "cpu",
        "from_ns",
        "to_ns",
        "count",
    ]


MISTAKES = [
    (("none.hvt", "SELECT 1"), "none.hvt: No such file or directory"),
    (("t.hvt",), "no SQL; or --tables"),
    (("t.hvt", "SELECT * FROM nix"), "hvtrace: t.hvt: no table 'nix'; there are kvm_exit, lost, divergences"),
    (
        ("t.hvt", "SELECT nope FROM kvm_exit", "--output-format", "json"),
        'hvtrace: SQL: unable to find column "nope"',
    ),
    (("t.hvt", "DROP TABLE kvm_exit"), "hvtrace: SQL: a query begins with SELECT (or WITH"),
    (("t.hvt", "SELECT 1", "--vcpu", "9"), "has no vCPU 9"),
    (("t.hvt", "SELECT 1", "--engine", "sqlite"), "'sqlite' is not one of"),
    (("t.hvt", "--tables", "--output-format", "arrow"), "--tables: text, json or csv, not arrow"),
    (("t.hvt", "SELECT 1", "--output-format", "csv", "-o", "no/such/x.csv"), "No such file or directory"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_said_and_exit_code_2(folder: Path, words: tuple[str, ...], message: str) -> None:
    """Nothing on stdout, no traceback, nothing left behind."""
    done = run(*words, cwd=folder)
    assert (done.returncode, done.stdout) == (2, b"")
    assert message in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    assert [path.name for path in folder.iterdir()] == ["t.hvt"]


def test_the_help_fits_a_terminal(tmp_path: Path) -> None:
    """With each example on a line of its own."""
    lines = run("--help", cwd=tmp_path).stdout.decode().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("    hvtrace query ") for line in lines) >= 5


PAGE = SAMPLES.parent / "docs" / "query.md"
SHOWN = re.findall(
    r"^    \$ hvtrace query (sample_traces/\S*) (.*)\n((?:    .*\n|\n(?=    ))+)", PAGE.read_text(), re.M
)


@pytest.mark.parametrize(("source", "words", "output"), SHOWN)
def test_the_page_shows_what_is_printed(source: str, words: str, output: str) -> None:
    """Every example of docs/query.md that one can repeat, from its beginning."""
    done = run(source, *shlex.split(words), cwd=SAMPLES.parent)
    expected = [line.removeprefix("    ") for line in output.rstrip().splitlines()]
    assert expected == done.stdout.decode().splitlines()[: len(expected)]


def test_the_page_has_examples() -> None:
    """So that the test above has something to hold."""
    assert len(SHOWN) == 4
