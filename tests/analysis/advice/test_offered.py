"""What a guest was offered, and what it made of that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from advice_cases.enlightenments import HYPERCALL, TIME, guest, leaf, wrmsr
from builders.store import Row, tiny_store

from hvtrace.abi.flags import FLAGS
from hvtrace.analysis.advice.offered import Offered, offered_by_vm
from hvtrace.analysis.advice.snippets import LIBVIRT, libvirt, qemu, with_needs
from hvtrace.store import Store


def of(store: Store) -> Offered:
    return offered_by_vm(store, [0])[0]


@pytest.mark.parametrize(
    ("name", "hyperv", "guest", "uses"),
    [
        ("linux-plain", False, None, (False, True)),
        ("linux-hv-min-boot", True, "Linux", (True, False)),
        ("linux-hv-kvmon-boot", True, None, (False, True)),
        ("linux-hv-passthrough-boot", True, None, (False, False)),
        ("linux-tick-hpet-1s", False, None, (False, False)),
        # The selftest says that it is Linux.
        ("selftest-hyperv_svm_test", None, "Linux", (True, False)),
    ],
)
def test_real_guests(
    recorded: Callable[..., Store], name: str, hyperv: bool | None, guest: str | None, uses: tuple[bool, bool]
) -> None:
    """Offered Hyper-V or not, which guest, and whether it uses Hyper-V's interface and KVM's."""
    own = of(recorded(name))
    assert (own.hyperv, own.guest, (own.uses_hyperv, own.uses_kvm)) == (hyperv, guest, uses)


def test_flags_are_those_on_the_command_line(recorded: Callable[..., Store]) -> None:
    """What the guest's CPUID reads say is what QEMU was told, but for flags without bits."""
    store = recorded("linux-vmbus-msg")
    own = of(store)
    option = store.manifest.host["qemu_command"].partition("-cpu ")[2].split()[0]
    told = {word.partition("=")[0] for word in option.split(",") if word.startswith("hv-")}
    assert own.read
    assert set(own.flags) == told
    assert own.has("hv-stimer-direct") is False


def test_what_is_offered_may_be_unknown(tmp_path: Path) -> None:
    """No CPUID read, no command line: nothing is known of any flag."""
    own = of(tiny_store(tmp_path / "late.hvt", [(0, "kvm_entry", 0, 0, {})]))
    assert (own.hyperv, own.kvm, own.flags, own.absent) == (None, None, [], [])
    assert {own.has(flag.name) for flag in FLAGS} == {None}


def test_a_leaf_that_was_not_found_offers_nothing(tmp_path: Path) -> None:
    """Beyond its highest leaf the CPU answers with another one's values: they are not the guest's."""
    rows: list[Row] = [
        (0, "kvm_entry", 0, 0, {}),
        *((ts, name, vcpu, cpu, fields | ({"found": False} if name == "kvm_cpuid" else {}))
          for ts, name, vcpu, cpu, fields in leaf(100, 0x4000_0000, rax=7, rbx=0x65746E69)),
    ]  # fmt: skip
    own = of(tiny_store(tmp_path / "none.hvt", rows))
    assert (own.hyperv, own.vendors, own.kvm) == (False, {}, False)


def test_windows_says_so(tmp_path: Path) -> None:
    """GUEST_OS_ID: vendor 1 without the mark of open source is Microsoft's."""
    own = of(tiny_store(tmp_path / "windows.hvt", guest(HYPERCALL | TIME)))
    assert (own.guest, own.started, own.uses_hyperv) == ("Windows", True, True)
    assert own.has("hv-time") is True
    assert own.has("hv-synic") is False


def test_a_fault_is_no_use(tmp_path: Path) -> None:
    """An access that got #GP does not make a user of Hyper-V's interface."""
    rows: list[Row] = [
        (ts, name, vcpu, cpu, fields | ({"exception": 1} if name == "kvm_msr" else {}))
        for ts, name, vcpu, cpu, fields in wrmsr(100, 0x4000_0080, 1)
    ]
    assert not of(tiny_store(tmp_path / "fault.hvt", rows)).uses_hyperv


def test_a_flag_comes_with_what_it_needs() -> None:
    """In the order of the table, but for what is offered already."""
    assert with_needs(["hv-stimer-direct"]) == [
        "hv-vpindex",
        "hv-time",
        "hv-synic",
        "hv-stimer",
        "hv-stimer-direct",
    ]
    assert with_needs(["hv-stimer-direct"], ["hv-vpindex", "hv-time"]) == [
        "hv-synic",
        "hv-stimer",
        "hv-stimer-direct",
    ]


def test_words_for_qemu_and_libvirt() -> None:
    """A flag with a value has one; libvirt has hv-time at the clock, and parts inside their whole."""
    flags = ["hv-spinlocks", "hv-time", "hv-stimer", "hv-stimer-direct"]
    assert qemu(flags) == "-cpu …,hv-spinlocks=0x1fff,hv-time,hv-stimer,hv-stimer-direct"
    assert libvirt(flags) == (
        "<features>\n"
        "  <hyperv>\n"
        "    <spinlocks state='on' retries='8191'/>\n"
        "    <stimer state='on'>\n"
        "      <direct state='on'/>\n"
        "    </stimer>\n"
        "  </hyperv>\n"
        "</features>\n"
        "<clock>\n"
        "  <timer name='hypervclock' present='yes'/>\n"
        "</clock>"
    )
    assert qemu(["hv-avic"], off=True) == "-cpu …,hv-avic=off"
    assert libvirt(["hv-syndbg"]) is None


def test_every_switch_has_its_place_in_libvirt() -> None:
    """A flag that switches something is in the table of elements, if only to say that libvirt has none."""
    assert {flag.name for flag in FLAGS if flag.hyperv} <= set(LIBVIRT)
