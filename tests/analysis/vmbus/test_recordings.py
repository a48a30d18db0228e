"""Real recordings: every line of QEMU's log has its place, and every hypercall and interrupt is counted."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from recordings import carriers, get

from hvtrace.analysis.vmbus import vmbus
from hvtrace.store import Store

#: With QEMU's log beside them, and with QEMU's events among their markers.
LOGS = ["vmbus-balloon-2s", "vmbus-balloon", "vmbus-balloon-simple"]
MARKERS = ["vmbus-balloon-ftrace-2s", "vmbus-balloon-ftrace"]

#: Requests with their last answers.
ANSWERS = {14: 15, 3: 4, 8: 10, 5: 6, 11: 12}

LINE = re.compile(r"(\d+)@(\d+)\.(\d{6}):(\w+) ?(.*)")


def lines(path: Path) -> Iterator[tuple[int, str, list[int]]]:
    """Stamp in ns, name and numbers of each line of a log."""
    for line in path.read_text().splitlines():
        told = LINE.fullmatch(line)
        assert told is not None
        _, seconds, micros, name, text = told.groups()
        yield (
            int(seconds) * 10**9 + int(micros) * 1000,
            name,
            [int(n) for n in re.findall(r"-?\b\d+\b", text)],
        )


def walked(path: Path) -> list[tuple[str, int, int, int | None]]:
    """Messages as a walk over the log finds them: way, type, posts, ns until answered (delivered)."""
    found: list[list[Any]] = []
    queue: list[list[Any]] = []
    serving: list[Any] | None = None
    post: list[Any] | None = None
    for ts, name, numbers in lines(path):
        match name:
            case "vmbus_recv_message":
                queue.append([ts, "to host", numbers[0], 1, None])
                found.append(queue[-1])
            case "vmbus_process_incoming_message":
                serving = queue.pop(0)
                assert serving[2] == numbers[0]
            case "vmbus_post_msg":
                if post is None:
                    post = [ts, "to guest", numbers[0], 0, None]
                    found.append(post)
                post[3] += 1
            case "vmbus_msg_cb" if numbers == [0]:
                assert post is not None
                post[4] = ts - post[0]
                if serving is not None and ANSWERS.get(serving[2]) == post[2]:
                    serving[4] = ts - serving[0]
                post = None
    return [(way, number, posts, ns) for _, way, number, posts, ns in found]


@pytest.mark.parametrize("name", LOGS)
def test_every_message_of_the_log(merged: Callable[[str], Store], name: str) -> None:
    """Type, number of posts, and time until the answer or the delivery are those of a walk over the log's text."""
    found = vmbus(merged(name)).conversation
    rows = [
        (row["way"], row["type"], row["tries"] if row["way"] == "to guest" else 1, row["ns"]) for row in found
    ]
    assert rows == walked(get(name) / "qemu-trace.log")
    assert len(rows) >= 11


@pytest.mark.parametrize("name", LOGS)
def test_every_signal_and_page_of_the_log(merged: Callable[[str], Store], name: str) -> None:
    """Signals to the guest by channel; pages that the balloon asked and got; channels by their lines."""
    counts: Counter[str] = Counter()
    pages: Counter[str] = Counter()
    for _, event, numbers in lines(get(name) / "qemu-trace.log"):
        counts[event] += 1
        if event == "hv_balloon_outgoing_balloon":
            pages["requested"] += numbers[1]
        if event == "hv_balloon_remove_response":
            pages["given"] += numbers[0]
    found = vmbus(merged(name))
    (channel,), (balloon,) = found.channels, found.balloon
    assert channel["to_guest"] == counts["vmbus_channel_notify_guest"]
    assert channel["opened"] == counts["vmbus_channel_open"] == 1
    assert (channel["state"] == "closed") == (counts["vmbus_close_channel"] == 1)
    assert (balloon["requested"], balloon["given"]) == (pages["requested"], pages["given"])
    assert len(balloon["targets"]) == counts["balloon_event"]
    assert found.unanswered == []


#: awk: POST_MESSAGE and SIGNAL_EVENT by the result that follows on the thread; interrupts of SINT 2 by thread.
PROGRAM = r"""
{
    match($0, /-[0-9]+ +\[/); thread = substr($0, RSTART + 1, RLENGTH - 2) + 0
    match($0, /[0-9]+\.[0-9]+:/); rest = substr($0, RSTART + RLENGTH); split(rest, word, " ")
}
word[1] == "kvm_hv_hypercall:" { code = word[3]; sub(",", "", code); made[thread] = code }
word[1] == "kvm_hv_hypercall_done:" {
    if (made[thread] == "0x5c" || made[thread] == "0x5d") count[made[thread] " " word[3]]++
    delete made[thread]
}
word[1] == "kvm_hv_synic_set_irq:" { irq[thread]++ }
END {
    for (key in count) print "call", key, count[key]
    for (key in irq) print "irq", key, irq[key]
}
"""


@pytest.mark.parametrize("name", [*LOGS, *MARKERS, "linux-vmbus-msg", "kut-hyperv_connections"])
def test_calls_and_interrupts_are_those_that_awk_counts(merged: Callable[[str], Store], name: str) -> None:
    """By result; interrupts by the thread that raised them, the vCPUs' own or another."""
    if shutil.which("trace-cmd") is None or shutil.which("awk") is None:
        pytest.skip("trace-cmd or awk is not installed")
    command = ["trace-cmd", "report", "-t", "-i", str(carriers(get(name))["trace.dat"])]
    text = subprocess.run(command, check=True, capture_output=True).stdout
    told = subprocess.run(["awk", PROGRAM], input=text, check=True, capture_output=True).stdout.decode()
    calls: Counter[tuple[str, int]] = Counter()
    irqs: Counter[int] = Counter()
    for words in map(str.split, told.splitlines()):
        if words[0] == "call":
            calls[words[1], int(words[2], 16)] += int(words[3])
        else:
            irqs[int(words[1])] += int(words[2])
    store = merged(name)
    found = vmbus(store)
    codes = {"POST_MESSAGE": "0x5c", "SIGNAL_EVENT": "0x5d"}
    own: Counter[tuple[str, int]] = Counter()
    for row in found.calls:
        own[codes[row["call"]], row["status"]] += row["count"]
    assert own == calls
    assert calls
    threads = {tid for vm in store.manifest.vms for vcpu in vm["vcpus"] for tid in vcpu["tids"]}
    by_own = sum(number for tid, number in irqs.items() if tid in threads)
    kinds = Counter[str]()
    for row in found.interrupts:
        kinds[row["kind"]] += row["count"]
    assert (kinds["message"] + kinds["timer"], kinds["signal"]) == (by_own, irqs.total() - by_own)


@pytest.mark.parametrize("name", [*LOGS, *MARKERS])
def test_messages_and_signals_have_their_interrupts(merged: Callable[[str], Store], name: str) -> None:
    """While KVM was traced: as many by vCPUs' threads as messages delivered, and by the main thread as signals."""
    store = merged(name)
    found = vmbus(store)
    first, last = found.told["kvm"]
    slack = found.told["residual_ns"]
    delivered = sum(
        first <= row["done_ns"] <= last + slack for row in found.conversation if row["way"] == "to guest"
    )
    notified = store.scan("vmbus_channel_notify_guest").collect()["ts_ns"].is_between(first, last).sum()
    kinds = Counter[str]()
    for row in found.interrupts:
        kinds[row["kind"]] += row["count"]
    assert (kinds["message"], kinds["signal"]) == (delivered, notified)
    stages = {row["stage"]: row for row in found.latencies}
    for stage, number in (("message-interrupt", delivered), ("notify-interrupt", notified)):
        assert (stages[stage]["count"], stages[stage]["excluded"]["backwards"]) == (number, 0)


def test_a_connection_by_markers(merged: Callable[[str], Store]) -> None:
    """The same answer, from QEMU's events within the recording: versions, channel, a message posted twice."""
    found = vmbus(merged("vmbus-balloon-ftrace-2s"))
    (connection,), (channel,) = found.connections, found.channels
    versions = [(one["version"], one["outcome"]) for one in connection["versions"]]
    assert versions == [("4.1", "refused"), ("4.0", "agreed")]
    assert (channel["device"], channel["vp"], channel["gpadl"], channel["state"]) == (
        "dynamic memory", 0, 925200, "open",
    )  # fmt: skip
    repeated = {row["message"]: row["repeated"] for row in found.messages if row["repeated"]}
    assert repeated == {"ALLOFFERS_DELIVERED": 1}
    assert found.search == [{"vm": 0, "searched": 4, "taken": True}]


def test_without_qemus_events(merged: Callable[[str], Store]) -> None:
    """Hypercalls and interrupts are told; channels and messages are not, rather than none."""
    found = vmbus(merged("linux-vmbus-msg"))
    assert (found.told["qemu"], found.connections, found.channels, found.messages) == (False, [], [], [])
    assert [(row["call"], row["result"], row["count"]) for row in found.calls] == [
        ("POST_MESSAGE", "HV_STATUS_SUCCESS", 3),
        ("POST_MESSAGE", "HV_STATUS_INVALID_CONNECTION_ID", 4),
    ]
    absent = {row["stage"] for row in found.absent}
    assert {"receive", "queue", "answer", "notify-interrupt"} <= absent
    assert not absent & {row["stage"] for row in found.latencies}
