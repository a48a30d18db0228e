"""The command line as a user meets it: what is on stdout, what on stderr, how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from recordings import get


def run(*words: str | Path, cwd: Path | None = None, columns: int = 80) -> subprocess.CompletedProcess[str]:
    """Run hvtrace; stdout and stderr as text."""
    return subprocess.run(
        [sys.executable, "-m", "hvtrace", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": str(columns), "NO_COLOR": "1"},
    )


def test_ingest_names_the_store_after_the_recording(tmp_path: Path) -> None:
    """`hvtrace ingest x/trace.dat` writes trace.hvt here; what it says goes to stderr."""
    done = run("ingest", get("baseline-hvmut-stimer") / "trace.dat", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "trace.hvt: 20,944 events in 5.185 s, 1 VM, 2 vCPUs\n"
    assert (tmp_path / "trace.hvt" / "manifest.json").exists()


def test_info_as_json_has_what_scripts_need(tmp_path: Path) -> None:
    """Events by bare name, losses, duration, VMs with vCPUs and threads, kernel, clock."""
    done = run("info", get("lossy") / "trace.dat", "--output-format", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["events"]["kvm_entry"] == 59866
    assert answer["lost"][0] == {"cpu": 0, "from_ns": 20805331976, "to_ns": 20886445303, "count": 3739}
    assert answer["duration_ns"] == answer["last_ns"] - answer["first_ns"]
    assert answer["vms"][0]["vcpus"] == [{"vcpu": 0, "tids": [209]}, {"vcpu": 1, "tids": [210]}]
    assert answer["vms"][0]["tids"] == [209, 210]
    assert "hv-stimer-direct" in answer["vms"][0]["offered"]
    assert answer["vms"][0]["used"]["hypercalls"]["HvCallSendSyntheticClusterIpi"] == 925
    assert (answer["kernel"], answer["clock"]["name"]) == ("6.1.0-56-amd64", "local")
    assert list(tmp_path.iterdir()) == []


def test_info_for_people_fits_a_terminal() -> None:
    """No line is wider than 80 columns; losses are named."""
    done = run("info", get("lossy") / "trace.dat")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) < 80
    assert "3,739 events on CPU 0 between 20.805331 and 20.886445" in done.stdout


def test_help_fits_a_terminal_and_lists_every_command() -> None:
    """`hvtrace --help` at 80 columns."""
    done = run("--help")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "ingest" in done.stdout


MISTAKES = [
    (("ingest", "/nonexistent/trace.dat"), "hvtrace: /nonexistent/trace.dat: No such file or directory\n"),
    (("info", "/nonexistent.hvt"), "hvtrace: /nonexistent.hvt: No such file or directory\n"),
    (("ingest", "/etc"), "hvtrace: /etc: is a directory, not a recording\n"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(words: tuple[str, ...], message: str) -> None:
    """No traceback, nothing on stdout."""
    done = run(*words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)


def test_what_is_no_recording_is_said_so(tmp_path: Path) -> None:
    """The message names the file and what could be read instead."""
    path = tmp_path / "x.bin"
    path.write_bytes(bytes(range(256)) * 10)
    done = run("ingest", path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"hvtrace: {path}: offset 0x0: not a recording hvtrace knows")
    assert done.stderr.count("\n") == 1


def test_a_damaged_recording_is_kept_with_a_warning(tmp_path: Path) -> None:
    """Exit code 0, the whole part stored, file and offset named."""
    path = tmp_path / "cut.dat"
    data = bytearray((get("baseline-hvmut-stimer") / "trace.dat").read_bytes())
    middle = data.find(b"\x28\xb5\x2f\xfd", len(data) // 2)
    data[middle + 8 : middle + 40] = bytes(32)
    path.write_bytes(data)
    done = run("ingest", path, "-o", tmp_path / "cut.hvt")
    assert done.returncode == 0, done.stderr
    assert "warning: cut.dat: offset 0x" in done.stderr


def test_names_from_a_recording_reach_no_terminal_raw(tmp_path: Path) -> None:
    """Escape sequences in a path or a recording's strings are shown, not sent."""
    done = run("ingest", tmp_path / "\x1b[31mred.dat")
    assert done.returncode == 2
    assert "\x1b" not in done.stderr


def test_a_terminal_without_the_characters_gets_their_numbers() -> None:
    """No traceback where stdout can show ASCII alone."""
    done = subprocess.run(
        [sys.executable, "-m", "hvtrace", "info", get("kut-hyperv_synic") / "trace.dat"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u2588\\u2588" in done.stdout


def test_help_of_every_command_has_each_example_on_a_line_of_its_own() -> None:
    """At 80 columns, as they are typed."""
    for command in ("ingest", "info", "replay", "export", "view", "rules", "abi"):
        lines = run(command, "--help").stdout.splitlines()
        start = lines.index("  Examples:")
        examples = [line for line in lines[start + 1 :] if line.startswith("    hvtrace ")]
        assert len(examples) >= 2, command
        assert max(map(len, lines)) <= 80
