"""What the guest was offered."""

from __future__ import annotations

import pytest

from hvtrace.abi.cpuid import FEATURES, INTERFACE
from hvtrace.abi.register import Gate
from hvtrace.replay.model.exposure import Exposure, parse_cpu

STIMER, SYNIC = Gate(FEATURES, "eax", 3), Gate(FEATURES, "eax", 2)


def test_flags_set_their_bits() -> None:
    """-cpu host,hv_synic,hv-vpindex,…: bits, SynIC, and no enforcement unless asked for."""
    offer = parse_cpu("host,kvm=off,hv_vpindex,hv-synic=on,hv-stimer=off,hv-spinlocks=0x1fff")
    assert (offer.hyperv, offer.synic, offer.enforced) == (True, True, False)
    exposure = Exposure(offer)
    assert (exposure.has(SYNIC), exposure.has(STIMER)) == (True, False)
    assert parse_cpu("host,hv-relaxed,hv-enforce-cpuid").enforced
    assert not parse_cpu("host,kvm=off").hyperv
    with pytest.raises(ValueError, match="no such flag: hv-nonsense"):
        parse_cpu("host,hv-nonsense")


def test_the_guests_own_answer_counts_more_than_flags() -> None:
    """With hv-passthrough the flags do not tell; the guest's CPUID reads do."""
    exposure = Exposure(parse_cpu("host,hv-passthrough"))
    assert exposure.has(STIMER) is None
    exposure.learn(INTERFACE, 0x31237648, 0, 0, 0, True)
    exposure.learn(FEATURES, 0x2E7F, 0x1030, 0, 0x80FD90, True)
    assert exposure.has(STIMER) is True
    assert exposure.hyperv is True


def test_enforcement_is_learnt_once_three_bits_agree() -> None:
    """Two refusals are not enough; three are; as many for as against say nothing."""
    exposure = Exposure()
    for bit, expected in ((0, None), (1, None), (7, True)):
        exposure.witness(Gate(FEATURES, "eax", bit), refused=True)
        assert exposure.conclude() is expected
    for bit in (9, 11, 13):
        exposure.witness(Gate(FEATURES, "eax", bit), refused=False)
    assert exposure.conclude() is None
