"""`hvtrace diff` as a user meets it."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from functools import partial
from pathlib import Path

import pytest
from builders.cli import hvtrace
from builders.store import Row, add_divergences, tiny_store
from recordings import SAMPLES, get

IO = 0x7B


def load(number: int, took: int, *, seed: int = 7) -> list[Row]:
    """An IO exit about every millisecond, each `took` ns and a little."""
    rows: list[Row] = [(1_000_000_000, "kvm_entry", 0, 0, {})]
    for n in range(number):
        # No two take the same, and neighbours do not resemble each other.
        ts = 1_001_000_000 + n * 1_000_000 + (n * seed * 7919) % 1009
        rows.append((ts, "kvm_exit", 0, 0, {"isa": 2, "exit_reason": IO}))
        rows.append((ts + took + (n * seed * 104729) % 997, "kvm_entry", 0, 0, {}))
    return rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_store(tmp_path / "a.hvt", load(3000, 20_000))
    tiny_store(tmp_path / "b.hvt", load(3000, 40_000, seed=11))
    return tmp_path


run = partial(hvtrace, "diff")


def test_a_comparison_for_people(folder: Path) -> None:
    """What the recordings are, what changed, and figures side by side; a change is marked."""
    done = run("a.hvt", "b.hvt", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("A  a.hvt, VM 0, 3.000 s")
    assert "A and B were not checked (--replay)." in lines
    assert re.search(r"^[34] of 5 figures changed \(q ≤ 0.05\)$", done.stdout, re.M)
    assert re.search(r"^exit io mean 20\.5 µs 40\.5 µs\s+\+98 %\s", done.stdout, re.M)
    assert re.search(
        r"^exit io 1,000 1,000\s+=\s+2\.0 %  4\.0 % 20\.5 µs 40\.5 µs \+98 %\*$", done.stdout, re.M
    )
    assert max(map(len, lines)) <= 80


def test_a_recording_and_itself(folder: Path) -> None:
    """No difference, and no threshold is too small."""
    done = run("a.hvt", "a.hvt", "--threshold", "0%", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "0 of 5 figures changed" in done.stdout
    aligned = run("a.hvt", "a.hvt", "--align", cwd=folder)
    assert aligned.returncode == 0
    assert "There are no events to align." in aligned.stdout


@pytest.mark.parametrize(("threshold", "code"), [("10%", 1), ("0.5", 1), ("150%", 0), ("99.5 %", 0)])
def test_a_threshold(folder: Path, threshold: str, code: int) -> None:
    """Exit code 1 where a significant change is larger, and how many."""
    done = run("a.hvt", "b.hvt", "--threshold", threshold, cwd=folder)
    assert done.returncode == code
    assert bool(done.stderr) == bool(code)
    assert "0 of" not in done.stdout
    if code:
        assert re.fullmatch(r"[34] figures changed by more than (10|50) %\n", done.stderr)


def test_new_divergences_break_a_threshold(folder: Path) -> None:
    """Of errors that the first recording, which was checked, does not have."""
    from hvtrace.store import Store

    a, b = (Store(folder / f"{name}.hvt") for name in "ab")
    error = {
        "rule": "HV501",
        "name": "stimer-config-read-back",
        "severity": "error",
        "vm": 0,
        "ts_ns": 1,
        "count": 2,
    }
    add_divergences(b, [error])
    assert run("a.hvt", "b.hvt", "--threshold", "500%", cwd=folder).returncode == 0
    add_divergences(a, [])
    done = run("a.hvt", "b.hvt", "--threshold", "500%", cwd=folder)
    assert (done.returncode, done.stderr) == (1, "1 kind of divergence is new in B\n")
    assert "HV501 stimer-config-read-back (error)  A: 0   B: 2" in done.stdout
    assert run("b.hvt", "a.hvt", "--threshold", "500%", cwd=folder).returncode == 0


def test_json(folder: Path) -> None:
    """One object: both sides, rows with all that was found, what was left out."""
    done = run("a.hvt", "b.hvt", "--output-format", "json", cwd=folder)
    answer = json.loads(done.stdout)
    assert (answer["schema_version"], answer["unit"], answer["alpha"]) == (1, "ns", 0.05)
    assert (answer["a"]["source"], answer["b"]["source"], answer["a"]["vms"]) == ("a.hvt", "b.hvt", [0])
    mean = next(row for row in answer["rows"] if row["figure"] == "mean")
    assert (mean["subject"], mean["unit"], mean["significant"], mean["delta"]) == ("exit io", "ns", True, 1.0)
    assert {"section": "ports", "why": "not recorded in A and B"} in answer["not_compared"]
    assert answer["divergences"] == {"checked_a": False, "checked_b": False, "rows": []}


def test_csv(folder: Path) -> None:
    """The rows."""
    done = run("a.hvt", "b.hvt", "--output-format", "csv", cwd=folder)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert {row["figure"] for row in rows} == {"rate", "time", "mean", "p50", "p99"}
    assert {row["count_a"] for row in rows} == {"3000"}


def test_parts(folder: Path) -> None:
    """--from and --to are of both recordings, --from-b and --to-b of the second."""
    words = ("a.hvt", "b.hvt", "--output-format", "json")
    answer = json.loads(run(*words, "--from", "+1s", "--to", "+2s", "--to-b", "+1.5s", cwd=folder).stdout)
    assert [round(answer[side]["seconds"], 1) for side in "ab"] == [1.0, 0.5]
    assert answer["b"]["first_ns"] == 2_000_000_000


def test_two_vms_of_one_recording(tmp_path: Path) -> None:
    """--vm-a and --vm-b."""
    source = get("two-vms") / "trace.dat"
    done = run(source, source, "--vm-a", "0", "--vm-b", "1", "--top", "3", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].split(", ")[-2] == "VM 0"
    assert re.search(r"^B  .*VM 1, [0-9.]+ s$", done.stdout.replace("\n   ", " "), re.M)


def test_the_first_difference(tmp_path: Path) -> None:
    """--align: exit code 1, the events around it, and how it goes on."""
    a, b = (get(name) / "trace.dat" for name in ("baseline-hvmut-msr", "035-os-id-zero"))
    done = run(a, b, "--align", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "23 of 24 sequences the same" in done.stdout
    assert re.search(r"^VM 0 vCPU 0, program: after 425 events in common, another one$", done.stdout, re.M)
    assert re.search(r"^  A 30\.794401 #18062  read HV_X64_MSR_HYPERCALL = 0x104c000$", done.stdout, re.M)
    assert re.search(r"^  B 21\.445270 #18009  read HV_X64_MSR_HYPERCALL = 0x104d001$", done.stdout, re.M)
    assert done.stdout.rstrip().endswith(
        "Differs in 1 place: 1 only in A, 1 only in B; together again after it."
    )
    assert max(map(len, done.stdout.splitlines())) <= 80 + len(str(a))
    answer = json.loads(run(a, b, "--align", "--output-format", "json", cwd=tmp_path).stdout)
    assert answer["rows"][0]["b"][3] == {
        "seq": 18009,
        "ts_ns": 21_445_270_033,
        "text": "read HV_X64_MSR_HYPERCALL = 0x104d001",
        "common": False,
    }
    rows = csv.DictReader(io.StringIO(run(a, b, "--align", "--output-format", "csv", cwd=tmp_path).stdout))
    assert next((row["sequence"], row["verdict"]) for row in rows) == ("program", "differs")


MISTAKES = [
    (("none.hvt", "a.hvt"), "hvtrace: none.hvt: No such file or directory"),
    (("a.hvt", "b.hvt", "--vm-b", "7"), "hvtrace: b.hvt: has no VM 7; it has 0"),
    (("a.hvt", "b.hvt", "--threshold", "much"), "--threshold much: write 10%, or 0.1"),
    (
        ("a.hvt", "b.hvt", "--align", "--threshold", "1%"),
        "--align compares events: not with --threshold or --replay",
    ),
    (("a.hvt",), "Missing argument 'B'"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_said_and_exit_code_2(folder: Path, words: tuple[str, ...], message: str) -> None:
    """Nothing on stdout, no traceback."""
    done = run(*words, cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_help_fits_a_terminal(tmp_path: Path) -> None:
    """With each example on a line of its own."""
    lines = run("--help", cwd=tmp_path).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("    hvtrace diff ") for line in lines) >= 4


PAGE = SAMPLES.parent / "docs" / "diff.md"
SHOWN = re.findall(
    r"^    \$ hvtrace diff (sample_traces/.*)\n((?:    .*\n|\n(?=    ))+)", PAGE.read_text(), re.M
)


@pytest.mark.parametrize(("words", "output"), SHOWN)
def test_the_page_shows_what_is_printed(words: str, output: str) -> None:
    """Every example of docs/diff.md that one can repeat, from its beginning."""
    done = run(*shlex.split(words), cwd=SAMPLES.parent)
    expected = [line.removeprefix("    ") for line in output.rstrip().splitlines()]
    assert expected == done.stdout.splitlines()[: len(expected)]


def test_the_page_has_examples() -> None:
    """So that the test above has something to hold."""
    assert len(SHOWN) == 3
