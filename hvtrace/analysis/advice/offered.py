"""What a guest was shown of Hyper-V's and KVM's interface, and which of the two it took up.

From its own CPUID reads; where they are not in the recording, from QEMU's command line noted beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import polars as pl

from hvtrace.abi import cpuid
from hvtrace.abi.flags import ALWAYS, FLAGS, Flag, flag_by_name
from hvtrace.pipeline.metadata import cpu_option
from hvtrace.replay.model.exposure import Exposure, Offer, parse_cpu
from hvtrace.store import Store

__all__ = ["GUESTS", "HYPERV_VENDOR", "KVM_VENDOR", "Offered", "offered_by_vm"]

HYPERV_VENDOR, KVM_VENDOR = "Microsoft Hv", "KVMKVMKVM"

#: Where vendors of a hypervisor stand, one for each interface: 0x40000000, 0x40000100 and so on.
_VENDORS = range(cpuid.VENDOR, cpuid.VENDOR + 0x1_0000, 0x100)

GUEST_OS_ID = 0x4000_0000

#: Indices of Hyper-V's MSRs; none of KVM's are among them.
_SYNTHETIC = range(0x4000_0000, 0x4000_0200)

#: CPUID leaf whose EDX bit 8 says that the TSC runs at one rate always (AMD APM, Intel SDM: advanced power management).
_POWER, _INVARIANT = 0x8000_0007, 1 << 8

#: MSRs of KVM's own interface that a guest writes to use it: kvmclock, asynchronous page faults, steal time, PV EOI,
#: polling control, and the clock's old indices.
KVM_USED = frozenset({0x11, 0x12, *range(0x4B56_4D00, 0x4B56_4D08)})

#: Bits 62:56 of GUEST_OS_ID where bit 63 marks an open-source system (TLFS, Reporting the guest OS identity), and what
#: it is then; without bit 63, bits 62:48 are the vendor.
OPEN_SOURCE = {1: "Linux", 2: "FreeBSD", 3: "Xen", 4: "illumos"}
_MICROSOFT = 1

#: Words for guests in findings.
GUESTS: dict[str | None, str] = {None: "the guest", "Windows": "the Windows guest"} | {
    name: f"the {name} guest" for name in OPEN_SOURCE.values()
}


@dataclass(slots=True)
class Offered:
    """What one VM's guest was shown.

    `vendors`: leaf → vendor, of the interfaces it found. `read`: its CPUID reads of the hypervisor's leaves are in the
    recording. `noted_kvm`: KVM's interface is offered by the -cpu option beside the recording. `invariant_tsc`: CPUID
    shows a TSC of one rate; None: that was not read. `guest`: "Windows", "Linux" …, as it told Hyper-V. `started`: that
    it told so (GUEST_OS_ID) is in the recording. `uses_hyperv`: it accessed a synthetic MSR or made a hypercall.
    `uses_kvm`: it wrote an MSR of KVM's interface.
    """

    vm: int
    exposure: Exposure
    vendors: dict[int, str] = field(default_factory=dict)
    read: bool = False
    first_seq: int | None = None
    noted_kvm: bool | None = None
    invariant_tsc: bool | None = None
    guest: str | None = None
    started: bool = False
    uses_hyperv: bool = False
    uses_kvm: bool = False

    @property
    def hyperv(self) -> bool | None:
        """Whether the guest was offered Hyper-V; None: not known."""
        known = self.exposure.hyperv
        if known is None and self.read:
            # Linux goes by the vendor and never reads the signature.
            first = self.vendors.get(cpuid.VENDOR)
            return True if first == HYPERV_VENDOR else False if first in (None, KVM_VENDOR) else None
        return known

    @property
    def kvm(self) -> bool | None:
        """Whether the guest was offered KVM's interface; None: not known."""
        return KVM_VENDOR in self.vendors.values() if self.read else self.noted_kvm

    @property
    def unread(self) -> bool:
        """Whether the leaf that tells of Hyper-V was never read, though one before it was."""
        return self.read and not any(leaf == cpuid.INTERFACE for leaf, _ in self.exposure.leaves)

    @property
    def source(self) -> str:
        """Where this is known from."""
        return "the guest's CPUID reads" if self.read else "the -cpu option noted beside the recording"

    def has(self, name: str) -> bool | None:
        """Whether a flag is offered: all of its bits; None: not known, or a flag without bits."""
        flag = flag_by_name(name)
        if flag is None:
            raise KeyError(name)
        if self.hyperv is False:
            return False
        if flag.name == "hv-spinlocks":
            return self.exposure.spins()
        return self._shown(flag)

    def _shown(self, flag: Flag) -> bool | None:
        told = [self.exposure.has(gate) for gate in flag.sets if gate not in ALWAYS]
        if not told:
            return None
        return False if False in told else None if None in told else True

    @property
    def flags(self) -> list[str]:
        """Flags that are offered, in QEMU's words."""
        return [flag.name for flag in FLAGS if self.has(flag.name)]

    @property
    def absent(self) -> list[str]:
        """Flags that are known not to be offered."""
        return [flag.name for flag in FLAGS if flag.hyperv and self.has(flag.name) is False]


def offered_by_vm(store: Store, vms: Iterable[int]) -> dict[int, Offered]:
    """VM → what its guest was shown, in the whole of the recording."""
    option = cpu_option(store.manifest.host, len(store.manifest.vms))
    noted = None if option is None else _noted(option)
    kvm = None if option is None else not {"kvm=off", "-kvm", "kvm=no"} & set(option.split(","))
    found = {vm: Offered(vm, Exposure(noted), noted_kvm=kvm) for vm in vms}
    _read(store, found)
    _used(store, found)
    return found


def _noted(option: str) -> Offer | None:
    try:
        return parse_cpu(option)
    except ValueError:
        return None


def _read(store: Store, found: Mapping[int, Offered]) -> None:
    """Take up the guests' CPUID reads; of several of a leaf the last counts."""
    if not store.has("kvm_cpuid"):
        return
    columns = ("rax", "rbx", "rcx", "rdx", "found")
    rows = (
        store.scan("kvm_cpuid")
        .filter(
            pl.col("vm").is_not_null(),
            pl.col("function").is_between(_VENDORS.start, _VENDORS.stop - 1) | (pl.col("function") == _POWER),
        )
        .group_by("vm", "function")
        .agg(pl.col(*columns).sort_by("seq").last(), first_seq=pl.col("seq").min())
        .sort("vm", "function")
        .collect()
    )
    for vm, leaf, rax, rbx, rcx, rdx, there, seq in rows.iter_rows():
        own = found.get(vm)
        if own is None:
            continue
        if leaf == _POWER:
            own.invariant_tsc = there is not False and bool(rdx & _INVARIANT)
            continue
        own.exposure.learn(leaf, rax, rbx, rcx, rdx, there)
        if leaf not in _VENDORS:
            continue
        if leaf == cpuid.VENDOR:
            own.read, own.first_seq = True, seq
        words = (rbx, rcx, rdx)
        name = b"".join((word & 0xFFFF_FFFF).to_bytes(4, "little") for word in words).rstrip(b"\0")
        # Beyond its highest leaf a hypervisor has no answer, or that of another leaf.
        if there is not False and name and name.isascii() and rax & 0xFFFF_FFFF >= leaf:
            own.vendors[leaf] = name.decode()


def _used(store: Store, found: Mapping[int, Offered]) -> None:
    """Take up what the guests used of each interface."""
    if store.has("kvm_msr"):
        synthetic = pl.col("ecx").is_between(_SYNTHETIC.start, _SYNTHETIC.stop - 1)
        wrote = (pl.col("write") != 0) & (pl.col("data") != 0)
        kvm = wrote & pl.col("ecx").is_in(sorted(KVM_USED))
        identity = pl.col("data").filter(wrote & (pl.col("ecx") == GUEST_OS_ID))
        rows = (
            store.scan("kvm_msr")
            .filter(pl.col("vm").is_not_null(), pl.col("exception") == 0, synthetic | kvm)
            .group_by("vm")
            .agg(synthetic=synthetic.any(), kvm=kvm.any(), identity=identity.last())
            .collect()
        )
        for vm, hyperv, own_interface, value in rows.iter_rows():
            if (own := found.get(vm)) is not None:
                own.uses_hyperv, own.uses_kvm = hyperv, own_interface
                own.started = value is not None
                own.guest = None if value is None else _guest(value)
    if store.has("kvm_hv_hypercall"):
        calls = store.scan("kvm_hv_hypercall").select("vm").unique().drop_nulls().collect()
        for vm in calls["vm"].to_list():
            if vm in found:
                found[vm].uses_hyperv = True


def _guest(identity: int) -> str | None:
    if identity >> 63:
        return OPEN_SOURCE.get(identity >> 56 & 0x7F)
    return "Windows" if identity >> 48 == _MICROSOFT else None
