"""Single flags whose lack, or presence, shows in the exits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from advice_cases.enlightenments import HYPERCALL, SECOND, guest, unit
from builders.store import Row, tiny_store

from hvtrace.analysis.advice.finding import Severity
from hvtrace.analysis.advise import Question, advise
from hvtrace.store import Store

VAPIC, AVIC = 1 << 4, 1 << 9
MSR_EXIT, NPF_EXIT = 0x7C, 0x400


def eois(rate: int, *, page: bool = False, index: int = 0x80B) -> list[Row]:
    """EOIs that exit, so many a second for four seconds: by MSR, or by the xAPIC's page."""
    rows: list[Row] = []
    for n in range(4 * rate):
        at = SECOND + n * SECOND // rate
        rows += (
            unit(at, NPF_EXIT, "kvm_mmio", type=2, len=4, gpa=0xFEE0_00B0, val=0)
            if page
            else unit(at, MSR_EXIT, "kvm_msr", write=1, ecx=index, data=0, exception=0)
        )
    return rows


def by_vmx(rate: int) -> list[Row]:
    """EOIs by the xAPIC's page on a CPU with VMX: no kvm_mmio tells of them."""
    return [
        row
        for n in range(4 * rate)
        for at in [SECOND + n * SECOND // rate]
        for row in (
            (at, "kvm_exit", 0, 0, {"isa": 1, "exit_reason": 44}),
            (at + 1_000, "kvm_apic", 0, 0, {"rw": 1, "reg": 0xB0, "val": 0}),
            (at + 20_000, "kvm_entry", 0, 0, {}),
        )
    ]


def found(path: Path, rows: list[Row]) -> list[str]:
    answer = advise(tiny_store(path, rows), Question(codes=("AD111", "AD112")))
    return [one.code for one in answer.findings]


@pytest.mark.parametrize("page", [False, True])
def test_eois_that_hv_vapic_would_spare(tmp_path: Path, page: bool) -> None:
    """Not offered, and 150 EOIs a second exit, by MSR or by page."""
    assert found(tmp_path / "eoi.hvt", [*guest(HYPERCALL), *eois(150, page=page)]) == ["AD111"]


def test_eois_that_no_access_tells_of(tmp_path: Path) -> None:
    """On VMX KVM takes an EOI from the exit alone."""
    assert found(tmp_path / "eoi.hvt", [*guest(HYPERCALL), *by_vmx(150)]) == ["AD111"]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([*guest(HYPERCALL), *eois(50)], "too few"),
        ([*guest(HYPERCALL | VAPIC), *eois(150)], "offered; without hv-avic it is the guest's choice"),
        ([*guest(HYPERCALL | VAPIC, AVIC), *eois(150, index=0x4000_0070)], "by the MSR that hv-vapic gives"),
        ([(0, "kvm_entry", 0, 0, {}), *eois(150)], "a guest that does not use Hyper-V's interface"),
    ],
)
def test_eois_that_are_no_matter(tmp_path: Path, rows: list[Row], why: str) -> None:
    assert found(tmp_path / "eoi.hvt", rows) == [], why


def test_hv_avic_without_hardware(tmp_path: Path) -> None:
    """Offered, and EOIs exit: the hardware does not see to them, and the guest was told not to use the MSR."""
    assert found(tmp_path / "eoi.hvt", [*guest(HYPERCALL | VAPIC, AVIC), *eois(150)]) == ["AD112"]


def test_what_a_real_guest_pays(recorded: Callable[..., Store]) -> None:
    """A guest with hv-avic on a host without AVIC: as many EOIs exit as it writes the x2APIC's EOI."""
    store = recorded("lossy")
    (one,) = advise(store, Question(codes=("AD112",))).findings
    written = (pl.col("ecx") == 0x80B) & (pl.col("write") != 0)
    wrote = store.scan("kvm_msr").filter(written).select(pl.len()).collect().item()
    # Pairs in which events were lost are left out.
    assert one.evidence[0].count == pytest.approx(wrote, abs=10)
    assert "the host's kvm_amd.avic is 'N', as noted beside the recording" in [
        seen.sentence for seen in one.evidence
    ]
    assert one.severity is Severity.MEDIUM


def test_with_the_assist_page_most_eois_do_not_exit(recorded: Callable[..., Store]) -> None:
    """The same guest without hv-avic: of nine EOIs eight are by the page (kvm_pv_eoi), and one exits."""
    store = recorded("linux-vmbus-msg")
    by_page = store.manifest.events["kvm_pv_eoi"]
    written = (pl.col("ecx") == 0x4000_0070) & (pl.col("write") != 0)
    wrote = store.scan("kvm_msr").filter(written).select(pl.len()).collect().item()
    assert by_page + wrote == store.manifest.events["kvm_eoi"]
    assert by_page > 7 * wrote
    assert advise(store, Question(codes=("AD111", "AD112"))).findings == []
