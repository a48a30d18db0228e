"""Profiles: what a kernel does, chosen by its release."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvtrace.replay import profile
from hvtrace.replay.bugs import BUGS
from hvtrace.replay.profile import FACTS, PROFILES, TREES, profile_for, profile_named


@pytest.mark.parametrize(
    ("release", "name", "fact", "answer"),
    [
        ("6.1.0-56-amd64", "kvm-6.1", "high_half_faults", True),
        ("5.15.0-91-generic", "kvm-5.15", "high_half_faults", False),
        # Between two trees that differ, either goes.
        ("5.17.3", "kvm-5.17", "high_half_faults", None),
        ("6.12.117+deb12-amd64", "kvm-6.12", "high_half_faults", True),
        ("7.4.0", "kvm-7.4", "invariant_control", True),
        ("4.19.0", "kvm-4.19", "enforces", False),
        # Distributions that port whole features.
        ("5.14.0-427.13.1.el9_4.x86_64", "kvm-5.14", "enforces", None),
        ("5.14.21-150500.55.19-default", "kvm-5.14", "high_half_faults", None),
        (None, "kvm", "needs_cpuid", None),
        ("not a release", "kvm", "needs_cpuid", None),
    ],
)
def test_a_release_has_its_profile(release: str | None, name: str, fact: str, answer: bool | None) -> None:
    """The release's number decides; where the trees on both sides differ, either behaviour is right."""
    profile = profile_for(release)
    assert (profile.name, profile.fact(fact)) == (name, answer)


def test_every_fact_has_an_answer_for_each_tree_and_a_reason() -> None:
    """FACTS is complete, and its names are unique."""
    assert {len(fact.answers) for fact in FACTS} == {len(TREES)}
    assert len({fact.name for fact in FACTS}) == len(FACTS)
    assert all(fact.reason for fact in FACTS)


def test_profiles_are_found_by_name() -> None:
    """Every profile that is listed can be asked for; a wrong name says which there are."""
    assert [profile_named(name).name for name in PROFILES] == list(PROFILES)
    with pytest.raises(ValueError, match=r"one of kvm, kvm-5\.4"):
        profile_named("tlfs-1")


def test_every_known_bug_is_named_by_a_rule_or_the_model() -> None:
    """A row that nothing refers to would predict nothing."""
    sources = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("model", "rules", "parts")
        for path in (Path(profile.__file__).parent / folder).glob("*.py")
    )
    assert [bug.name for bug in BUGS if f'"{bug.name}"' not in sources] == []
    assert {len(bug.answers) for bug in BUGS} == {len(TREES)}
