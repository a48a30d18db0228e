"""Two recordings side by side: figures, what changed, what was not compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.store import Row, add_divergences, tiny_store

from hvtrace.analysis.diff.compare import COLUMNS, diff
from hvtrace.analysis.exits import exits
from hvtrace.analysis.latency import Question, latency
from hvtrace.analysis.scope import Scope
from hvtrace.errors import InputError
from hvtrace.store import Store

IO, HLT = 0x7B, 0x78
MS = 1_000_000


def load(
    seed: int, *, number: int = 4000, every: float = MS, io: float = 20_000, start: int = 0
) -> list[Row]:
    """Exits of one vCPU at random times: two of three are IO and take `io` ns on average, others HLT."""
    chance = np.random.default_rng(seed)
    rows: list[Row] = [(start, "kvm_entry", 0, 0, {})]
    for _ in range(number):
        ts = rows[-1][0] + 1 + int(chance.exponential(every))
        reason = IO if chance.random() < 2 / 3 else HLT
        took = 1 + int(chance.exponential(io if reason == IO else 100_000))
        rows += [
            (ts, "kvm_exit", 0, 0, {"isa": 2, "exit_reason": reason}),
            (ts + took, "kvm_entry", 0, 0, {}),
        ]
    return rows


def row(rows: list[dict[str, Any]], subject: str, figure: str) -> dict[str, Any]:
    (found,) = [one for one in rows if (one["subject"], one["figure"]) == (subject, figure)]
    return found


def test_a_recording_and_itself(tmp_path: Path) -> None:
    """Nothing changed; every figure that can be tested has p = 1."""
    store = tiny_store(tmp_path / "a.hvt", load(1))
    found = diff(store, store)
    assert {one["change"] for one in found.rows} == {0.0}
    assert {one["p"] for one in found.rows} == {1.0}
    assert not any(one["significant"] for one in found.rows)
    assert found.beyond(0.0) == []
    assert list(found.rows[0]) == list(COLUMNS) == found.frame.columns


def test_the_same_load_again(tmp_path: Path) -> None:
    """Other times, the same process, half as long: rates are per second, and nothing is called changed."""
    a = tiny_store(tmp_path / "a.hvt", load(2))
    b = tiny_store(tmp_path / "b.hvt", load(3, number=2000, start=5_000 * MS))
    found = diff(a, b)
    assert [one["subject"] for one in found.rows if one["significant"]] == []
    rate = row(found.rows, "exit io", "rate")
    assert rate["b"] == pytest.approx(rate["a"], rel=0.1)
    assert rate["count_b"] == pytest.approx(rate["count_a"] / 2, rel=0.1)


def test_what_takes_longer_is_found(tmp_path: Path) -> None:
    """Half as long again: mean, median and share of the time changed, and only those of IO; the rate did not."""
    a = tiny_store(tmp_path / "a.hvt", load(4))
    b = tiny_store(tmp_path / "b.hvt", load(5, io=30_000))
    found = diff(a, b)
    changed = {(one["subject"], one["figure"]) for one in found.rows if one["significant"]}
    assert {("exit io", "mean"), ("exit io", "p50"), ("exit io", "time")} <= changed
    assert {subject for subject, _ in changed} == {"exit io"}
    assert ("exit io", "rate") not in changed
    mean = row(found.rows, "exit io", "mean")
    assert mean["change"] == pytest.approx(0.5, abs=0.1)
    assert mean["shift"] == pytest.approx(10_000, rel=0.2)
    assert mean["delta"] > 0.5
    assert found.rows[0]["subject"] == "exit io"
    assert [one["figure"] for one in found.beyond(0.1)] != []
    assert found.beyond(2.0) == []


def accesses(seed: int, index: int) -> list[Row]:
    """The load, with an access of that MSR in every exit."""
    rows: list[Row] = []
    for ts, name, vcpu, cpu, fields in load(seed):
        rows.append((ts, name, vcpu, cpu, fields))
        if name == "kvm_exit":
            rows.append((ts, "kvm_msr", 0, 0, {"write": 1, "ecx": index}))
    return rows


def test_what_appears_is_endlessly_more(tmp_path: Path) -> None:
    """Its change has no number; it is beyond every threshold."""
    a = tiny_store(tmp_path / "a.hvt", accesses(6, 0x40000070))
    b = tiny_store(tmp_path / "b.hvt", accesses(7, 0x40000072))
    found = diff(a, b)
    new, gone = (row(found.rows, f"write HV_X64_MSR_{name}", "rate") for name in ("TPR", "EOI"))
    assert (new["a"], new["change"], new["significant"]) == (0.0, None, True)
    assert (gone["b"], gone["change"], gone["significant"]) == (0.0, -1.0, True)
    assert {one["subject"] for one in found.beyond(1e9)} == {"write HV_X64_MSR_TPR"}


def test_what_was_not_recorded_is_not_none(tmp_path: Path) -> None:
    """Neither compared nor taken for nothing."""
    found = diff(
        tiny_store(tmp_path / "a.hvt", load(6)), tiny_store(tmp_path / "b.hvt", accesses(7, 0x40000070))
    )
    assert {"section": "MSR accesses", "why": "not recorded in A"} in found.not_compared
    assert {"section": "hypercalls", "why": "not recorded in A and B"} in found.not_compared
    assert {one["section"] for one in found.rows} == {"exits"}


def test_figures_are_those_of_the_other_commands(recorded: Callable[..., Store]) -> None:
    """Counts, means and percentiles of exits as `exits` has them, of latencies as `latency` has them."""
    a, b = recorded("lossy"), recorded("linux-plain")
    found = diff(a, b)
    for side, store in (("a", a), ("b", b)):
        seconds = found.sides["ab".index(side)]["seconds"]
        for one in exits(store).rows:
            if store is a and one["count"] > 100:
                # Exits while events were lost do not count here.
                continue
            rate = row(found.rows, f"exit {one['reason']}", "rate")
            assert rate[f"count_{side}"] == one["count"]
            assert rate[side] == pytest.approx(one["count"] / seconds)
            for figure in ("mean", "p50", "p99"):
                assert row(found.rows, f"exit {one['reason']}", figure)[side] == one[f"{figure}_ns"]
    waited = {
        one["subject"]: one
        for one in latency(b, Question(measures=("inject-eoi",))).rows
        if one["count"] > 20
    }
    assert waited
    for subject, one in waited.items():
        assert row(found.rows, f"inject eoi {subject}", "mean")["b"] == one["mean_ns"]
        assert row(found.rows, f"inject eoi {subject}", "p99")["b"] == one["p99_ns"]


def test_seconds_are_those_in_which_a_vm_was_recorded(tmp_path: Path) -> None:
    """From its first entry to its last, without what was lost; events meanwhile do not count."""
    rows = [
        (0, "kvm_pio", None, 0, {}),
        *load(8, number=1000, start=100 * MS),
    ]
    last = rows[-1][0]
    whole = tiny_store(tmp_path / "a.hvt", rows)
    lost = [
        {"cpu": 0, "from_ns": 300 * MS, "to_ns": 400 * MS, "count": None},
        {"cpu": 1, "from_ns": 350 * MS, "to_ns": 500 * MS, "count": 3},
    ]
    holed = tiny_store(tmp_path / "b.hvt", rows, lost=lost)
    found = diff(whole, holed)
    seconds = [side["seconds"] for side in found.sides]
    assert seconds == [pytest.approx((last - 100 * MS) / 1e9), pytest.approx((last - 300 * MS) / 1e9)]
    io = row(found.rows, "exit io", "rate")
    meanwhile = [one for one in rows if 300 * MS < one[0] <= 500 * MS and one[4].get("exit_reason") == IO]
    assert io["count_a"] - io["count_b"] == pytest.approx(len(meanwhile), abs=2)
    assert io["b"] == pytest.approx(io["a"], rel=0.1)


def test_parts_and_vms(tmp_path: Path) -> None:
    """Each side has its own part; a VM that is not there is an error."""
    store = tiny_store(tmp_path / "a.hvt", load(9))
    end = 2000 * MS
    found = diff(store, store, Scope(last_ns=end), Scope(first_ns=end + 1))
    counted = sum(
        row(found.rows, f"exit {reason}", "rate")[f"count_{side}"]
        for reason in ("io", "hlt")
        for side in "ab"
    )
    # The pair over the edge has its exit in one part and no time in the other.
    assert counted == pytest.approx(exits(store).count, abs=2)
    with pytest.raises(InputError, match="has no VM 3"):
        diff(store, store, Scope(), Scope(vm=3))


def test_ticks_have_no_rates(tmp_path: Path) -> None:
    """What the recordings are is told all the same."""
    a = tiny_store(tmp_path / "a.hvt", load(10, number=50))
    b = tiny_store(tmp_path / "b.hvt", load(10, number=50), unit="ticks")
    found = diff(a, b)
    assert found.rows == []
    assert found.not_compared == [{"section": "all", "why": "the clock of B counts ticks of unknown length"}]
    assert {"fact": "clock unit", "a": "ns", "b": "ticks", "same": False} in found.facts
    nothing = tiny_store(tmp_path / "c.hvt", [(0, "kvm_pio", None, 0, {})])
    assert diff(a, nothing).not_compared == [{"section": "all", "why": "B has no events of a VM"}]


def test_divergences(tmp_path: Path) -> None:
    """Of both where both were checked; what a baseline accepts does not count."""
    a, b = (tiny_store(tmp_path / f"{name}.hvt", load(11, number=50)) for name in "ab")
    found = diff(a, b).divergences
    assert found == {"checked_a": False, "checked_b": False, "rows": []}
    own = {"rule": "HV501", "name": "stimer-config-read-back", "severity": "error", "vm": 0, "vcpu": 0}
    add_divergences(a, [])
    add_divergences(b, [own | {"ts_ns": 5, "count": 3}, own | {"ts_ns": 6, "count": 2, "known": True}])
    answer = diff(a, b)
    assert answer.divergences["rows"] == [
        {"rule": "HV501", "name": "stimer-config-read-back", "severity": "error", "a": 0, "b": 3}
    ]
    assert answer.new_errors == answer.divergences["rows"]
    assert diff(b, a).new_errors == []


def test_enlightenments_and_facts(recorded: Callable[..., Store]) -> None:
    """What one guest was offered and used, and the other not."""
    found = diff(recorded("linux-plain"), recorded("lossy"))
    offered = {one["name"] for one in found.enlightenments if one["kind"] == "offered" and one["b"]}
    assert {"hv-stimer", "hv-synic", "hv-tlbflush"} <= offered
    used = {(one["kind"], one["name"]): (one["a"], one["b"]) for one in found.enlightenments}
    assert used["msr", "HV_X64_MSR_STIMER0_COUNT"] == (False, True)
    assert used["hypercall", "HvCallFlushVirtualAddressList"] == (False, True)
    assert used["msr", "MSR_KVM_STEAL_TIME"] == (True, False)
    facts = {one["fact"]: one for one in found.facts}
    assert facts["kernel"]["same"]
    assert facts["spans with losses"] == {"fact": "spans with losses", "a": 0, "b": 4, "same": False}
    assert facts["kvm.halt_poll_ns"]["a"] == "200000"


@pytest.mark.parametrize("carrier", ["perf.data", "ftrace.txt"])
def test_one_run_in_two_carriers(recorded: Callable[..., Store], carrier: str) -> None:
    """Nothing changed: each stamps events for itself, some microseconds apart."""
    found = diff(recorded("kut-hyperv_synic"), recorded("kut-hyperv_synic", carrier))
    assert [one for one in found.rows if one["significant"]] == []
    assert sum(one["p"] is not None for one in found.rows) > 20


@pytest.mark.parametrize("other", ["clock-x86-tsc", "clock-mono"])
def test_the_same_boot_again(recorded: Callable[..., Store], other: str) -> None:
    """Two runs of one test, the second recorded under another clock."""
    found = diff(recorded("kut-hyperv_synic"), recorded(other))
    assert [one for one in found.rows if one["significant"]] == []
