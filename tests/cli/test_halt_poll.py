"""`hvtrace halt-poll` as a user meets it."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path

import pytest
from builders.cli import hvtrace
from builders.polling_host import Host
from builders.store import Row, tiny_store
from recordings import SAMPLES, get

#: Halts of one vCPU: polling grows to 20 µs, sees three ends, and is given up after a long halt.
ARRIVALS = [4_000, 15_000, 9_000, 12_000, 15_000, 900_000, 4_000]


run = partial(hvtrace, "halt-poll")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_store(tmp_path / "t.hvt", Host().rows(ARRIVALS), polling_cap=200_000)
    return tmp_path


def test_an_answer_for_people(folder: Path) -> None:
    """What polling cost, whether it followed its rules, how long waking up took, and what without it."""
    done = run("t.hvt", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "7 halts of 1 vCPU in 1.0 ms; polling took 66.3 µs, 6.32% of one CPU\n"
        "Parameters: halt_poll_ns 200000 (metadata), halt_poll_ns_grow 2 (inferred),\n"
        "halt_poll_ns_grow_start 10000 (inferred), halt_poll_ns_shrink 0 (inferred).\n"
        "Reproduced 4 of 4 recorded changes of polling times.\n"
        "\n"
        "            halts success failed unpolled at once  polled in vain   CPU grew\n"
        "VM 0 vCPU 0     7       3      2        2       0 36.3 µs 30.0 µs 6.32%    3\n"
        "\n"
        "                      wake-ups   mean    p50    p99\n"
        "after polling                3 100 ns 100 ns 100 ns\n"
        "  kvm_apic_accept_irq        3 100 ns 100 ns 100 ns\n"
        "after sleeping               4 5.0 µs 5.0 µs 5.0 µs\n"
        "  kvm_apic_accept_irq        4 5.0 µs 5.0 µs 5.0 µs\n"
        "From the event that ended the halt to kvm_vcpu_wakeup.\n"
        "Polling saved about 14.7 µs of waiting: 3 successes · 4.9 µs, the difference of\n"
        "the medians.\n"
        "\n"
        "Longest polling time, 17.5 µs a step (█ 20.0 µs):\n"
        "VM 0 vCPU 0  ·▄█ ██                                                   █·\n"
        "\n"
        "what if success failed  polled in vain   CPU          wake-up             p99\n"
        "own           3      2 36.3 µs 30.0 µs 6.32% ████████  2.9 µs █████    5.0 µs\n"
        "off           0      0    0 ns    0 ns 0.00%           5.0 µs ████████ 5.0 µs\n"
        "Other settings: --what-if halt_poll_ns=50000, --sweep auto.\n"
    )


def test_settings_and_a_recommendation(folder: Path) -> None:
    """Those asked for, after the recording's own and none; the one recommended is marked, with its reason."""
    done = run("t.hvt", "--sweep", "halt_poll_ns=0:40000:20000", "--what-if", "guest=on", cwd=folder)
    assert done.returncode == 0
    table = done.stdout[done.stdout.index("what if ") :].splitlines()
    assert [line.split()[0] for line in table[1:6]] == [
        "own", "off", "guest=on", "halt_poll_ns=20000", "halt_poll_ns=40000",
    ]  # fmt: skip
    assert sum("◀" in line for line in table) == 1
    assert "Recommended: " in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    chosen = [
        json.loads(run("t.hvt", "--sweep", "auto", *words, "--output-format", "json", cwd=folder).stdout)
        for words in ((), ("--prefer", "latency"))
    ]
    assert [found["recommended"]["prefer"] for found in chosen] == ["balance", "latency"]
    costs = [{s["name"]: s for s in found["settings"]}[found["recommended"]["name"]] for found in chosen]
    assert costs[0]["burnt_ns"] <= costs[1]["burnt_ns"]
    assert costs[0]["latency_mean_ns"] >= costs[1]["latency_mean_ns"]


def test_json_has_what_scripts_need(folder: Path) -> None:
    """One object: the question, a row a vCPU, what was reproduced, what each setting brings about."""
    done = run("t.hvt", "--what-if", "halt_poll_ns=50000", "--output-format", "json", cwd=folder)
    found = json.loads(done.stdout)
    assert (found["schema_version"], found["source"], found["unit"]) == (1, "t.hvt", "ns")
    (row,) = found["rows"]
    assert (row["vm"], row["vcpu"], row["halts"], row["successes"], row["vain_ns"]) == (0, 0, 7, 3, 30_000)
    assert {name: row[name] for name in found["total"]} == found["total"]
    assert (found["reproduced"]["recorded"], found["reproduced"]["matched"]) == (4, 4)
    assert [(row["after"], row["cause"], row["count"], row["p99_ns"]) for row in found["causes"]] == [
        ("polled", "kvm_apic_accept_irq", 3, 100),
        ("blocked", "kvm_apic_accept_irq", 4, 5_000),
    ]
    assert [setting["name"] for setting in found["settings"]] == ["own", "off", "halt_poll_ns=50000"]
    assert found["settings"][2]["setting"]["halt_poll_ns"] == 50_000
    assert len(found["over_time"]["vcpus"][0]["poll_max_ns"]) == 60


def test_csv_has_vcpus_or_settings(folder: Path) -> None:
    """A line a vCPU; where settings are asked for, a line each of them."""
    vcpus = list(csv.DictReader(io.StringIO(run("t.hvt", "--output-format", "csv", cwd=folder).stdout)))
    assert [(row["vcpu"], row["halts"]) for row in vcpus] == [("0", "7")]
    done = run("t.hvt", "--sweep", "auto", "--output-format", "csv", cwd=folder)
    named = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["name"] for row in named][:3] == ["own", "off", "halt_poll_ns=10000"]
    assert named[2]["grow_start"] == "10000"


def test_the_page_shows_what_is_printed() -> None:
    """The examples in the docs are the command's answers, line by line; "…" stands for any lines."""
    root = SAMPLES.parent
    pages = (
        (root / "docs" / "halt-poll.md")
        .read_text(encoding="utf-8")
        .replace(" \\\n       ", "")
        .split("    $ hvtrace ")
    )
    shown = [
        page.split("\n\n    $")[0].splitlines()
        for page in pages[1:]
        if page.startswith("halt-poll sample_traces")
    ]
    assert len(shown) == 3
    for command, *lines in shown:
        words = command.split()[1:]
        assert (root / words[0]).exists()
        printed = run(*words, cwd=root).stdout.splitlines()
        block = [line.removeprefix("    ") for line in lines if line.startswith("    ")]
        assert len(block) > 5
        assert [line for line in block if line != "…" and line not in printed] == []


def test_a_broken_kvm_is_said_to_be_one(tmp_path: Path) -> None:
    """The first changes that are not the algorithm's are listed with the events; nothing is hidden."""
    done = run(get("055-grow-rule") / "trace.dat", cwd=tmp_path)
    assert done.returncode == 0
    assert "Reproduced 7 of 36 recorded changes of polling times." in done.stdout
    assert "29 changes grew or shrank to another value" in done.stdout
    assert "expected 20000 →" in done.stdout


def test_a_part_of_the_recording(folder: Path) -> None:
    """Halts that end in it; a part without any is no error; a vCPU that is not there is one."""
    part = run("t.hvt", "--to", "+60us", "--output-format", "json", cwd=folder)
    assert json.loads(part.stdout)["total"]["halts"] == 2
    assert "No vCPU halted in this part." in run("t.hvt", "--from", "99", cwd=folder).stdout
    done = run("t.hvt", "--vcpu", "7", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no vCPU 7" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--what-if", "nonsense"), "write NAME=VALUE"),
        (("--what-if", "sleep=1"), "no parameter 'sleep'"),
        (("--sweep", "grow=1:2:1"), "halt_poll_ns=FIRST:LAST:STEP"),
        (("--own", "grow=x"), "grow=x: a number"),
        (("--plot", "x.pdf"), ".png, .svg, .html"),
        (("--prefer", "beauty"), "--prefer"),
    ],
)
def test_what_makes_no_sense_is_refused(folder: Path, words: tuple[str, str], said: str) -> None:
    """In one message, with exit code 2 and nothing on stdout."""
    done = run("t.hvt", *words, cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_recording_without_halts(tmp_path: Path) -> None:
    """What was not recorded is not "no polling": it is an error that says so."""
    tiny_store(tmp_path / "t.hvt", [(0, "kvm_entry", 0, 0, {})])
    done = run("t.hvt", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "holds no kvm_vcpu_wakeup events" in done.stderr


def test_a_clock_that_counts_ticks(tmp_path: Path) -> None:
    """Halts have their times in ns whatever the clock; shares and latencies cannot be told."""
    tiny_store(tmp_path / "t.hvt", Host().rows(ARRIVALS), unit="ticks")
    found = json.loads(run("t.hvt", "--output-format", "json", cwd=tmp_path).stdout)
    assert found["total"]["polled_ns"] == 36_300
    assert found["total"]["cpu_share"] is None
    assert found["total"]["blocked_latency_count"] == 0
    assert run("t.hvt", "--sweep", "auto", cwd=tmp_path).returncode == 0


def test_halts_of_an_unknown_vcpu_are_counted(tmp_path: Path) -> None:
    """They are in no row, and it says how many there are."""
    nobody: Row = (10**7, "kvm_vcpu_wakeup", None, 0, {"ns": 5, "waited": True, "valid": True})
    tiny_store(tmp_path / "t.hvt", [*Host().rows(ARRIVALS), nobody])
    done = run("t.hvt", cwd=tmp_path)
    assert "7 halts of 1 vCPU" in done.stdout
    assert "Not counted: 1 halt of an unknown vCPU." in done.stdout


@pytest.mark.parametrize("ending", ["png", "svg", "html"])
def test_a_picture(folder: Path, ending: str) -> None:
    """Of settings, by default a grid of them; a page carries all it needs."""
    done = run("t.hvt", "--plot", f"p.{ending}", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    written = (folder / f"p.{ending}").read_bytes()
    if ending == "png":
        assert written.startswith(b"\x89PNG")
    elif ending == "svg":
        texts = [element.text for element in ET.fromstring(written).iter() if element.tag.endswith("text")]
        assert {"off", "200 µs", "polling, % of one CPU"} <= set(texts)
    else:
        assert b"vegaEmbed" in written
        assert b"<script src" not in written
        assert b"cdn.jsdelivr" not in written


def test_what_a_picture_needs(folder: Path) -> None:
    """Where the libraries are missing it says what to install."""
    absent = "import sys; sys.modules['altair'] = None; from hvtrace.cli.main import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", absent, "halt-poll", "t.hvt", "--plot", "p.png"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "hvtrace: --plot needs altair and vl-convert-python: pip install 'hvtrace[plot]'\n"
