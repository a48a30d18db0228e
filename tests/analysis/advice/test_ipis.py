"""Interprocessor interrupts and flushes: sent in plenty, and refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from advice_cases.costs import HYPERCALL, ICR, MSR, SECOND, exits, unit, wrmsr
from builders.store import Row, tiny_store

from hvtrace.analysis.advise import Answer, Question, advise

IPI = ("kvm_apic_ipi", {"icr_low": 0xFB, "dest_id": 1})


def asked(path: Path, code: str, rows: list[Row], cpu: str | None) -> Answer:
    store = tiny_store(path / "a.hvt", rows)
    if cpu is not None:
        store.manifest.host["qemu_command"] = f"qemu-system-x86_64 -cpu {cpu}"
    return advise(store, Question(codes=(code,)))


def test_by_apic(tmp_path: Path) -> None:
    """Which vectors, and what to offer."""
    (found,) = asked(
        tmp_path, "AD310", exits(600, MSR, IPI, wrmsr(ICR), seconds=1), "host,hv-vpindex"
    ).findings
    assert found.title == "vCPUs interrupt each other by the APIC, 600 exits that took 60.0 ms"
    assert [seen.sentence for seen in found.evidence][-1] == "vectors sent most: 0xfb (600)"
    assert found.qemu == "-cpu …,hv-tlbflush,hv-ipi"


def test_offered_and_not_used(tmp_path: Path) -> None:
    """Nothing can be added on the host's side."""
    rows = exits(600, MSR, IPI, wrmsr(ICR), seconds=1)
    (found,) = asked(tmp_path, "AD310", rows, "host,hv-vpindex,hv-ipi,hv-tlbflush").findings
    assert found.title.endswith(", although hv-ipi is offered")
    assert (found.severity.name, found.qemu) == ("LOW", None)


@pytest.mark.parametrize(
    ("cpu", "rows", "unjudged"),
    [
        (
            "host",
            exits(600, MSR, IPI, wrmsr(ICR), seconds=1),
            False,
        ),  # KVM's own guests have a call of their own.
        (None, exits(600, MSR, IPI, wrmsr(ICR), seconds=1), True),
        ("host,hv-vpindex", exits(99, MSR, IPI, wrmsr(ICR), seconds=1, ns=1_000_000), False),
        ("host,hv-vpindex", exits(400, MSR, IPI, wrmsr(ICR), seconds=1, ns=100_000), False),
        ("host,hv-vpindex", exits(600, MSR, wrmsr(0x80B), seconds=1), False),
    ],
    ids=["no Hyper-V", "not known", "few", "quick", "other MSR"],
)
def test_what_is_no_finding(cpu: str | None, rows: list[Row], *, unjudged: bool, tmp_path: Path) -> None:
    """No Hyper-V, few, or little time; where what is offered is not known, that is said."""
    rows[0] = (SECOND, *rows[0][1:])
    answer = asked(tmp_path, "AD310", rows, cpu)
    assert answer.findings == []
    assert bool(answer.unjudged) == unjudged


def call(at: int, code: int, result: int | None) -> list[Row]:
    done = [] if result is None else [("kvm_hv_hypercall_done", {"result": result})]
    return list(unit(at, HYPERCALL, ("kvm_hv_hypercall", {"code": code, "fast": True}), *done))


def test_refused(tmp_path: Path) -> None:
    """By code and status; a call without a result does not take that of the next."""
    rows: list[Row] = [(0, "kvm_entry", 0, 0, {})]
    for n in range(30):
        rows += call(1_000_000 * (n + 1), 0x0B, 6 if n < 12 else 0)
    rows += [*call(40_000_000, 0x0B, None), *call(41_000_000, 0x5C, 3)]
    (found,) = asked(tmp_path, "AD312", rows, None).findings
    assert found.title == "12 hypercalls to send interrupts or flush TLBs failed"
    assert [seen.sentence for seen in found.evidence] == [
        "12 of 30 calls of HvCallSendSyntheticClusterIpi: HV_STATUS_ACCESS_DENIED (12)"
    ]
