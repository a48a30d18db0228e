"""Halts and what became of them, counted by awk over the text of `trace-cmd report`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import pytest
from recordings import carriers, get

import hvtrace
from hvtrace.store import Store

#: Of each thread: for how long it polls, as its last kvm_halt_poll_ns says; that event comes before its own halt's end.
PROGRAM = r"""
{ match($0, /-[0-9]+ +\[/); thread = substr($0, RSTART, RLENGTH) }
/ kvm_halt_poll_ns: / {
    match($0, /halt_poll_ns [0-9]+ \((grow|shrink) /); split(substr($0, RSTART, RLENGTH), word, " ")
    now[thread] = word[2]; count[word[3] == "(grow" ? "grown" : "shrunk"]++; pending[thread] = 1
}
/ kvm_vcpu_wakeup: / {
    match($0, /(wait|poll) time [0-9]+/); split(substr($0, RSTART, RLENGTH), word, " ")
    poll = before[thread] > cap ? cap : before[thread]
    count["halts"]++
    kind = word[1] == "poll" ? (poll ? "successes" : "at_once") : (poll ? "failures" : "unpolled")
    count[kind]++
    if (kind == "successes") polled += word[3]
    if (kind == "failures") vain += poll
    if (pending[thread]) { before[thread] = now[thread]; pending[thread] = 0 }
}
END {
    for (key in count) printf "%s %d\n", key, count[key]
    printf "polled_ns %.0f\nvain_ns %.0f\n", polled, vain
}
"""


@pytest.mark.parametrize(
    "name",
    [
        "linux-plain",
        "linux-vmbus-msg",
        "baseline-hvmut-haltbig",
        "linux-hv",
        "linux-hv-nopoll",
        "055-grow-rule",
    ],
)
def test_halts_are_those_that_awk_counts(recorded: Callable[..., Store], name: str) -> None:
    """As many of each kind, and the same time polled with success and in vain, to the ns; from the VM's start on."""
    if shutil.which("trace-cmd") is None or shutil.which("awk") is None:
        pytest.skip("trace-cmd or awk is not installed")
    command = ["trace-cmd", "report", "-t", "-i", str(carriers(get(name))["trace.dat"])]
    text = subprocess.run(command, check=True, capture_output=True).stdout
    answer = hvtrace.open(recorded(name).path).halt_poll()
    program = ["awk", "-v", f"cap={answer.own.setting.limit}", PROGRAM]
    lines = subprocess.run(program, input=text, check=True, capture_output=True).stdout.decode()
    counted = {word: int(number) for word, number in (line.split() for line in lines.splitlines())}
    assert counted["halts"] > 30
    assert {word: answer.total[word] for word in counted} == counted
