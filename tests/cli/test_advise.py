"""`hvtrace advise` as a user meets it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from advice_cases.enlightenments import HYPERCALL, guest, reads
from builders.cli import hvtrace
from builders.store import tiny_store

from hvtrace.analysis.advice.table import ADVICES

run = partial(hvtrace, "advise")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A guest that reads the PIT 300 times a second (pit.hvt), and a Windows guest's start (windows.hvt)."""
    tiny_store(tmp_path / "pit.hvt", reads(port=0x40, rate=300, seconds=4))
    tiny_store(tmp_path / "windows.hvt", guest(HYPERCALL))
    return tmp_path


def test_findings_for_people(folder: Path) -> None:
    """The finding, its evidence, what to do, the gain; what was not found, and what cannot be judged and why."""
    done = run("pit.hvt", "--code", "AD212", "--code", "pit-reads", "--code", "AD206", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "1 finding (1 low) in 4.997 s of 1 VM\n"
        "\n"
        "LOW AD205 pit-reads  VM 0\n"
        "  The guest reads the PIT's counters 240 a second: 0.5 % of one CPU goes into\n"
        "  these exits\n"
        "  seen    1,200 reads, 240 a second; 20.0 µs each, 24.0 ms in all (events 1,\n"
        "          3598)\n"
        "  change  offer hv-time, or kvmclock, whichever the guest knows; what it is\n"
        "          offered is not known\n"
        "  QEMU    -cpu …,hv-time\n"
        "  libvirt <clock>\n"
        "            <timer name='hypervclock' present='yes'/>\n"
        "          </clock>\n"
        "  effect  at most 24.0 ms of 5.00 s would be saved: reads of a page or of the\n"
        "          TSC do not exit (estimated by the time of these exits, as hvtrace\n"
        "          exits has it)\n"
        "\n"
        "Looked for and not found: AD206 rtc-reads.\n"
        "\n"
        "Could not be judged:\n"
        "  AD212 pit-ticks: no kvm_set_irq in the recording\n"
    )


def test_json_has_what_scripts_need(folder: Path) -> None:
    """One object with schema_version; findings under rows, times as integers in ns, severities in words."""
    done = run("pit.hvt", "--code", "AD205", "--output-format", "json", cwd=folder)
    answer = json.loads(done.stdout)
    assert (answer["schema_version"], answer["source"], answer["unit"]) == (1, "pit.hvt", "ns")
    assert (answer["vms"], answer["fine"], answer["unjudged"], answer["notes"]) == ([0], [], [], [])
    (row,) = answer["rows"]
    assert (row["code"], row["name"], row["severity"], row["vm"]) == ("AD205", "pit-reads", "low", 0)
    assert row["effect"]["saved_ns"] == 1_200 * 20_000
    (seen,) = row["evidence"]
    assert (seen["count"], seen["time_ns"], seen["seqs"]) == (1_200, 24_000_000, [1, 3598])


def test_a_report_to_hand_on(folder: Path) -> None:
    """Markdown: a heading for each finding, snippets in blocks, and nothing of a recording is markup."""
    done = run("windows.hvt", "--code", "AD113", "--output-format", "markdown", cwd=folder)
    assert done.stdout == (
        "# Advice on windows.hvt\n"
        "\n"
        "1 finding (1 low) in 520.0 µs of 1 VM.\n"
        "\n"
        "## LOW AD113 hv-relaxed-missing (VM 0)\n"
        "\n"
        "The Windows guest is not offered hv-relaxed: its watchdogs take a preempted vCPU for a hung one\n"
        "\n"
        "- hv-relaxed is not offered, by the guest's CPUID reads (event 2)\n"
        "\n"
        "**Change:** offer hv-relaxed: on a busy host the guest may otherwise stop with CLOCK\\_WATCHDOG\\_TIMEOUT\n"
        "\n"
        "```sh\n"
        "-cpu …,hv-relaxed\n"
        "```\n"
        "\n"
        "```xml\n"
        "<features>\n"
        "  <hyperv>\n"
        "    <relaxed state='on'/>\n"
        "  </hyperv>\n"
        "</features>\n"
        "```\n"
        "\n"
        "**Effect:** no exit is saved; a bug check is (not estimated: no event shows a watchdog)\n"
    )


def test_part_of_a_recording(folder: Path) -> None:
    """--from and --to: what is seen there alone, judged by its own length."""
    done = run(
        "pit.hvt", "--code", "AD205", "--from", "+2s", "--to", "+4s", "--output-format", "json", cwd=folder
    )
    answer = json.loads(done.stdout)
    assert answer["length_ns"] == 2_000_000_000
    assert answer["rows"][0]["evidence"][0]["count"] == 601


def test_a_moment_is_too_short(folder: Path) -> None:
    """In 0.2 s a burst cannot be told from a habit: that is said, and nothing else."""
    done = run("pit.hvt", "--code", "AD205", "--from", "+2s", "--to", "+2.2s", cwd=folder)
    assert done.stdout == (
        "0 findings in 200.0 ms of 1 VM\n"
        "\n"
        "Could not be judged:\n"
        "  AD205 pit-reads (VM 0): in less than 300 ms a burst cannot be told from a\n"
        "    habit\n"
    )


def test_the_advices_there_are(tmp_path: Path) -> None:
    """--list: each with its code, name and a sentence; 80 columns suffice."""
    lines = run("--list", cwd=tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("AD")] == [advice.code for advice in ADVICES]
    assert max(map(len, lines)) < 80


def test_one_advice_explained(tmp_path: Path) -> None:
    """--explain: when it is given and why, by code or name; and which tracepoints it needs."""
    page = run("--explain", "AD203", cwd=tmp_path).stdout
    assert page == run("--explain", "pm-timer-reads", cwd=tmp_path).stdout
    assert page.startswith("AD203 pm-timer-reads\n  The guest keeps reading the ACPI PM timer.\n")
    assert page.endswith("\n  needs  kvm_exit, kvm_entry, kvm_pio\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pit.hvt", "--code", "AD999"), "--code AD999: no such advice; --list shows them"),
        (("--explain", "XX"), "--explain XX: no such advice; --list shows them"),
        ((), "which STORE?"),
        (("pit.hvt", "--vm", "3"), "has no VM 3; it has 0"),
        (("none.hvt",), "No such file or directory"),
    ],
)
def test_what_cannot_be_asked(folder: Path, words: tuple[str, ...], message: str) -> None:
    """One clear message on stderr, exit code 2, nothing on stdout."""
    done = run(*words, cwd=folder, columns=200)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
