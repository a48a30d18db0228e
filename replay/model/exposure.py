"""What the guest was offered: Hyper-V at all, which CPUID bits, and whether KVM refuses what is not offered.

Learnt from the guest's own CPUID reads (`kvm_cpuid`), from `-cpu` flags, and, for the refusal, from what
happens to
accesses whose bit is clear. TLFS, Feature and interface discovery; hv_check_msr_access in
arch/x86/kvm/hyperv.c.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hvtrace.abi.cpuid import (
    ALWAYS,
    FEATURES,
    INTERFACE,
    INTERFACE_SIGNATURE,
    NESTED,
    RECOMMENDATIONS,
    SYNDBG,
    VENDOR,
    flag_by_name,
)
from hvtrace.abi.register import Gate

__all__ = ["Exposure", "Offer", "parse_cpu"]

_REGISTERS = ("eax", "ebx", "ecx", "edx")

#: Distinct gates that must agree before enforcement counts as known from behaviour alone.
AGREEMENT = 3


@dataclass(frozen=True, slots=True)
class Offer:
    """What a `-cpu` option says. None: it does not tell."""

    hyperv: bool
    passthrough: bool
    enforced: bool
    synic: bool | None
    syndbg: bool
    bits: frozenset[Gate]
    pv_enforced: bool = False


def parse_cpu(option: str) -> Offer:
    """Read QEMU's `-cpu` option ("host,hv-vpindex,hv-synic,…"). ValueError: an hv-* flag that does not exist."""
    bits: set[Gate] = set()
    names: set[str] = set()
    pv_enforced = False
    for part in option.split(",")[1:]:
        name, _, value = part.strip().replace("_", "-").partition("=")
        if name.startswith("+"):
            name = name[1:]
        off = value in ("off", "no", "false")
        if name == "kvm-pv-enforce-cpuid":
            pv_enforced = not off
        if not name.startswith("hv-") or off:
            continue
        flag = flag_by_name(name)
        if flag is None:
            raise ValueError(f"no such flag: {name}")
        names.add(flag.name)
        bits.update(flag.sets)
    hyperv = any(flag is not None and flag.hyperv for flag in map(flag_by_name, names))
    if hyperv:
        bits.update(ALWAYS)
    passthrough = "hv-passthrough" in names
    return Offer(
        hyperv=hyperv,
        passthrough=passthrough,
        enforced="hv-enforce-cpuid" in names,
        # With passthrough it depends on what the host's KVM reports.
        synic=True if "hv-synic" in names else None if passthrough else False,
        syndbg="hv-syndbg" in names,
        bits=frozenset(bits),
        pv_enforced=pv_enforced,
    )


@dataclass(slots=True)
class Exposure:
    """What one VM's guest was offered, as far as known."""

    offer: Offer | None = None
    hyperv: bool | None = None
    enforced: bool | None = None
    leaves: dict[tuple[int, str], int] = field(default_factory=dict)
    #: Gates whose access was refused, and allowed, although the bit is clear: evidence of enforcement.
    refused: set[Gate] = field(default_factory=set)
    allowed: set[Gate] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.offer is not None:
            self.hyperv = self.offer.hyperv
            self.enforced = self.offer.enforced

    def learn(self, leaf: int, rax: int, rbx: int, rcx: int, rdx: int, found: bool | None) -> None:
        """A CPUID answer the guest got."""
        if leaf == INTERFACE:
            self.hyperv = rax & 0xFFFF_FFFF == INTERFACE_SIGNATURE
        if leaf in (VENDOR, INTERFACE, FEATURES, RECOMMENDATIONS, NESTED, SYNDBG) and found is not False:
            for register, value in zip(_REGISTERS, (rax, rbx, rcx, rdx), strict=True):
                self.leaves[leaf, register] = value & 0xFFFF_FFFF

    def has(self, gate: Gate) -> bool | None:
        """Whether the guest sees a CPUID bit; None: not known."""
        value = self.leaves.get((gate.leaf, gate.register))
        if value is not None:
            return bool(value >> gate.bit & 1)
        if gate.leaf == SYNDBG and self.leaves.get((VENDOR, "eax"), SYNDBG) < SYNDBG:
            return False
        offer = self.offer
        if offer is None or not offer.hyperv:
            return None if offer is None else False
        if gate in offer.bits:
            return True
        # Passthrough copies what the host's KVM reports, which the flag does not tell.
        return None if offer.passthrough else False

    def witness(self, gate: Gate, refused: bool) -> None:
        """An access whose bit is clear was refused, or allowed, and nothing but the gate decides."""
        (self.refused if refused else self.allowed).add(gate)

    def conclude(self) -> bool | None:
        """Whether CPUID is enforced, from what was witnessed: most of at least AGREEMENT gates; None:
        open.
        """
        if self.enforced is not None:
            return self.enforced
        refused, allowed = len(self.refused), len(self.allowed)
        if refused + allowed < AGREEMENT or refused == allowed:
            return None
        return refused > allowed
