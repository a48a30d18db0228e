"""What comes of advices: their order, and what was not found, not judged, not looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from advice_cases.enlightenments import HYPERCALL, guest
from builders.store import Row, tiny_store

import hvtrace
from hvtrace.analysis.advice.facts import Facts
from hvtrace.analysis.advice.finding import Advice, Effect, Evidence, Finding, Severity, Unjudged
from hvtrace.analysis.advise import Fine, Question, advise, chosen
from hvtrace.errors import InputError
from hvtrace.store import Store

EVENTS: list[Row] = [(0, "kvm_entry", 0, 0, {}), (1_000, "kvm_exit", 0, 0, {"isa": 2, "exit_reason": 0x78})]


def advice(code: str, *given: tuple[Severity, int | None, int | None], needs: tuple[str, ...] = ()) -> Advice:
    """An advice with findings of these severities, time saved and time seen."""

    def find(_: Facts, vm: int, row: Advice) -> Iterator[Finding]:
        for severity, saved, seen in given:
            effect = None if saved is None else Effect("less", "guess", saved)
            yield Finding(
                row.code, row.name, severity, vm, "title", (Evidence("seen", None, None, seen),), None, effect
            )

    return Advice(code, code.lower(), "Summary.", needs, find)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return tiny_store(tmp_path / "t.hvt", EVENTS)


def test_the_worst_first(store: Store) -> None:
    """By severity, then by the time that would be saved, or else that was seen to be spent."""
    rows = (
        advice("AD901", (Severity.LOW, 900, None), (Severity.HIGH, 5, None)),
        advice("AD902", (Severity.HIGH, None, 70), (Severity.INFO, None, None)),
        advice("AD903", (Severity.HIGH, 6, 1_000_000)),
    )
    found = advise(store, Question(), rows).findings
    assert [(one.severity.name, one.code) for one in found] == [
        ("HIGH", "AD902"),
        ("HIGH", "AD903"),
        ("HIGH", "AD901"),
        ("LOW", "AD901"),
        ("INFO", "AD902"),
    ]


def test_what_was_not_recorded_is_not_fine(store: Store) -> None:
    """An advice whose tracepoints are missing is open, and says which they are; one that has them is fine."""
    rows = (
        advice("AD901", needs=("kvm_exit", "kvm_msr_x", "kvm_set_irq")),
        advice("AD902", needs=("kvm_exit",)),
    )
    answer = advise(store, Question(), rows)
    assert answer.unjudged == [
        Unjudged(
            "AD901",
            "ad901",
            None,
            "no kvm_msr_x and no kvm_set_irq in the recording",
            ("kvm_msr_x", "kvm_set_irq"),
        )
    ]
    assert answer.fine == [Fine("AD902", "ad902", (0,))]


def test_a_table_that_would_be_empty_was_recorded(store: Store) -> None:
    """No exit was for a port or an MSR: that there are no such events is no lack."""
    assert advise(store, Question(), (advice("AD901", needs=("kvm_pio", "kvm_msr")),)).unjudged == []


def test_a_table_that_would_not_be_empty_was_not(tmp_path: Path) -> None:
    """An exit was for a port, and there is no kvm_pio: it was not recorded."""
    rows = [*EVENTS, (2_000, "kvm_exit", 0, 0, {"isa": 2, "exit_reason": 0x7B})]
    answer = advise(tiny_store(tmp_path / "io.hvt", rows), Question(), (advice("AD901", needs=("kvm_pio",)),))
    assert [open_.missing for open_ in answer.unjudged] == [("kvm_pio",)]


def test_in_python(recorded: Callable[..., Store]) -> None:
    """hvtrace.open("trace.hvt").advise("AD2"): the same answer."""
    store = recorded("linux-clock-hpet-1s")
    assert hvtrace.open(store.path).advise("AD2") == advise(store, Question(codes=("AD2",)))


def test_what_was_not_looked_at_is_said(tmp_path: Path) -> None:
    """Losses, events of no known VM, and a clock of unknown frequency."""
    rows = [*guest(HYPERCALL), (900_000, "kvm_set_irq", None, 0, {"gsi": 4, "level": 1, "irq_source_id": 0})]
    lost = [{"cpu": 0, "from_ns": 5, "to_ns": 6, "count": 3}]
    store = tiny_store(tmp_path / "t.hvt", rows, lost=lost, unit="ticks")
    assert advise(store, Question(codes=("AD101",))).notes == [
        "the clock counts ticks of unknown length: nothing is said about rates and times",
        "events were lost in 1 place: counts are at least what is said",
        "1 event of no known VM was not looked at",
    ]


def test_codes_names_and_families() -> None:
    """An advice is asked for by its code or name, a family by the beginning of its codes; in any case."""
    rows = (advice("AD101"), advice("AD102"), advice("AD201"))
    assert [row.code for row in chosen(("ad1",), rows)] == ["AD101", "AD102"]
    assert [row.code for row in chosen(("AD201", "ad101"), rows)] == ["AD101", "AD201"]
    for unknown in ("AD3", ""):
        with pytest.raises(ValueError, match=rf"^{unknown}$") as refused:
            chosen((unknown,), rows)
        assert str(refused.value) == unknown


def test_a_recording_without_a_vm(tmp_path: Path) -> None:
    """There is nothing to advise on: an error, not an empty answer."""
    store = tiny_store(tmp_path / "t.hvt", EVENTS)
    store.manifest.vms.clear()
    with pytest.raises(InputError, match="shows no vCPU thread"):
        advise(store)
