"""APIC virtualisation: which reason held it off, when, and what it is called."""

from __future__ import annotations

from pathlib import Path

import pytest
from advice_cases.costs import EOI, MSR, SECOND, exits, inhibit, wrmsr
from builders.store import Row, tiny_store

from hvtrace.abi.apicv import inhibit_name
from hvtrace.analysis.advice.finding import Finding
from hvtrace.analysis.advise import Question, advise


@pytest.mark.parametrize(
    ("reason", "kernel", "requested", "name"),
    [
        (0, "6.1.0-56-amd64", False, "DISABLED"),
        (1, "5.19.0", False, "HYPERV"),
        (2, "6.1.0", False, "ABSENT"),
        (2, "5.19.0", False, "reason 2"),
        (4, "6.1.0", False, "APIC_ID_MODIFIED"),
        (4, "6.3.0", False, "reason 4"),
        (4, "6.12.117", False, "PHYSICAL_ID_ALIASED"),
        (8, "6.1.0", False, "PIT_REINJ"),
        (8, "7.1.5", False, "IRQWIN"),
        (12, "6.16.1", False, "PHYSICAL_ID_TOO_BIG"),
        (99, "6.16.1", False, "reason 99"),
        (-1, "6.16.1", False, "reason -1"),
        (1, None, False, "HYPERV"),
        (7, None, False, "reason 7"),
        (7, "5.15.85", True, "ABSENT"),
    ],
)
def test_names_of_reasons(reason: int, kernel: str | None, *, requested: bool, name: str) -> None:
    """As the kernel at hand counts them; a number where that is not known."""
    assert inhibit_name(reason, kernel, requested=requested) == name


def inhibited(path: Path, *changes: Row) -> list[Finding]:
    """Exits of EOI from second 1 to 11, 2,000 a second, and what changes meanwhile."""
    busy = exits(2_000, MSR, wrmsr(EOI), seconds=10)
    rows = sorted([*busy, *changes], key=lambda row: row[0])
    return advise(tiny_store(path / "a.hvt", rows), Question(codes=("AD302",))).findings


def test_a_spell(tmp_path: Path) -> None:
    """From when to when, how much of the VM's time, and the exits of its seconds."""
    (found,) = inhibited(
        tmp_path, inhibit(3 * SECOND, 8, on=True, left=256), inhibit(5 * SECOND, 8, on=False, left=0)
    )
    assert found.title == "APIC virtualisation was inhibited by PIT_REINJ for 20 % of the VM's time"
    spell, cost = found.evidence
    assert spell.sentence == "1 spell, 2.00 s in all; the longest from 3.000000 until 5.000000"
    assert (spell.time_ns, cost.count) == (2 * SECOND, 6_000)
    assert found.change is not None
    assert "lost_tick_policy=discard" in found.change


def test_one_that_lasts(tmp_path: Path) -> None:
    """What is not cleared holds until the end; auto-EOI is answered by hv-avic."""
    (found,) = inhibited(tmp_path, inhibit(6 * SECOND, 1, on=True, left=2))
    assert found.evidence[0].sentence == "1 spell, 5.00 s in all; the longest from 6.000000 until the end"
    assert found.qemu == "-cpu …,hv-avic"


def test_reasons_are_told_apart(tmp_path: Path) -> None:
    """Two at once are two findings."""
    findings = inhibited(
        tmp_path, inhibit(2 * SECOND, 8, on=True, left=256), inhibit(4 * SECOND, 1, on=True, left=258)
    )
    assert {found.title.split(" by ")[1].split()[0] for found in findings} == {"PIT_REINJ", "HYPERV"}


def test_what_happens_before_the_vm_runs(tmp_path: Path) -> None:
    """ABSENT until the VMM has made the interrupt controllers is as it should be; moments are as well."""
    assert (
        inhibited(
            tmp_path,
            inhibit(0, 2, on=True, left=4),
            inhibit(1_000, 2, on=False, left=0),
            inhibit(3 * SECOND, 7, on=True, left=128),
            inhibit(3 * SECOND + 50_000_000, 7, on=False, left=0),
        )
        == []
    )


def test_a_host_without_it(tmp_path: Path) -> None:
    """Where APICv is off for good, nothing else is to blame."""
    assert inhibited(tmp_path, inhibit(0, 0, on=True, left=1), inhibit(3 * SECOND, 1, on=True, left=3)) == []


def sint(at: int, value: int, *, host: bool = False) -> Row:
    return at, "kvm_hv_synic_set_msr", 0, 0, {"msr": 0x40000092, "data": value, "host": host}


@pytest.mark.parametrize(
    ("value", "host", "told"),
    [
        (0x2_00F3, False, True),
        (0x3_00F3, False, False),
        (0x0_00F3, False, False),
        (0x2_0003, False, False),
        (0x2_00F3, True, False),
    ],
    ids=["auto-EOI", "masked", "without", "vector too low", "the VMM's write"],
)
def test_auto_eoi(value: int, tmp_path: Path, *, host: bool, told: bool) -> None:
    """An unmasked SINT with the bit, as the guest writes it."""
    rows = [*exits(10, MSR, wrmsr(EOI)), sint(4 * SECOND, value, host=host)]
    findings = advise(tiny_store(tmp_path / "a.hvt", rows), Question(codes=("AD303",))).findings
    assert [found.severity.name for found in findings] == (["MEDIUM"] if told else [])


def test_auto_eoi_where_apicv_is_off_anyway(tmp_path: Path) -> None:
    """It costs nothing there: known from the host's parameters, where KVM's event has no VM."""
    store = tiny_store(tmp_path / "a.hvt", [*exits(10, MSR, wrmsr(EOI)), sint(4 * SECOND, 0x2_00F3)])
    store.manifest.host["module_parameters"] = {"kvm_amd": {"avic": "N"}}
    (found,) = advise(store, Question(codes=("AD303",))).findings
    assert found.severity.name == "LOW"
    assert found.effect is not None
    assert found.effect.sentence == "none on this host, where APICv is off anyway"
