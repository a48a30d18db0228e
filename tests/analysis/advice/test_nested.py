"""Guests that are hypervisors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from advice_cases.costs import HYPERCALL, SECOND, VMREAD, VMRESUME, VMWRITE, exits
from builders.store import Row, tiny_store

from hvtrace.analysis.advise import Answer, Question, advise
from hvtrace.store import Store


def asked(path: Path, code: str, rows: list[Row], cpu: str = "host") -> Answer:
    store = tiny_store(path / "a.hvt", rows)
    store.manifest.host["qemu_command"] = f"qemu-system-x86_64 -cpu {cpu}"
    return advise(store, Question(codes=(code,)))


def runs(reads: int, writes: int, entries: int) -> list[Row]:
    """So many a second for two seconds each, one after the other."""
    return [
        row
        for n, (reason, rate) in enumerate(((VMREAD, reads), (VMWRITE, writes), (VMRESUME, entries)))
        if rate
        for row in exits(rate, reason, first=(1 + 2 * n) * SECOND)
    ]


def test_vmcs_accesses(tmp_path: Path) -> None:
    """How many for each entry, what they take, and what to offer."""
    (found,) = asked(tmp_path, "AD701", runs(600, 300, 100)).findings
    assert found.title == (
        "The guest runs guests of its own, and accesses their VMCS by 1,800 exits, 9.0 for each of its 200 entries"
    )
    assert found.evidence[0].sentence == (
        "1,200 VMREAD, 600 VMWRITE, 0 VMCS switches (VMCLEAR, VMPTRLD, VMPTRST), which took 180 ms, 3.0 % of the vCPUs'"
        " time"
    )
    assert found.qemu == "-cpu …,hv-vapic,hv-evmcs"


@pytest.mark.parametrize(
    "rows",
    [runs(150, 140, 300), runs(200, 200, 0), runs(0, 0, 900)],
    ids=["one for each entry", "few", "none"],
)
def test_a_vmcs_that_is_shadowed(rows: list[Row], tmp_path: Path) -> None:
    """Few accesses remain, or few in all."""
    assert asked(tmp_path, "AD701", rows).findings == []


def test_offered_and_not_used(tmp_path: Path) -> None:
    """A hypervisor that does not know hv-evmcs."""
    (found,) = asked(tmp_path, "AD701", runs(600, 300, 100), "host,hv-vapic,hv-evmcs").findings
    assert found.qemu is None
    assert found.change is not None
    assert found.change.startswith("hv-evmcs is offered")


def test_hypercalls_of_a_nested_guest(tmp_path: Path) -> None:
    """Those of the guest itself do not count."""
    seen = {"isa": 2, "exit_reason": HYPERCALL[1]}
    inner = exits(1_000, HYPERCALL, ("kvm_nested_vmexit", dict(seen)))
    (found,) = asked(tmp_path, "AD702", inner, "host,hv-vapic").findings
    assert found.title == "A nested guest makes 2,000 hypercalls that its own hypervisor has to answer"
    assert found.qemu == "-cpu …,hv-tlbflush-direct"
    outer = [*exits(1_000, HYPERCALL), (9 * SECOND, "kvm_nested_vmexit", 0, 0, dict(seen))]
    assert asked(tmp_path / "b", "AD702", outer, "host,hv-vapic").findings == []


def test_the_real_one_is_no_load(recorded: Callable[..., Store]) -> None:
    """A test that enters its nested guest a few times."""
    answer = advise(recorded("selftest-hyperv_svm_test"), Question(codes=("AD7",)))
    assert answer.findings == []
