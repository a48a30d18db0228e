"""Latencies, counted and timed by awk over the text of `trace-cmd report`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import pytest
from recordings import carriers, get

from hvtrace.analysis.latency import Question, latency
from hvtrace.store import Store

#: What begins is remembered by thread, or by timer; what ends takes it. Stamps are cut to ns since the first event, so
#: that awk's doubles hold them. wakeup: waited=1 is a sleep.
PROGRAM = r"""
function take(measure, about, by) {
    if (by in open) { key = measure " " about; count[key]++; ns[key] += now - open[by]; delete open[by] }
}
{
    match($0, /-[0-9]+ +\[/); thread = substr($0, RSTART, RLENGTH)
    match($0, /[0-9]+\.[0-9]+:/); split(substr($0, RSTART, RLENGTH - 1), time, ".")
    if (!started++) first = time[1]
    now = (time[1] - first) * 1000000000 + time[2]
    rest = substr($0, RSTART + RLENGTH); split(rest, word, " ")
    name = word[1]
}
name == "kvm_vcpu_wakeup:" { open["w" thread] = now; slept[thread] = word[3] }
name == "kvm_userspace_exit:" { open["u" thread] = now; why[thread] = word[2] " " word[3] }
name == "kvm_entry:" { take("wakeup-entry", slept[thread], "w" thread); take("userspace", why[thread], "u" thread) }
name == "kvm_hv_hypercall:" { open["h" thread] = now; code[thread] = word[3] }
name == "kvm_hv_hypercall_done:" { take("hypercall", code[thread], "h" thread) }
name == "kvm_inj_virq:" && !/reinjected/ { open["i" thread word[3]] = now }
name == "kvm_eoi:" { take("inject-eoi", word[5], "i" thread sprintf("0x%x", word[5])) }
name ~ /^kvm_hv_stimer_/ {
    timer = word[3] " " word[5]
    if (name == "kvm_hv_stimer_callback:") {
        # What was stamped before it was due is backwards: no figure.
        if (timer in due && due[timer] <= now) { open["t"] = due[timer]; take("stimer-callback", word[5], "t") }
        expired[timer] = now
    }
    if (name == "kvm_hv_stimer_expiration:" && timer in expired) {
        open["t"] = expired[timer]; take("stimer-expiration", word[5], "t")
    }
    if (name != "kvm_hv_stimer_callback:") delete expired[timer]
    delete due[timer]
    if (name ~ /start/) due[timer] = now + (word[9] - word[7]) * 100
}
END { for (key in count) printf "%s: %d %.0f\n", key, count[key], ns[key] }
"""

#: Measure → what awk says of a row's keys.
KEYS: dict[str, Callable[[dict[str, object]], str]] = {
    "wakeup-entry": lambda row: f"waited={int(row['how'] == 'slept')}",
    "userspace": lambda row: (
        f"reason={row['reason']} errno={-row['error'] if isinstance(row['error'], int) else 0}"
    ),
    "hypercall": lambda row: f"{row['code']:#x}",
    "inject-eoi": lambda row: str(row["vector"]),
    "stimer-callback": lambda row: str(row["timer"]),
    "stimer-expiration": lambda row: str(row["timer"]),
}


@pytest.mark.parametrize(
    "name",
    ["linux-vmbus-msg", "two-vms", "baseline-hvmut-stimer", "linux-plain", "linux-hv-sched", "linux-hv-smp4"],
)
def test_latencies_are_those_that_awk_finds(recorded: Callable[..., Store], name: str) -> None:
    """As many, and the same time in all, to the ns, of each thing that six measures tell apart."""
    if shutil.which("trace-cmd") is None or shutil.which("awk") is None:
        pytest.skip("trace-cmd or awk is not installed")
    report = ["trace-cmd", "report", "-t", "-r", "kvm_userspace_exit", "-r", "kvm_vcpu_wakeup"]
    file = str(carriers(get(name))["trace.dat"])
    text = subprocess.run([*report, "-i", file], check=True, capture_output=True).stdout
    lines = subprocess.run(["awk", PROGRAM], input=text, check=True, capture_output=True).stdout.decode()
    counted = {}
    for key, figures in (line.rsplit(":", 1) for line in lines.splitlines()):
        number, ns = map(int, figures.split())
        # That the KVM_RUN failed says all: the reason is one of before.
        measure, about = key.split(" ", 1)
        if "errno=-" in about:
            about = "reason=None " + about.split()[1]
        former = counted.get((measure, about), (0, 0))
        counted[measure, about] = (former[0] + number, former[1] + ns)
    found: dict[tuple[str, str], tuple[int, int]] = {}
    answer = latency(recorded(name), Question(measures=tuple(KEYS)))
    for row in answer.rows:
        key = (row["measure"], KEYS[row["measure"]](row))
        former = found.get(key, (0, 0))
        found[key] = (former[0] + row["count"], former[1] + row["time_ns"])
    assert len(counted) > 5
    assert found == counted
