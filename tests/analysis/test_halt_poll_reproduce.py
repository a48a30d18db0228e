"""Whether the algorithm, run over the recorded halts, gives the recorded changes of polling times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders.polling_host import Host
from builders.store import Row, tiny_store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recordings import BROKEN, UNMODIFIED, carriers, counts

from hvtrace.analysis.halt_poll.answer import Question, halt_poll
from hvtrace.analysis.halt_poll.halts import read
from hvtrace.analysis.halt_poll.reproduce import Reproduced, reproduces
from hvtrace.analysis.halt_poll.rules import HostSetting
from hvtrace.analysis.scope import Scope
from hvtrace.store import Store

#: The only broken recording whose fault is in halt polling.
GROW_RULE = "055-grow-rule"


def judged(store: Store, own: HostSetting) -> Reproduced:
    lost = store.scan("lost").collect() if store.has("lost") else None
    return reproduces(read(Scope().tables(store), lost), own)


def of_recording(store: Store, **asked: Any) -> Reproduced:
    found = halt_poll(store, Question(**asked)).own.reproduced
    assert found is not None
    return found


CHANGING = [
    (folder.name, carrier)
    for folder in (*UNMODIFIED, *BROKEN)
    for carrier in carriers(folder)
    if counts(folder).get(carrier, counts(folder).get("trace.dat", {})).get("kvm_halt_poll_ns")
]


@pytest.mark.parametrize(("name", "carrier"), [c for c in CHANGING if c[0] != GROW_RULE])
def test_every_recorded_change_is_reproduced(recorded: Callable[..., Store], name: str, carrier: str) -> None:
    """Value before, value after, place: of every recording of a right KVM, whichever file carried it."""
    store = recorded(name, carrier)
    found = of_recording(store)
    assert found.recorded == store.manifest.events["kvm_halt_poll_ns"]
    assert found.mismatched == 0, found.examples
    assert found.matched + found.unknown == found.recorded
    # Nothing was lost: only what a recording that begins in mid-life shows first cannot be told.
    vcpus = sum(len(vm["vcpus"]) for vm in store.manifest.vms)
    assert found.unknown <= (found.recorded if store.manifest.lost else vcpus)


def test_a_kvm_that_grows_by_another_rule_is_not_reproduced(recorded: Callable[..., Store]) -> None:
    """It adds 10 µs where it should double: the first two steps from 0 look alike, all others do not."""
    found = of_recording(recorded(GROW_RULE))
    assert (found.recorded, found.matched, found.value) == (36, 7, 29)
    assert found.mismatched == 29
    first = found.examples[0]
    assert (first.kind, first.expected, first.recorded) == ("value", (20_000, 40_000), (20_000, 30_000))


@pytest.mark.parametrize(
    ("own", "kind"),
    [
        ("halt_poll_ns=1000000", "position"),
        ("grow=3", "value"),
        ("grow_start=5000", "value"),
        ("shrink=2,grow_start=1", "value"),
        ("halt_poll_ns=50000000", "old"),
    ],
)
def test_wrong_parameters_do_not_reproduce(recorded: Callable[..., Store], own: str, kind: str) -> None:
    """A recording of a KVM that polls for up to 30 ms, held against other parameters."""
    store = recorded("baseline-hvmut-haltbig")
    assert of_recording(store).mismatched == 0
    assert getattr(of_recording(store, own=own), kind) > 0


def wakeup(ts: int, ns: int, vcpu: int = 0, *, slept: bool = True) -> Row:
    return ts, "kvm_vcpu_wakeup", vcpu, 0, {"ns": ns, "waited": slept, "valid": True}


def change(ts: int, old: int, new: int, vcpu: int = 0) -> Row:
    told = {"grow": new >= old, "vcpu_id": vcpu, "new": new, "old": old}
    return ts, "kvm_halt_poll_ns", vcpu, 0, told


BORN: Row = (0, "kvm_write_tsc_offset", 0, 0, {"vcpu_id": 0, "previous_tsc_offset": 0, "next_tsc_offset": 1})


def grown(ts: int, ns: int, old: int, new: int) -> list[Row]:
    return [change(ts, old, new), wakeup(ts + 1, ns)]


@pytest.mark.parametrize(
    ("events", "counted"),
    [
        pytest.param(grown(10, 50_000, 0, 10_000), {"matched": 1}, id="right"),
        pytest.param(grown(10, 50_000, 0, 5_000), {"value": 1}, id="another value"),
        pytest.param(grown(10, 50_000, 10_000, 20_000), {"old": 1}, id="from another value"),
        pytest.param(grown(10, 300_000, 0, 10_000), {"position": 1}, id="a halt too long to grow"),
        pytest.param([change(10, 10_000, 0), wakeup(11, 50_000)], {"position": 1}, id="the other way"),
        pytest.param([wakeup(11, 50_000)], {"missing": 1}, id="not recorded"),
        pytest.param([wakeup(11, 300_000)], {}, id="nothing due"),
        pytest.param(
            [*grown(10, 50_000, 0, 5_000), *grown(20, 50_000, 5_000, 10_000)],
            {"value": 1, "matched": 1},
            id="one fault is counted once",
        ),
        pytest.param([change(10, 0, 10_000)], {"unknown": 1}, id="no wakeup follows"),
    ],
)
def test_what_is_counted(tmp_path: Path, events: list[Row], counted: dict[str, int]) -> None:
    """A vCPU from its creation on, and what its first halts show."""
    store = tiny_store(tmp_path / "t.hvt", [BORN, *events, wakeup(1_000_000, 300_000, vcpu=1)])
    found = judged(store, HostSetting(200_000)).as_dict()
    named = ("matched", "value", "old", "position", "missing", "unknown")
    assert {name: found[name] for name in named if found[name]} == counted


def test_a_recording_that_begins_in_mid_life(tmp_path: Path) -> None:
    """The first change tells what the polling time was: it cannot be judged, and those after it can."""
    events = [*grown(10, 50_000, 40_000, 80_000), *grown(20, 100_000, 80_000, 160_000)]
    found = judged(tiny_store(tmp_path / "t.hvt", events), HostSetting(200_000))
    assert (found.unknown, found.matched, found.mismatched) == (1, 1, 0)


def test_a_long_halt_without_a_change_tells_that_polling_was_off(tmp_path: Path) -> None:
    """Had the vCPU polled, a halt longer than the cap would have shrunk its polling time."""
    events = [wakeup(10, 300_000), *grown(20, 50_000, 0, 10_000)]
    found = judged(tiny_store(tmp_path / "t.hvt", events), HostSetting(200_000))
    assert (found.unknown, found.matched) == (0, 1)


def test_lost_events(tmp_path: Path) -> None:
    """What a change begins with is not known after a loss; from it on, all is judged again."""
    events = [BORN, *grown(10, 50_000, 0, 10_000), *grown(50, 50_000, 20_000, 40_000)]
    events += grown(60, 90_000, 40_000, 80_000)
    lost = [{"cpu": 3, "from_ns": 30, "to_ns": 40, "count": 2}]
    without = judged(tiny_store(tmp_path / "t.hvt", events), HostSetting(200_000))
    assert (without.old, without.matched) == (1, 2)
    store = tiny_store(tmp_path / "u.hvt", events, lost=lost)
    store.manifest.write(store.path)
    found = reproduces(read(Scope().tables(store), _lost(lost)), HostSetting(200_000))
    assert (found.unknown, found.matched, found.mismatched) == (1, 2, 0)


def _lost(rows: list[dict[str, Any]]) -> Any:
    import polars as pl

    schema = {"cpu": pl.UInt16, "from_ns": pl.Int64, "to_ns": pl.Int64, "count": pl.UInt64}
    return pl.DataFrame(rows, schema=schema)


def test_a_guest_that_forbids_polling(tmp_path: Path) -> None:
    """After it clears bit 0 of MSR_KVM_POLL_CONTROL no halt changes anything; a change there is out of place."""
    forbids: Row = (5, "kvm_msr", 0, 0, {"write": 1, "ecx": 0x4B564D05, "data": 0, "exception": 0})
    quiet = judged(tiny_store(tmp_path / "t.hvt", [BORN, forbids, wakeup(10, 50_000)]), HostSetting(200_000))
    assert (quiet.missing, quiet.mismatched) == (0, 0)
    loud = tiny_store(tmp_path / "u.hvt", [BORN, forbids, *grown(10, 50_000, 0, 10_000)])
    assert judged(loud, HostSetting(200_000)).mismatched == 1


def test_a_vm_with_a_cap_of_its_own(tmp_path: Path) -> None:
    """Nothing in a recording tells of KVM_CAP_HALT_POLL: its changes are reproduced once somebody says it."""
    rows = Host(cap=50_000).rows([30_000, 30_000, 100_000, 30_000, 12_000, 60_000])
    store = tiny_store(tmp_path / "t.hvt", rows, polling_cap=200_000)
    assert of_recording(store).mismatched > 0
    found = of_recording(store, own="vm_cap=50000")
    assert (found.mismatched, found.matched) == (0, found.recorded)


ARRIVALS = st.lists(st.one_of(st.integers(1, 30_000), st.integers(1, 600_000)), min_size=1, max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(
    arrivals=ARRIVALS,
    own=st.builds(
        HostSetting,
        cap=st.sampled_from([0, 50_000, 200_000, 500_000]),
        grow=st.integers(0, 4),
        shrink=st.integers(0, 4),
        clamps=st.booleans(),
        floors=st.booleans(),
    ),
)
def test_any_host_that_keeps_the_rules_is_reproduced(
    tmp_path_factory: pytest.TempPathFactory, arrivals: list[int], own: HostSetting
) -> None:
    """Whatever its parameters, and of whichever kernel."""
    host = Host(own.cap, own.grow, own.start, own.shrink, own.clamps, own.floors)
    store = tiny_store(tmp_path_factory.mktemp("host") / "t.hvt", host.rows(arrivals))
    found = judged(store, own)
    assert found.matched == found.recorded == sum(halt.change is not None for halt in host.halts)
    assert found.mismatched == 0
