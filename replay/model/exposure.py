"""What the guest was offered: Hyper-V at all, which CPUID bits, and whether KVM refuses what is not offered.

Learnt from the guest's own CPUID reads (`kvm_cpuid`), from `-cpu` flags, and, for the refusal, from what happens to
accesses whose bit is clear. TLFS, Feature and interface discovery; hv_check_msr_access in arch/x86/kvm/hyperv.c.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hvtrace.abi.cpuid import INTERFACE, INTERFACE_SIGNATURE, LEAVES, RECOMMENDATIONS, SYNDBG, VENDOR
from hvtrace.abi.flags import SPINLOCKS_NEVER
from hvtrace.abi.register import Gate
from hvtrace.replay.model.offer import Offer, parse_cpu

__all__ = ["Exposure", "Offer", "parse_cpu"]

_REGISTERS = ("eax", "ebx", "ecx", "edx")

#: Distinct gates that must agree before enforcement counts as known from behaviour alone.
AGREEMENT = 3

#: Leaves whose bits have names.
KNOWN = frozenset(leaf.number for leaf in LEAVES)


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
    #: Answers by leaf and vCPU, of every leaf that was read.
    answers: dict[int, dict[int, tuple[int, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.offer is not None:
            self.hyperv = self.offer.hyperv
            self.enforced = self.offer.enforced

    def learn(self, leaf: int, rax: int, rbx: int, rcx: int, rdx: int, found: bool | None) -> None:
        """A CPUID answer the guest got."""
        if leaf == INTERFACE:
            self.hyperv = rax & 0xFFFF_FFFF == INTERFACE_SIGNATURE
        if leaf in KNOWN:
            for register, value in zip(_REGISTERS, (rax, rbx, rcx, rdx), strict=True):
                # Another leaf may answer for one that is not there: KVM takes none of its bits as offered.
                self.leaves[leaf, register] = 0 if found is False else value & 0xFFFF_FFFF

    def doubt(self, leaf: int) -> None:
        """A leaf's answer cannot be right: what the guest was offered there is not known from it."""
        for register in _REGISTERS:
            self.leaves.pop((leaf, register), None)
        if leaf == INTERFACE:
            self.hyperv = None

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

    def spins(self) -> bool | None:
        """Whether the guest was given a number of spinlock retries, at which it asks to yield; None: not known."""
        value = self.leaves.get((RECOMMENDATIONS, "ebx"))
        if value is None and self.offer is not None and not self.offer.passthrough:
            given = (field.value for field in self.offer.fields if field.leaf == RECOMMENDATIONS)
            value = next(given, SPINLOCKS_NEVER)
        return None if value is None else value not in (0, SPINLOCKS_NEVER)

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
