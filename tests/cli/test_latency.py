"""`hvtrace latency` as a user meets it."""

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

from hvtrace.analysis.latency import MEASURES

S = 1_000_000_000
EVENTS: list[Row] = [
    (S, "kvm_userspace_exit", 0, 0, {"reason": 2, "errno": 0}),
    (S + 1_500, "kvm_entry", 0, 0, {}),
    (2 * S, "kvm_userspace_exit", 0, 0, {"reason": 2, "errno": 0}),
    (2 * S + 4_000, "kvm_entry", 0, 0, {}),
    (2 * S + 5_000, "kvm_vcpu_wakeup", 0, 0, {"ns": 7, "waited": True, "valid": True}),
]


run = partial(hvtrace, "latency")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_store(tmp_path / "t.hvt", EVENTS)
    return tmp_path


def test_a_table_a_measure_for_people(folder: Path) -> None:
    """What was counted; what was recorded and did not happen; what could not be told, and for want of what."""
    done = run("t.hvt", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    head, nothing, absent = done.stdout.split("\n\n")
    assert head == (
        "userspace: kvm_userspace_exit → kvm_entry\n"
        "                               count   time   mean    p50    p90    p99    max\n"
        "KVM_EXIT_IO                        2 5.5 µs 2.8 µs 1.5 µs 4.0 µs 4.0 µs 4.0 µs"
    )
    assert nothing == "Nothing counted:\n  wakeup-entry       1 wake-up without an entry"
    assert absent.splitlines()[:2] == [
        "Not told, for the recording has no such events (not recorded, or none fired):",
        "  stimer-lateness    kvm_hv_stimer_start_one_shot or",
    ]


def test_one_measure_with_the_longest_and_the_spread(folder: Path) -> None:
    """Each with both events and both times."""
    words = ("--measure", "userspace", "--by", "vcpu", "--worst", "1", "--histogram")
    done = run("t.hvt", *words, cwd=folder)
    assert done.stdout == (
        "userspace: kvm_userspace_exit → kvm_entry\n"
        "                               count   time   mean    p50    p90    p99    max\n"
        "VM 0 vCPU 0 KVM_EXIT_IO            2 5.5 µs 2.8 µs 1.5 µs 4.0 µs 4.0 µs 4.0 µs\n"
        "VM 0 vCPU 0 KVM_EXIT_IO\n"
        "    1.0 µs          1 ████████████████████████████████████████\n"
        "    2.0 µs          1 ████████████████████████████████████████\n"
        "2.000000  4.0 µs  VM 0 vCPU 0 KVM_EXIT_IO\n"
        "    until 2.000004, events 2 and 3\n"
    )


def test_json_has_what_scripts_need(folder: Path) -> None:
    """One object with schema_version, the question, the rows; times are integers in ns."""
    done = run("t.hvt", "--measure", "userspace", "--to", "+0.5s", "--output-format", "json", cwd=folder)
    answer = json.loads(done.stdout)
    assert (answer["schema_version"], answer["source"], answer["unit"]) == (1, "t.hvt", "ns")
    assert (answer["measures"], answer["last_ns"]) == (["userspace"], S + 500_000_000)
    assert answer["rows"] == [
        {
            "measure": "userspace",
            "subject": "KVM_EXIT_IO",
            "reason": 2,
            "error": None,
            "count": 1,
            "time_ns": 1_500,
            "min_ns": 1_500,
            "mean_ns": 1_500,
            "p50_ns": 1_500,
            "p90_ns": 1_500,
            "p99_ns": 1_500,
            "p99_9_ns": 1_500,
            "max_ns": 1_500,
        }
    ]
    assert answer["counted"][0]["excluded"] == {"lost": 0, "backwards": 0, "unpaired": 0, "unattributed": 0}
    assert answer["absent"] == []


def test_csv_is_a_table(folder: Path) -> None:
    """A line a row, with the columns that all measures have."""
    done = run("t.hvt", "--by", "vm", "--output-format", "csv", cwd=folder)
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert [row[name] for name in ("measure", "vm", "subject", "count", "max_ns")] == [
        *("userspace", "0", "KVM_EXIT_IO", "2", "4000"),
    ]


def test_the_measures_are_listed_without_a_store(folder: Path) -> None:
    """Each with where it begins and where it ends."""
    done = run("--list", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout.splitlines()[0]
        == "stimer-lateness    a synthetic timer is due → kvm_inj_virq of its interrupt"
    )
    assert max(map(len, done.stdout.splitlines())) < 80


def test_where_the_clock_counts_ticks(tmp_path: Path) -> None:
    """Times are numbers of ticks; when a timer was due is not known, and that is said."""
    fields = {"timer_index": 0}
    rows: list[Row] = [
        (100, "kvm_hv_stimer_start_one_shot", 0, 0, {**fields, "time_now": 5, "count": 6}),
        (300, "kvm_hv_stimer_callback", 0, 0, fields),
        (12_300, "kvm_hv_stimer_expiration", 0, 0, {**fields, "direct": 0, "msg_send_result": 0}),
    ]
    tiny_store(tmp_path / "t.hvt", rows, unit="ticks")
    done = run("t.hvt", "--measure", "stimer-callback", "--measure", "stimer-expiration", cwd=tmp_path)
    assert "timer 0 one-shot                   1 12,000" in done.stdout
    assert "stimer-callback    stamps count ticks" in done.stdout


def test_names_of_threads_do_not_reach_a_terminal_raw(tmp_path: Path) -> None:
    """Whoever preempted a vCPU chose its name itself."""
    comm = {"next_comm": "\x1b[31mevil", "prev_state": 0, "prev_pid": 100, "next_pid": 7}
    rows: list[Row] = [
        (100, "kvm_entry", 0, 0, {}),
        (200, "sched_switch", None, 0, {"tid": 100, **comm}),
        (
            500,
            "sched_switch",
            None,
            0,
            {"tid": 7, "next_comm": "x", "prev_state": 1, "prev_pid": 7, "next_pid": 100},
        ),
    ]
    tiny_store(tmp_path / "t.hvt", rows)
    done = run("t.hvt", "--measure", "preempted", "--worst", "1", cwd=tmp_path)
    assert "by \\x1b[31mevil (7), in guest" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("t.hvt", "--measure", "sleep"), "no 'sleep'; there are stimer-lateness, "),
        (("t.hvt", "--vcpu", "9"), "has no vCPU 9; it has 0"),
        (("t.hvt", "--from", "5", "--to", "4"), "--to 4 is before --from 5"),
        (("none.hvt",), "none.hvt"),
    ],
)
def test_mistakes_are_told_in_a_line(folder: Path, words: tuple[str, ...], message: str) -> None:
    """With exit code 2 and nothing on stdout."""
    done = run(*words, cwd=folder, columns=300)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


@pytest.mark.parametrize("name", ["linux-vmbus-msg", "lossy"])
def test_a_recording_s_answer_fits_a_terminal(tmp_path: Path, name: str) -> None:
    """At 80 columns, with everything asked for."""
    words = ("--by", "vcpu", "--worst", "2", "--histogram", "--top", "0")
    done = run(get(name) / "trace.dat", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80


PAGE = SAMPLES.parent / "docs" / "latency.md"
SHOWN = re.findall(
    r"^    \$ hvtrace latency (sample_traces/.*)\n((?:    .*\n|\n(?=    ))+)", PAGE.read_text(), re.M
)


@pytest.mark.parametrize(("words", "output"), SHOWN)
def test_the_page_shows_what_is_printed(words: str, output: str) -> None:
    """Every example of docs/latency.md that one can repeat, from its beginning."""
    done = run(*words.split(), cwd=SAMPLES.parent)
    expected = [line.removeprefix("    ") for line in output.rstrip().splitlines()]
    assert expected == done.stdout.splitlines()[: len(expected)]


def test_the_page_has_examples_and_every_measure() -> None:
    """So that the test above has something to hold; a measure without its line fails."""
    assert len(SHOWN) == 3
    listed = re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text().split("## Periodic timers")[0], re.M)
    assert listed == list(MEASURES)
