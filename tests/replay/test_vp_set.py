"""Sets of virtual processors, and the VP index of each vCPU."""

from __future__ import annotations

import pytest

from hvtrace.replay.judge import Judge
from hvtrace.replay.model.exposure import Exposure
from hvtrace.replay.model.machine import Bench, Vm
from hvtrace.replay.model.vp_set import VpSet, indices, vp_set
from hvtrace.replay.profile import profile_for

EVENT = (0, 0, "", 0, 100)


def machine(numbers: list[int], read: dict[int, int]) -> Vm:
    """A VM of vCPUs with these numbers, some of which have read their VP index."""
    vm = Vm(0, Bench(Judge((), frozenset()), profile_for("6.1"), frozenset()), Exposure())
    for number in numbers:
        vm.vcpu(number).vp_index = read.get(number)
    return vm


@pytest.mark.parametrize(
    ("numbers", "read", "expected"),
    [
        ([0, 1, 2], {}, {0: 0, 1: 1, 2: 2}),
        # Where numbers have a gap, what lies above it was not necessarily created in that rank.
        ([0, 1, 4, 5], {}, {0: 0, 1: 1, 4: None, 5: None}),
        ([0, 1, 4, 5], {4: 2, 5: 3}, {0: None, 1: None, 4: 2, 5: 3}),
        ([0, 2, 65], {2: 2, 65: 65}, {0: 0, 2: 2, 65: 65}),
        # Two vCPUs that claim one index, and one whose index is not its number.
        ([0, 1, 2], {0: 1, 1: 1}, {0: None, 1: None, 2: None}),
    ],
)
def test_the_index_is_the_one_read_or_the_number(
    numbers: list[int], read: dict[int, int], expected: dict[int, int | None]
) -> None:
    """Unread, it is the number, unless something speaks against it."""
    assert indices(machine(numbers, read)) == expected


def test_sets_of_masks_banks_and_everyone() -> None:
    """A mask holds 64 processors, a bank of a sparse set is all that is known of it."""
    assert [VpSet(mask=0b101).has(index) for index in (0, 1, 2, 64, None)] == [True, False, True, False, None]
    assert [VpSet(banks=0b10).has(index) for index in (0, 64, 127, 128, 5000, None)] == [
        False, None, None, False, False, None,
    ]  # fmt: skip
    assert VpSet(everyone=True).has(None) is True
    assert VpSet().has(None) is False


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("kvm_hv_send_ipi", (0x6A, 0), VpSet()),
        ("kvm_hv_send_ipi", (0x6A, 6), VpSet(mask=6)),
        ("kvm_hv_send_ipi_ex", (0x6A, 1, 0), VpSet(everyone=True)),
        ("kvm_hv_send_ipi_ex", (0x6A, 2, 1), VpSet(banks=1)),
        ("kvm_hv_flush_tlb", (0, 0, 0, None), VpSet(everyone=True)),
        ("kvm_hv_flush_tlb", (6, 0, 1, None), VpSet(everyone=True, mask=6)),
        ("kvm_hv_flush_tlb", (6, 0, 2, None), VpSet(mask=6)),
        ("kvm_hv_flush_tlb_ex", (1, 2, 0, 0, None), VpSet(everyone=True, banks=1)),
        ("kvm_hv_flush_tlb_ex", (1, 0, 0, 1, None), VpSet(banks=1)),
    ],
)
def test_what_a_call_addresses(name: str, fields: tuple[int | None, ...], expected: VpSet) -> None:
    """Only a flush takes an empty mask for all, and each format but 0."""
    assert vp_set((*EVENT[:2], name, *EVENT[3:], *fields)) == expected
