"""The modelled state at a time, from little tapes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from builders.store import Row, tiny_store
from replay_cases import CASES, Case, tape

from hvtrace.pipeline.check import Options
from hvtrace.pipeline.state import state_at
from hvtrace.render.state import state_json, state_text
from hvtrace.replay import state as telling
from hvtrace.replay.engine import Engine
from hvtrace.replay.judge import Judge
from hvtrace.replay.model.exposure import Exposure
from hvtrace.replay.model.machine import Bench, Vm
from hvtrace.replay.model.vmbus import Recorded
from hvtrace.replay.profile import profile_for
from hvtrace.replay.rules import RULES
from hvtrace.replay.tape import TAPE
from hvtrace.store import Store

SINT2 = 0x4000_0092
FLAGS = Options(cpu="host,hv-vpindex,hv-time,hv-synic,hv-stimer")


def at(store: Store, time: int) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(state_json(state_at(store, time, FLAGS)))
    return answer


def exit_of(stamp: int, *inner: tuple[str, dict[str, Any]], vcpu: int = 0) -> list[Row]:
    """An exit for an MSR access, up to the entry after it."""
    rows: list[Row] = [(stamp, "kvm_exit", vcpu, vcpu, {"vcpu_id": vcpu, "exit_reason": 0x7C, "isa": 2})]
    for number, (name, fields) in enumerate(inner, 1):
        rows.append((stamp + number, name, vcpu, vcpu, {"vcpu_id": vcpu, **fields}))
    return [*rows, (stamp + 9, "kvm_entry", vcpu, vcpu, {"vcpu_id": vcpu, "rip": 5})]


def wrote(index: int, value: int) -> tuple[tuple[str, dict[str, Any]], tuple[str, dict[str, Any]]]:
    return (
        ("kvm_hv_synic_set_msr", {"msr": index, "data": value, "host": False}),
        ("kvm_msr", {"write": 1, "ecx": index, "data": value, "exception": 0}),
    )


ROWS = [
    (0, "kvm_entry", 0, 0, {"vcpu_id": 0, "rip": 5}),
    *exit_of(100, *wrote(SINT2, 0x62)),
    *exit_of(200, *wrote(SINT2, 0x63)),
    *exit_of(300, ("kvm_hv_stimer_set_count", {"timer_index": 1, "count": 7, "host": False})),
]


def test_registers_are_those_of_that_time(tmp_path: Path) -> None:
    """Up to and with the events of that stamp; null before they are seen."""
    store = tiny_store(tmp_path / "x.hvt", ROWS)
    seen = [
        at(store, time)["vms"][0]["vcpus"][0]["registers"]["HV_X64_MSR_SINT2"]
        for time in (50, 150, 202, 9999)
    ]
    assert seen == [None, "0x62", "0x63", "0x63"]


def test_before_the_first_event_nothing_is_known(tmp_path: Path) -> None:
    """Said in a line."""
    state = state_at(tiny_store(tmp_path / "x.hvt", ROWS), -5, FLAGS)
    assert (state.seq, state.vms) == (None, [])
    assert "before the first event of the tape" in state_text(state)


def test_the_exit_and_what_is_owed_are_told(tmp_path: Path) -> None:
    """In the middle of a write of COUNT: out of the guest, and a cancellation is owed."""
    store = tiny_store(tmp_path / "x.hvt", ROWS)
    vcpu = at(store, 301)["vms"][0]["vcpus"][0]
    assert vcpu["exit"] == {"seq": 9, "kind": "msr", "whole": True}
    assert "kvm_hv_stimer_cleanup of timer 1" in [owed["what"] for owed in vcpu["owed"]]
    assert vcpu["timers"][1]["count"] == 7
    text = state_text(state_at(store, 301, FLAGS))
    assert "vCPU 0, thread 100, out of the guest since event 9 for an MSR access" in text
    assert "    owed       kvm_hv_stimer_cleanup of timer 1, before 1 entry; since event 10\n" in text
    assert at(store, 399)["vms"][0]["vcpus"][0]["exit"] is None


def test_a_loss_makes_the_state_unknown_with_its_reason(tmp_path: Path) -> None:
    """While events are lost, and after it until they are seen again."""
    lost = [{"cpu": 0, "from_ns": 110, "to_ns": 190, "count": 3}]
    store = tiny_store(tmp_path / "x.hvt", ROWS, lost=lost)
    during = at(store, 150)
    assert during["losing"] is True
    assert during["vms"][0]["vcpus"][0]["registers"]["HV_X64_MSR_SINT2"] is None
    assert during["vms"][0]["vcpus"][0]["why_unknown"] == "events-lost"
    text = state_text(state_at(store, 150, FLAGS))
    assert "Events are being lost at this time" in text
    assert "events-lost (events were lost, and it was not seen since)" in " ".join(text.split())
    after = at(store, 250)
    assert after["losing"] is False
    assert after["vms"][0]["vcpus"][0]["registers"]["HV_X64_MSR_SINT2"] == "0x63"


def test_the_state_does_not_judge_nor_write(tmp_path: Path) -> None:
    """No tables of verdicts appear in the store."""
    store = tiny_store(tmp_path / "x.hvt", ROWS)
    state_at(store, 250)
    assert not store.has("divergences")


@pytest.mark.parametrize("code", telling.SHOWN)
def test_a_divergence_shows_the_state_of_its_family(code: str) -> None:
    """Beside registers and timers, in words."""
    traced = frozenset(TAPE)
    bench = Bench(Judge(RULES, traced), profile_for("6.1"), traced, vmbus=Recorded())
    vm = Vm(0, bench, Exposure())
    own, common = telling.SHOWN[code]
    state = telling.state_for(f"{code}99", vm.vcpu(1))
    assert set(state) >= {name.replace("_", " ") for name in own} | {f"VM's {name}" for name in common}
    assert all(isinstance(text, str) and text for text in state.values())


def test_every_field_of_the_model_is_told() -> None:
    """An object tells about itself by `describe`, or by its plain fields; what is not known is null."""

    @dataclass
    class Plain:
        some_count: int
        flag: bool | None
        hidden: list[int]

    @dataclass
    class Holding:
        inner: Plain | None = None
        number: int | None = None

    class Speaking:
        def describe(self) -> dict[str, str]:
            return {"it": "speaks"}

    assert telling._described(Plain(3, None, [1])) == {"some count": 3, "flag": None}
    assert telling._described(Holding()) == {"number": None}
    assert telling._described(Speaking()) == {"it": "speaks"}


@pytest.mark.parametrize("case", CASES[::7], ids=lambda case: f"{case.rule} {case.name}")
def test_the_state_of_any_case_can_be_told(case: Case) -> None:
    """Whatever the model holds in the middle of a tape, it is an object for scripts."""
    traced = frozenset(TAPE)
    events, losses, *_ = tape(case.tape)
    bench = Bench(Judge(RULES, traced), profile_for(case.kernel), traced, vmbus=Recorded())
    engine = Engine(bench, losses)
    engine.run(events[: len(events) // 2 + 1])
    json.dumps(telling.state_of(engine))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "?"),
        (True, "yes"),
        (False, "no"),
        (17, "17"),
        (0x4000_0092, "0x40000092"),
        (1 << 63, "0x8" + 15 * "0"),
    ],
)
def test_values_for_people(value: object, text: str) -> None:
    """Indices and addresses in hexadecimal."""
    assert telling.word(value) == text
