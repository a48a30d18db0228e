"""The answer of `hvtrace latency`: figures, breakdowns, parts of the time, what cannot be told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from builders.store import Row, tiny_store

import hvtrace
from hvtrace.analysis.latency import FIGURES, MEASURES, Question, latency, spans
from hvtrace.errors import InputError
from hvtrace.store import Store


def injected(ts: int, vector: int = 0x30, vcpu: int = 0) -> Row:
    return ts, "kvm_inj_virq", vcpu, 0, {"vector": vector, "soft": False, "reinjected": False}


def eoi(ts: int, vector: int = 0x30, vcpu: int = 0) -> Row:
    return ts, "kvm_eoi", vcpu, 0, {"vector": vector}


EVENTS = [
    injected(10),
    eoi(20),
    injected(30),
    eoi(70),
    injected(80, 0x31),
    eoi(81, 0x31),
    injected(90, vcpu=1),
    eoi(93, vcpu=1),
    injected(99),
]
ASKED = Question(measures=("inject-eoi",))


def test_an_answer(tmp_path: Path) -> None:
    """Figures by what the spans are about, the most time first; percentiles are times that occurred."""
    answer = latency(tiny_store(tmp_path / "t.hvt", EVENTS), ASKED)
    assert [(row["subject"], row["count"]) for row in answer.rows] == [("vector 0x30", 3), ("vector 0x31", 1)]
    assert answer.rows[0] == {
        "measure": "inject-eoi",
        "subject": "vector 0x30",
        "vector": 0x30,
        "eoi": "exit",
        "count": 3,
        "time_ns": 53,
        "min_ns": 3,
        "mean_ns": 18,
        "p50_ns": 10,
        "p90_ns": 40,
        "p99_ns": 40,
        "p99_9_ns": 40,
        "max_ns": 40,
    }
    assert answer.counted == [
        {
            "measure": "inject-eoi",
            "sentence": "kvm_inj_virq → the vector's kvm_eoi",
            "count": 4,
            "time_ns": 54,
            "unpaired": ["injection", "without an EOI: auto-EOI has none"],
            "excluded": {"lost": 0, "backwards": 0, "unpaired": 1, "unattributed": 0},
        }
    ]


def test_rows_by_vcpu(tmp_path: Path) -> None:
    """A vCPU's id stands behind its VM's."""
    answer = latency(tiny_store(tmp_path / "t.hvt", EVENTS), Question(measures=("inject-eoi",), by=("vcpu",)))
    assert [(row["vm"], row["vcpu"], row["subject"], row["time_ns"]) for row in answer.rows] == [
        (0, 0, "vector 0x30", 50),
        (0, 1, "vector 0x30", 3),
        (0, 0, "vector 0x31", 1),
    ]
    assert answer.frame.columns == ["measure", "vm", "vcpu", "subject", *FIGURES]


def test_one_vcpu(tmp_path: Path) -> None:
    """The same spans as in the whole; one that is not there is refused."""
    store = tiny_store(tmp_path / "t.hvt", EVENTS)
    assert [row["time_ns"] for row in latency(store, Question(measures=("inject-eoi",), vcpu=1)).rows] == [3]
    with pytest.raises(InputError, match="has no vCPU 7"):
        latency(store, Question(vcpu=7))


def test_a_span_is_where_it_begins(tmp_path: Path) -> None:
    """It may end behind the part asked about."""
    store = tiny_store(tmp_path / "t.hvt", EVENTS)
    answer = latency(store, Question(measures=("inject-eoi",), first_ns=30, last_ns=80))
    assert [(row["subject"], row["time_ns"]) for row in answer.rows] == [
        ("vector 0x30", 40),
        ("vector 0x31", 1),
    ]


def test_the_longest_are_listed(tmp_path: Path) -> None:
    """With both events; at equal times the first."""
    answer = latency(tiny_store(tmp_path / "t.hvt", EVENTS), Question(measures=("inject-eoi",), worst=2))
    assert [row["ns"] for row in answer.slowest] == [40, 10]
    assert answer.slowest[0] == {
        "measure": "inject-eoi",
        "subject": "vector 0x30",
        "vector": 0x30,
        "eoi": "exit",
        "vm": 0,
        "vcpu": 0,
        "seq": 2,
        "ts_ns": 30,
        "end_seq": 3,
        "end_ns": 70,
        "ns": 40,
    }
    assert answer.as_dict()["slowest"] == answer.slowest
    assert "slowest" not in latency(tiny_store(tmp_path / "u.hvt", EVENTS), ASKED).as_dict()


def test_histograms(tmp_path: Path) -> None:
    """Steps of powers of two, as those of exits."""
    answer = latency(
        tiny_store(tmp_path / "t.hvt", EVENTS), Question(measures=("inject-eoi",), histogram=True)
    )
    assert answer.rows[0]["histogram"] == [(2, 4, 1), (8, 16, 1), (32, 64, 1)]


def test_what_was_not_recorded_is_said(tmp_path: Path) -> None:
    """With the tracepoints it takes; of alternatives one is enough. It is not shown as nothing found."""
    answer = latency(tiny_store(tmp_path / "t.hvt", EVENTS))
    told = {row["measure"] for row in answer.counted}
    absent = {row["measure"]: row["missing"] for row in answer.absent}
    assert told == {"inject-eoi"}
    assert told | set(absent) == set(MEASURES)
    assert absent["accept-inject"] == ["kvm_apic_accept_irq"]
    assert absent["stimer-callback"] == [
        "kvm_hv_stimer_start_one_shot|kvm_hv_stimer_start_periodic",
        "kvm_hv_stimer_callback",
    ]
    assert {row["why"] for row in answer.absent} == {"no-events"}


def test_what_text_of_perf_lacks_is_said(tmp_path: Path) -> None:
    """It leaves out what is traced in interrupts, such as callbacks of timers."""
    store = tiny_store(tmp_path / "t.hvt", EVENTS)
    assert latency(store).notes == []
    store.manifest.sources = [{"format": "perf script"}]
    assert ["callbacks of timers" in note for note in latency(store).notes] == [True]


def test_spans_of_what_was_not_recorded_are_refused(tmp_path: Path) -> None:
    """And of measures that there are not."""
    store = tiny_store(tmp_path / "t.hvt", EVENTS)
    with pytest.raises(InputError, match="holds no kvm_hv_hypercall, kvm_hv_hypercall_done events"):
        spans(store, Question(), "hypercall")
    with pytest.raises(KeyError):
        spans(store, Question(), "nothing")


def test_spans_have_columns_and_states(tmp_path: Path) -> None:
    """What has no end is none."""
    frame = spans(tiny_store(tmp_path / "t.hvt", EVENTS), Question(), "inject-eoi")
    assert frame.columns == [
        *("measure", "subject", "vm", "vcpu", "vector", "eoi"),
        *("seq", "ts_ns", "end_seq", "end_ns", "ns", "state"),
    ]
    assert frame["ns"].to_list() == [10, 40, 1, 3]
    assert set(frame["state"]) == {"whole"}


def test_python_asks_as_the_command_does(tmp_path: Path) -> None:
    """Measures are positional, all else is named."""
    tiny_store(tmp_path / "t.hvt", EVENTS)
    answer = hvtrace.open(tmp_path / "t.hvt").latency("inject-eoi", by=("vcpu",))
    asked = Question(measures=("inject-eoi",), by=("vcpu",))
    assert answer == latency(Store(tmp_path / "t.hvt"), asked)


@pytest.mark.parametrize("name", list(MEASURES))
def test_every_measure_names_its_subjects_and_tracepoints(name: str) -> None:
    """A row of the table is whole: an arrow in its sentence, tracepoints that exist."""
    from hvtrace.schema.registry import BY_NAME

    measure = MEASURES[name]
    assert measure.name == name
    assert " → " in measure.sentence
    assert {need for group in measure.needs for need in group} <= set(BY_NAME)


RECORDINGS = ("linux-vmbus-msg", "lossy", "two-vms", "kut-hyperv_synic")


@pytest.mark.parametrize("name", RECORDINGS)
def test_parts_add_up_to_the_whole(recorded: Callable[..., Store], name: str) -> None:
    """Every span, and every event without an end, is in exactly one part of the time, and of one vCPU."""
    store = recorded(name)
    whole = _totals(latency(store))
    time = store.manifest.time
    first, last = time["first_ns"] or 0, time["last_ns"] or 0
    # A timer may be due before its start, or after the recording's end.
    cuts = [first - 10**12, *(first + (last - first) * part // 3 for part in (1, 2)), last + 10**12]
    spans = [Question(first_ns=a, last_ns=b - 1) for a, b in pairwise(cuts)]
    assert sum((_totals(latency(store, part)) for part in spans), Counter()) == whole
    vcpus = [Question(vm=vm["vm"], vcpu=v["vcpu"]) for vm in store.manifest.vms for v in vm["vcpus"]]
    by_vcpu = sum((_totals(latency(store, part)) for part in vcpus), Counter())
    known = Counter({key: n for key, n in whole.items() if key[-1] != "unattributed"})
    assert by_vcpu == known


def _totals(answer: Any) -> Counter[tuple[str, ...]]:
    """Counts and times of every row, every exclusion, and every periodic timer."""
    totals: Counter[tuple[str, ...]] = Counter()
    for row in answer.rows:
        for figure in ("count", "time_ns"):
            totals[row["measure"], row["subject"], figure] += row[figure]
    for measure in answer.counted:
        for why, number in measure["excluded"].items():
            totals[measure["measure"], why] += number
    for timer in answer.timers:
        for figure in ("starts", "periods", "lost", "expirations"):
            totals["timer", str(timer["timer"]), figure] += timer[figure]
    return +totals


def test_rows_by_vcpu_add_up(recorded: Callable[..., Store]) -> None:
    """To those of the whole."""
    store = recorded("linux-vmbus-msg")
    parts = latency(store, Question(by=("vcpu",)))
    frame = parts.frame.group_by("measure", "subject").agg(
        pl.col("count", "time_ns").sum(), pl.col("max_ns").max()
    )
    whole = latency(store).frame.select("measure", "subject", "count", "time_ns", "max_ns")
    assert frame.sort("measure", "subject").rows() == whole.sort("measure", "subject").rows()
