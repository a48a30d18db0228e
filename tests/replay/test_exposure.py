"""What the guest was offered."""

from __future__ import annotations

import pytest

from hvtrace.abi.cpuid import FEATURES, INTERFACE, LIMITS, RECOMMENDATIONS, VENDOR, VERSION
from hvtrace.abi.register import Gate
from hvtrace.replay.model.exposure import Exposure, parse_cpu
from hvtrace.replay.model.offer import promises

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


def told(option: str, leaf: int) -> dict[str, tuple[int, int]]:
    """Register → mask and value of what a -cpu option promises of a leaf; masks of one register are joined."""
    found: dict[str, tuple[int, int]] = {}
    for promise in promises(parse_cpu(option), leaf):
        mask, value = found.get(promise.register, (0, 0))
        found[promise.register] = mask | promise.mask, value | promise.value
    return found


def test_an_option_promises_bits_and_numbers() -> None:
    """The bits of each flag; spinlock retries, vendor, version and limits where they are given."""
    assert told("host,hv-relaxed,hv-spinlocks=0x1fff", RECOMMENDATIONS) == {
        "eax": (1 << 5, 1 << 5),
        "ebx": (0xFFFF_FFFF, 0x1FFF),
    }
    assert told("host,hv-time,hv_vendor_id=a_cdefghijkl", VENDOR)["ebx"] == (0xFFFF_FFFF, 0x64635F61)
    assert told("host,hv-time,hv-vendor-id=My", VENDOR) == {}
    version = told("host,hv-time,hv-version-id-major=10,hv-version-id-sbranch=1", VERSION)
    assert version == {"ebx": (0xFFFF_0000, 10 << 16), "edx": (0xFF00_0000, 1 << 24)}
    assert told("host,hv-time,x-hv-max-vps=64", LIMITS) == {"eax": (0xFFFF_FFFF, 64)}
    assert told("host,hv-time,hv-no-nonarch-coresharing=auto", RECOMMENDATIONS) == {}
    assert told("host,hv-passthrough", RECOMMENDATIONS) == {
        "eax": (0xC24, 0xC24),
        "ebx": (0xFFFF_FFFF, 0xFFF),
    }
    assert told("host,kvm=off", FEATURES) == {}


def test_flags_that_do_not_switch_hyper_v_on() -> None:
    """A vendor, enforcement, and the number of retries that means never."""
    for option in (
        "hv-vendor-id=abc",
        "hv-enforce-cpuid",
        "hv-spinlocks=0xffffffff",
        "hv-time=off",
        "-hv-time",
    ):
        assert not parse_cpu(f"host,{option}").hyperv
    assert parse_cpu("host,hv-spinlocks=4095").hyperv
    assert parse_cpu("host,+hv-time").hyperv


def test_spinlock_retries_are_known_from_the_leaf_or_the_option() -> None:
    """Never and 0 give the guest nothing to count."""
    assert Exposure(parse_cpu("host,hv-spinlocks=8191")).spins() is True
    assert Exposure(parse_cpu("host,hv-relaxed")).spins() is False
    exposure = Exposure(parse_cpu("host,hv-passthrough"))
    assert exposure.spins() is None
    exposure.learn(RECOMMENDATIONS, 0xE24, 0xFFF, 0, 0, True)
    assert exposure.spins() is True


def test_a_leaf_that_is_not_there_offers_nothing() -> None:
    """Whatever answers in its place."""
    exposure = Exposure(parse_cpu("host,hv-passthrough"))
    exposure.learn(FEATURES, 0xFFFF_FFFF, 0, 0, 0, False)
    assert exposure.has(STIMER) is False
    exposure.doubt(FEATURES)
    assert exposure.has(STIMER) is None
