"""`hvtrace exits` as a user meets it."""

from __future__ import annotations

import csv
import io
import json
import re
from functools import partial
from pathlib import Path

import pytest
from builders.cli import hvtrace
from builders.store import Row, tiny_store
from recordings import SAMPLES, get

EVENTS: list[Row] = [
    (1_000_000_000, "kvm_entry", 0, 0, {}),
    (1_100_000_000, "kvm_exit", 0, 0, {"isa": 2, "exit_reason": 0x7C}),
    (1_100_002_000, "kvm_msr", 0, 0, {"write": 1, "ecx": 0x40000070}),
    (1_100_010_500, "kvm_entry", 0, 0, {}),
    (1_200_000_000, "kvm_exit", 0, 0, {"isa": 2, "exit_reason": 0x78}),
    (2_500_000_000, "kvm_entry", 0, 0, {}),
    (2_600_000_000, "kvm_exit", 0, 0, {"isa": 2, "exit_reason": 0x7B}),
]


run = partial(hvtrace, "exits")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_store(tmp_path / "t.hvt", EVENTS)
    return tmp_path


def test_a_table_for_people(folder: Path) -> None:
    """A row a reason, the longest time first, with a bar; and what was not counted."""
    done = run("t.hvt", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "2 exits in 1.300 s (kvm_exit → kvm_entry)\n"
        "\n"
        "    count    %    time     %           kernel userspace    mean     p99     max\n"
        "hlt     1 50.0 1.300 s 100.0 ████████ 1.300 s      0 ns 1.300 s 1.300 s 1.300 s\n"
        "msr     1 50.0 10.5 µs   0.0          10.5 µs      0 ns 10.5 µs 10.5 µs 10.5 µs\n"
        "\n"
        "Not counted: 1 event without an end.\n"
    )


def test_json_has_what_scripts_need(folder: Path) -> None:
    """One object with schema_version; rows with at least reason and count; times are integers in ns."""
    done = run("t.hvt", "--by", "msr", "--output-format", "json", cwd=folder)
    answer = json.loads(done.stdout)
    assert (answer["schema_version"], answer["source"], answer["unit"]) == (1, "t.hvt", "ns")
    assert (answer["count"], answer["time_ns"]) == (2, 1_300_010_500)
    assert answer["rows"] == [
        {
            "reason": "msr",
            "nested": False,
            "msr": "HV_X64_MSR_EOI",
            "index": 0x40000070,
            "access": "write",
            "count": 1,
            "count_share": 0.5,
            "time_ns": 10_500,
            "time_share": pytest.approx(10_500 / 1_300_010_500),
            "kernel_ns": 10_500,
            "userspace_ns": 0,
            "min_ns": 10_500,
            "mean_ns": 10_500,
            "max_ns": 10_500,
            "deviation": 0.0,
            "p50_ns": 10_500,
            "p90_ns": 10_500,
            "p99_ns": 10_500,
            "p99_9_ns": 10_500,
        }
    ]


def test_csv_has_the_same(folder: Path) -> None:
    """A line of names, a line a row; also where there is no row."""
    words = ("t.hvt", "--output-format", "csv", "--sort", "reason")
    rows = list(csv.DictReader(io.StringIO(run(*words, cwd=folder).stdout)))
    assert [(row["reason"], row["count"], row["max_ns"]) for row in rows] == [
        ("hlt", "1", "1300000000"),
        ("msr", "1", "10500"),
    ]
    empty = run(*words, "--from", "3", cwd=folder)
    assert empty.stdout.splitlines() == [",".join(rows[0])]


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_table_fits_the_terminal(tmp_path: Path, columns: int) -> None:
    """The narrower it is, the fewer the figures."""
    done = run(get("two-vms") / "trace.dat", "--by", "vcpu", "--by", "msr", cwd=tmp_path, columns=columns)
    assert (done.returncode, done.stderr) == (0, "")
    _, _, *table = done.stdout.splitlines()[: 25 + 3]
    assert max(map(len, table)) <= columns
    assert ("p99.9" in table[0]) == (columns == 200)
    assert "… and " in done.stdout


def test_the_help_fits_a_terminal(tmp_path: Path) -> None:
    """With each example on a line of its own."""
    lines = run("--help", cwd=tmp_path).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("    hvtrace exits ") for line in lines) >= 5


def test_one_access(folder: Path) -> None:
    """In the singular."""
    done = run("t.hvt", "--event", "msr", cwd=folder)
    assert done.stdout.splitlines()[0] == "1 msr access in 8.5 µs (kvm_msr → kvm_entry)"
    assert "0x40000070:W HV_X64_MSR_EOI" in done.stdout


def test_the_slow_ones(folder: Path) -> None:
    """Each with its time, what it took and its two events."""
    done = run("t.hvt", "--than", "1ms", "--top", "1", cwd=folder)
    assert done.stdout.splitlines()[2:4] == [
        "1.200000  VM 0 vCPU 0 hlt  1.300 s",
        "    thread 100, events 4 and 5",
    ]
    answer = json.loads(run("t.hvt", "--than", "1us", "--output-format", "json", cwd=folder).stdout)
    assert [(pair["reason"], pair["ns"]) for pair in answer["slow"]] == [
        ("hlt", 1_300_000_000),
        ("msr", 10_500),
    ]
    nothing = run("t.hvt", "--than", "5s", cwd=folder)
    assert nothing.stdout == (
        "2 exits in 1.300 s (kvm_exit → kvm_entry)\n\nNot counted: 1 event without an end.\n"
    )


def test_only_so_many_rows(folder: Path) -> None:
    """--top cuts every form; 0 is all. The totals stay."""
    lines = run("t.hvt", "--top", "1", "--output-format", "csv", cwd=folder).stdout.splitlines()
    assert [line.split(",")[0] for line in lines] == ["reason", "hlt"]
    words = ("t.hvt", "--than", "1us", "--output-format", "json", "--top")
    cut, whole = (json.loads(run(*words, top, cwd=folder).stdout) for top in ("1", "0"))
    assert [(len(answer["rows"]), len(answer["slow"])) for answer in (cut, whole)] == [(1, 1), (2, 2)]
    assert cut["count"] == whole["count"] == 2


def test_a_span_of_time(folder: Path) -> None:
    """--from and --to take trace seconds and times from the start."""
    words = ("t.hvt", "--output-format", "json", "--from", "1.05", "--to", "+150ms")
    answer = json.loads(run(*words, cwd=folder).stdout)
    assert [row["reason"] for row in answer["rows"]] == ["msr"]
    assert (answer["first_ns"], answer["last_ns"]) == (1_050_000_000, 1_150_000_000)


def test_parts_of_the_time(folder: Path) -> None:
    """Rows begin with the time at which their part begins."""
    done = run("t.hvt", "--interval", "150ms", "--output-format", "csv", cwd=folder)
    rows = [row[:4] for row in csv.reader(io.StringIO(done.stdout))]
    assert rows == [
        ["from_ns", "reason", "nested", "per_second"],
        ["1000000000", "msr", "false", "6.666666666666667"],
        ["1150000000", "hlt", "false", "6.666666666666667"],
    ]
    assert "\n1.150000 hlt " in run("t.hvt", "--interval", "150ms", cwd=folder).stdout


def test_a_histogram(folder: Path) -> None:
    """One below the table for each row."""
    done = run("t.hvt", "--histogram", cwd=folder)
    assert f"\n\nhlt\n   1.074 s          1 {'█' * 40}\n\nmsr\n" in done.stdout


def test_ticks_are_called_ticks(tmp_path: Path) -> None:
    """Where nobody knows how long one is."""
    tiny_store(tmp_path / "t.hvt", EVENTS, unit="ticks")
    done = run("t.hvt", cwd=tmp_path)
    assert done.stdout.splitlines()[0] == "2 exits in 1,300,010,500 ticks (kvm_exit → kvm_entry)"
    answer = json.loads(run("t.hvt", "--output-format", "json", cwd=tmp_path).stdout)
    assert answer["unit"] == "ticks"


MISTAKES = [
    (("none.hvt",), "hvtrace: none.hvt: No such file or directory"),
    (("t.hvt", "--vm", "7"), "hvtrace: t.hvt: has no VM 7; it has 0"),
    (("t.hvt", "--vcpu", "3"), "hvtrace: t.hvt: has no vCPU 3; it has 0"),
    (("t.hvt", "--by", "msr", "--by", "port"), "--by msr and --by port: one at a time"),
    (("t.hvt", "--by", "msr", "--event", "mmio"), "--by msr breaks exits down: not with --event mmio"),
    (("t.hvt", "--from", "2", "--to", "1"), "--to 1 is before --from 2"),
    (("t.hvt", "--interval", "0"), "--interval 0: a part of the time is longer than nothing"),
    (("t.hvt", "--than", "long"), "'long' is no time"),
    (("t.hvt", "--sort", "colour"), "'colour' is not one of"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_said_and_exit_code_2(folder: Path, words: tuple[str, ...], message: str) -> None:
    """Nothing on stdout, no traceback."""
    done = run(*words, cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


PAGE = SAMPLES.parent / "docs" / "exits.md"
SHOWN = re.findall(
    r"^    \$ hvtrace exits (sample_traces/.*)\n((?:    .*\n|\n(?=    ))+)", PAGE.read_text(), re.M
)


@pytest.mark.parametrize(("words", "output"), SHOWN)
def test_the_page_shows_what_is_printed(words: str, output: str) -> None:
    """Every example of docs/exits.md that one can repeat, from its beginning."""
    done = run(*words.split(), cwd=SAMPLES.parent)
    expected = [line.removeprefix("    ") for line in output.rstrip().splitlines()]
    assert expected == done.stdout.splitlines()[: len(expected)]


def test_the_page_has_examples() -> None:
    """So that the test above has something to hold."""
    assert len(SHOWN) == 3
