"""Baselines: what is the same fault in another recording, and what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders.verdicts import coverage, divergence, outcome_of

from hvtrace.errors import InputError
from hvtrace.pipeline.baseline import Baseline, read_baseline, write_baseline
from hvtrace.render.verdicts import as_json
from hvtrace.replay.judge import Judge
from hvtrace.replay.rules import RULES
from hvtrace.replay.verdict import Form, form_of


@pytest.mark.parametrize(
    ("message", "form"),
    [
        ("timer 0: period 20000, last expiry none, now -5", "timer #: period #, last expiry none, now #"),
        ("HV_X64_MSR_SINT12 reads 0xab and holds 0x0", "HV_X64_MSR_SINT# reads # and holds #"),
        ("acknowledged 0, 1, 2 and 5", "acknowledged # and #"),
        ("timer #: period #", "timer #: period #"),
    ],
)
def test_a_form_has_no_numbers(message: str, form: str) -> None:
    """Names keep theirs; a list counts as one number; a form's form is itself."""
    assert form_of("HV509", "kvm_msr", message) == Form("HV509", "kvm_msr", form)


def test_what_is_written_is_read_and_the_answer_says_the_same(tmp_path: Path) -> None:
    """All forms of what was folded; twice the same bytes, and once where two VMs have the same."""
    found = divergence()
    found.add_form(form_of("HV504", "kvm_msr", "timer 1: no cleanup"))
    result = outcome_of(found, divergence(vm=1, seq=9))
    written, answered = tmp_path / "written.json", tmp_path / "answered.json"
    write_baseline(written, result)
    answered.write_text(as_json(result))
    wanted = {
        form_of("HV504", "kvm_msr", "timer #: no cleanup"),
        form_of("HV509", "kvm_hv_stimer_start_periodic", "timer #: period #"),
    }
    assert read_baseline(written).forms == read_baseline(answered).forms == wanted
    before = written.read_bytes()
    write_baseline(written, outcome_of(divergence(vm=1, seq=9), found))
    assert written.read_bytes() == before


def test_a_baseline_may_be_written_by_hand(tmp_path: Path) -> None:
    """Rule, tracepoint and message are enough."""
    path = tmp_path / "x.json"
    one = {"rule": "HV509", "tracepoint": "kvm_msr", "message": "timer 3: period 7"}
    path.write_text(json.dumps({"schema_version": 1, "divergences": [one]}))
    assert read_baseline(path).forms == {form_of("HV509", "kvm_msr", "timer #: period #")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "the baseline is not JSON"),
        (b"[" * 100_000, "the baseline is not JSON"),
        (b"\xff\xfe", "not text in UTF-8"),
        (b"[]", "no list `divergences`"),
        (b'{"divergences": []}', "version None; this hvtrace reads version 1"),
        (b'{"schema_version": 2, "divergences": []}', "version 2"),
        (b'{"schema_version": 1, "divergences": [5]}', "divergence 0 of the baseline is no object"),
        (b'{"schema_version": 1, "divergences": [{"rule": "HV1"}]}', "divergence 0 of the baseline lacks"),
        (b'{"schema_version": 1, "divergences": [{"forms": 5}]}', "`forms` is no list"),
        (b'{"schema_version": 1, "divergences": [{"forms": [5]}]}', "divergence 0 of the baseline lacks"),
    ],
)
def test_what_is_no_baseline_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    """One line that names the file."""
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        read_baseline(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_what_does_not_occur_any_more_is_told(tmp_path: Path) -> None:
    """Unless its rule was not asked; with how much the rule judged."""
    path = tmp_path / "x.json"
    write_baseline(path, outcome_of(divergence(), divergence("HV504"), divergence("HV201")))
    told = read_baseline(path).absent(outcome_of(divergence(), HV504=coverage(1234), HV509=coverage(1, 1)))
    assert told == [
        "baseline: HV504 stimer-periodic-off-grid did not occur (its rule judged 1,234 events): timer #: period #"
    ]
    assert Baseline().absent(outcome_of()) == []


def test_a_known_fault_does_not_hide_a_new_one() -> None:
    """Faults of one theme are folded together, but known ones apart from new ones."""

    class Seen:
        number = 0

        def describe(self) -> dict[str, str]:
            return {}

    vcpu: Any = Seen()
    vcpu.vm, vcpu.history = Seen(), []
    rule = next(rule for rule in RULES if rule.code == "HV509")
    judge = Judge([rule], frozenset(), accepted=frozenset({form_of("HV509", "kvm_msr", "timer 0: a")}))
    for seq, message in enumerate(["timer 1: a", "timer 2: b", "timer 3: a", "timer 4: c"]):
        event = (seq, seq, "kvm_msr", 0, 0, 1, 2, 3, 0)
        judge._report(rule, divergence_of(message), event, vcpu)
    found = sorted(judge.divergences.values(), key=lambda one: one.seq)
    assert [(one.seq, one.known, one.count, one.last_seq) for one in found] == [
        (0, True, 2, 2),
        (1, False, 2, 3),
    ]
    assert [form.message for form in found[1].forms] == ["timer #: b", "timer #: c"]


def divergence_of(message: str) -> Any:
    from hvtrace.replay.verdict import Diverges

    return Diverges("x", "y", message)
