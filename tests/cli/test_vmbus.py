"""`hvtrace vmbus` as a user meets it."""

from __future__ import annotations

import csv
import io
import json
from functools import partial
from pathlib import Path

import pytest
from builders import vmbus as v
from builders.cli import hvtrace
from builders.store import Row, tiny_store
from recordings import get

MS = 1_000_000

ROWS: list[Row] = [
    (1_000 * MS, "kvm_entry", 0, 0, {"tid": 100}),
    v.call(1_001 * MS, 0x5C),
    v.received(1_001 * MS + 1, 14, 40),
    v.done(1_002 * MS),
    v.taken(1_003 * MS, 14),
    v.contact(1_003 * MS + 1, 4, 0),
    v.posted(1_004 * MS, 15, 12),
    v.back(1_005 * MS),
    v.received(1_010 * MS, 3),
    v.taken(1_011 * MS, 3),
    v.offer(1_012 * MS, 2),
    v.posted(1_013 * MS, 1, 200),
    v.back(1_014 * MS, -11),
    v.offer(1_015 * MS, 2),
    v.posted(1_016 * MS, 1, 200),
    v.back(1_017 * MS),
    (3_000 * MS, "kvm_exit", 0, 0, {"tid": 100, "isa": 2, "exit_reason": 0x78}),
]


run = partial(hvtrace, "vmbus")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_store(tmp_path / "t.hvt", ROWS)
    return tmp_path


def test_an_answer_for_people(folder: Path) -> None:
    """The connection, the channels, each message, and what was not answered."""
    done = run("t.hvt", "--messages", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        "VM 0: VMBus 4.0, agreed at 1.005000 by vCPU 0; 1 channel offered\n"
        "\n"
        "Channels, and signals each way\n"
        "   device state   → host → guest\n"
        "#2 ?      offered      0       0\n"
        "  ?: no event prints the GUIDs of an offer.\n"
        "\n"
        "Messages to the host, with the time until the answer was delivered\n"
    )
    assert (
        "Conversation\n"
        "1.001000 → INITIATE_CONTACT (version 4.0, VP 0), answered after 4.0 ms\n"
        "1.004000 ← VERSION_RESPONSE, delivered after 1.0 ms\n"
        "1.010000 → REQUESTOFFERS\n"
        "1.013000 ← OFFERCHANNEL (channel 2), delivered after 4.0 ms, at the 2nd try\n"
        "\n"
        "1 request without an answer\n"
        "1.010000 REQUESTOFFERS of vCPU 0: not answered; 1.990 s until the end\n"
    ) in done.stdout


def test_rows_for_scripts(folder: Path) -> None:
    """One object of JSON; csv has the table asked for."""
    found = json.loads(run("t.hvt", "--output-format", "json", "--table", "unanswered", cwd=folder).stdout)
    assert (found["schema_version"], found["unit"], found["told"]["qemu"]) == (1, "ns", True)
    assert found["rows"] == found["unanswered"]
    assert found["rows"][0]["ts_ns"] == 1_010 * MS
    assert [one["version"] for one in found["connections"]] == ["4.0"]
    text = run("t.hvt", "--output-format", "csv", "--table", "conversation", "--top", "3", cwd=folder).stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["message"], row["tries"]) for row in rows] == [
        ("INITIATE_CONTACT", "1"),
        ("VERSION_RESPONSE", "1"),
        ("REQUESTOFFERS", ""),
    ]


@pytest.mark.parametrize(
    "name", ["vmbus-balloon-2s", "vmbus-balloon-ftrace-2s", "linux-vmbus-msg", "kut-hyperv_connections"]
)
def test_it_fits_eighty_columns(name: str, tmp_path: Path) -> None:
    """A recording without QEMU's events says what is missing, and how to add it."""
    done = run(get(name) / "trace.dat", "--messages", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert ("hvtrace ingest" in done.stdout) == (name != "vmbus-balloon-ftrace-2s")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["t.hvt", "--vm", "7"], "has no VM 7"),
        (["t.hvt", "--table", "nothing"], "--table"),
        (["t.hvt", "--from", "3", "--to", "2"], "is before --from"),
        (["nothing.hvt"], "No such file"),
    ],
)
def test_errors(folder: Path, words: list[str], message: str) -> None:
    """One clear message, exit code 2, nothing on stdout."""
    done = run(*words, cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_qemus_log_alone(tmp_path: Path) -> None:
    """It says what KVM's events would add; of a log without stamps, that times are none."""
    log = get("vmbus-balloon-2s") / "qemu-trace.log"
    bare = tmp_path / "bare.log"
    bare.write_text("".join(line.split(":", 1)[1] for line in log.read_text().splitlines(keepends=True)))
    for path, ticks in ((log, False), (bare, True)):
        done = run(path, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("VM ?: VMBus 4.0, agreed at ")
        assert "Not told, for KVM's events are not there: hypercalls" in done.stdout
        assert ("count ticks" in done.stdout) == ticks
