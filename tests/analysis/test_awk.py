"""Accesses to MSRs, counted and timed by awk over the text of `trace-cmd report`: perf 6.1 has no `--event msr`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import pytest
from recordings import carriers, get

from hvtrace.analysis.exits import Question, exits
from hvtrace.store import Store

#: Of each thread: kvm_msr is remembered, and the next kvm_entry ends it. Stamps are cut to ns since the first event, so
#: that awk's doubles hold them.
PROGRAM = r"""
{
    match($0, /-[0-9]+ +\[/); thread = substr($0, RSTART, RLENGTH)
    match($0, /[0-9]+\.[0-9]+:/); split(substr($0, RSTART, RLENGTH - 1), time, ".")
    if (!started++) first = time[1]
    now = (time[1] - first) * 1000000000 + time[2]
    rest = substr($0, RSTART + RLENGTH); split(rest, word, " ")
}
word[1] == "kvm_entry:" {
    if (thread in open) { count[open[thread]]++; ns[open[thread]] += now - since[thread]; delete open[thread] }
    entered[thread] = 1
}
word[1] == "kvm_msr:" && thread in entered { open[thread] = word[2] " " word[3]; since[thread] = now }
END { for (key in count) printf "%s %d %.0f\n", key, count[key], ns[key] }
"""


@pytest.mark.parametrize("name", ["kut-hyperv_synic", "baseline-hvmut-stimer", "linux-plain", "hvprobe-all"])
def test_accesses_to_msrs_are_those_that_awk_counts(recorded: Callable[..., Store], name: str) -> None:
    """By MSR and direction: as many, and the same time from kvm_msr to the thread's next kvm_entry, to the ns."""
    if shutil.which("trace-cmd") is None or shutil.which("awk") is None:
        pytest.skip("trace-cmd or awk is not installed")
    command = ["trace-cmd", "report", "-t", "-i", str(carriers(get(name))["trace.dat"])]
    text = subprocess.run(command, check=True, capture_output=True).stdout
    lines = subprocess.run(["awk", PROGRAM], input=text, check=True, capture_output=True).stdout.decode()
    words = [line.split() for line in lines.splitlines()]
    counted = {(w[0].removeprefix("msr_"), int(w[1], 16)): (int(w[2]), int(w[3])) for w in words}
    answer = exits(recorded(name), Question(event="msr"))
    rows = {(row["access"], row["index"]): (row["count"], row["time_ns"]) for row in answer.rows}
    assert len(counted) > 5
    assert rows == counted
