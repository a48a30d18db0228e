"""`hvtrace export` as a user meets it."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from builders.store import add_divergences, tiny_store
from builders.timeline import read_timeline
from recordings import get

from hvtrace.cli.times import parse_time

EVENTS = [
    (1_000_000_000, "kvm_entry", 0, 0, {}),
    (1_200_000_000, "kvm_exit", 0, 0, {"isa": 2, "exit_reason": 0x78}),
    (2_500_000_000, "kvm_entry", 0, 0, {}),
    (2_600_000_000, "kvm_exit", 0, 0, {"isa": 2, "exit_reason": 0x7B}),
]


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "hvtrace", "export", *map(str, words)],
        capture_output=True,
        check=False,
        cwd=cwd,
    )


def test_the_timeline_is_named_after_the_store(tmp_path: Path) -> None:
    """NAME.hvt gives NAME.pftrace here; the summary goes to stderr."""
    tiny_store(tmp_path / "night.hvt", EVENTS)
    done = run("night.hvt", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b"")
    path = tmp_path / "night.pftrace"
    size = f"{path.stat().st_size:,}"
    assert done.stderr.decode() == (
        f"night.pftrace: 3 slices, {size} bytes\n"
        "no divergences are drawn: `hvtrace replay night.hvt --check` adds them to the store\n"
    )
    assert len([s for s in read_timeline(path.read_bytes()).slices if s.track[0] == "VM 0"]) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["night.hvt", "night.pftrace"]


def test_dash_is_stdout_and_gzip_is_gzip(tmp_path: Path) -> None:
    """`-o -` writes the trace itself; --gzip packs the same bytes."""
    add_divergences(tiny_store(tmp_path / "t.hvt", EVENTS), [])
    plain = run("t.hvt", "-o", "-", cwd=tmp_path)
    packed = run("t.hvt", "--gzip", cwd=tmp_path)
    assert (plain.returncode, plain.stderr, packed.returncode) == (0, b"", 0)
    assert gzip.decompress((tmp_path / "t.pftrace.gz").read_bytes()) == plain.stdout


def test_a_span_of_time(tmp_path: Path) -> None:
    """--from and --to take trace seconds and times from the start."""
    tiny_store(tmp_path / "t.hvt", EVENTS)
    done = run("t.hvt", "-o", "-", "--from", "+1s", "--to", "2.4", cwd=tmp_path)
    assert [s.name for s in read_timeline(done.stdout).slices if s.track[0] == "VM 0"] == ["hlt"]


MISTAKES = [
    (("t.hvt", "-o", "folder"), "hvtrace: folder: exists and is no regular file; it is left alone\n"),
    (
        ("t.hvt", "-o", "no/x.pftrace"),
        "hvtrace: no/x.pftrace: cannot be written: No such file or directory\n",
    ),
    (("none.hvt",), "hvtrace: none.hvt: No such file or directory\n"),
    (("t.hvt", "--vm", "7"), "hvtrace: t.hvt: has no VM 7; it has 0\n"),
    (("t.hvt", "--vcpu", "3"), "hvtrace: t.hvt: has no vCPU 3; it has 0\n"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    """No traceback, and nothing is left behind."""
    tiny_store(tmp_path / "t.hvt", EVENTS)
    (tmp_path / "folder").mkdir()
    done = run(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", message)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "t.hvt"]


def test_a_span_that_ends_before_it_begins(tmp_path: Path) -> None:
    """Is refused with both times."""
    tiny_store(tmp_path / "t.hvt", EVENTS)
    done = run("t.hvt", "--from", "2", "--to", "1.5", cwd=tmp_path)
    assert done.returncode == 2
    assert "--to 1.5 is before --from 2" in done.stderr.decode()


def test_a_recording_is_taken_as_well(tmp_path: Path) -> None:
    """It is read on the way; the timeline is named after it, and nothing else is left."""
    done = run(get("baseline-hvmut-stimer") / "trace.dat", "--to", "+1s", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["trace.pftrace"]
    assert read_timeline((tmp_path / "trace.pftrace").read_bytes()).facts["kernel"].startswith("6.1.0")


TIMES = [
    ("12.5", 12_500_000_000),
    ("+1.5s", 8_500_000_000),
    ("123456789ns", 123_456_789),
    ("7.000000001", 7_000_000_001),
    ("+250ms", 7_250_000_000),
    ("0", 0),
]


@pytest.mark.parametrize(("text", "ns"), TIMES)
def test_times(text: str, ns: int) -> None:
    """Seconds unless a unit is given; + counts from the start (here 7 s). Exact to the nanosecond."""
    assert ns == parse_time(text, 7_000_000_000)


@pytest.mark.parametrize("text", ["", "abc", "-5", "1e9", "1.5h", "++1", "9" * 30])
def test_what_is_no_time(text: str) -> None:
    """Is refused with what one may write."""
    with pytest.raises(typer.BadParameter, match="is no time"):
        parse_time(text, 0)


def test_ticks_are_asked_for_as_ticks() -> None:
    """A recording in ticks has no seconds."""
    assert parse_time("+5ticks", 100, unit="ticks") == 105
    with pytest.raises(typer.BadParameter, match="counts ticks"):
        parse_time("5", 100, unit="ticks")
