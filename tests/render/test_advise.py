"""Advice in words: what is told once, and what a recording's strings may not do."""

from __future__ import annotations

from typing import Any

import pytest

from hvtrace.render.advise import as_markdown, as_text


def found(vm: int | None, **changed: Any) -> dict[str, Any]:
    """A finding as the JSON form has it."""
    seen = {"sentence": f"seen {vm}", "count": 1, "per_second": None, "time_ns": None, "seqs": (vm or 0,)}
    return {
        "code": "AD999",
        "name": "some-thing",
        "severity": "high",
        "vm": vm,
        "vcpu": None,
        "title": "Something is amiss",
        "evidence": (seen,),
        "change": "mend it",
        "effect": None,
        "qemu": None,
        "libvirt": None,
    } | changed


def answer(*rows: dict[str, Any], vms: int = 1, **changed: Any) -> dict[str, Any]:
    return {
        "rows": list(rows),
        "vms": list(range(vms)),
        "length_ns": 2_000_000_000,
        "fine": [],
        "unjudged": [],
        "notes": [],
    } | changed


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")


def test_the_same_in_several_vms_is_told_once() -> None:
    """The first with its evidence, and the numbers of the others."""
    assert as_text(answer(found(0), found(2), found(5), vms=6), "ns") == (
        "3 findings (3 high) in 2.000 s of 6 VMs\n"
        "\n"
        "HIGH AD999 some-thing  VM 0\n"
        "  Something is amiss\n"
        "  seen    seen 0 (event 0)\n"
        "          the same in VM 2, 5\n"
        "  change  mend it"
    )


def test_what_is_in_use_is_told_of_each_vm_where_it_differs() -> None:
    """For information the evidence is the point: another evidence is another finding."""
    rows = [found(vm, severity="info", change=None) for vm in (0, 1)]
    assert as_text(answer(*rows, vms=2), "ns").count("INFO AD999") == 2


def test_vms_in_which_it_is_fine_or_open() -> None:
    """Named where they are not all of them; advices that are open for one reason are told together."""
    fine = [
        {"code": "AD1", "name": "a", "vms": [0, 1]},
        {"code": "AD2", "name": "b", "vms": [1]},
    ]
    unjudged = [
        {"code": code, "name": "c", "vm": vm, "reason": "it is dark", "missing": ()}
        for code in ("AD3", "AD4")
        for vm in (0, 1)
    ]
    lines = as_text(answer(vms=2, fine=fine, unjudged=unjudged), "ns").splitlines()
    assert lines[2:] == [
        "Looked for and not found: AD1 a; AD2 b (VM 1).",
        "",
        "Could not be judged:",
        "  AD3 c, AD4 c (VM 0, 1): it is dark",
    ]


def test_a_long_option_breaks_behind_a_comma() -> None:
    """So that what is copied can be put together again; no line is wider than 79."""
    flags = ",".join(f"hv-flag-{n}" for n in range(12))
    lines = as_text(answer(found(0, qemu=f"-cpu …,{flags}")), "ns").splitlines()
    option = [line[10:] for line in lines if "hv-flag" in line]
    assert "".join(option) == f"-cpu …,{flags}"
    assert max(map(len, lines)) < 80


def test_strings_of_a_recording_are_shown_safely() -> None:
    """Neither an escape sequence nor markup comes through."""
    nasty = answer(found(0, title="\x1b[31mred *bold* <b>"))
    assert "\\x1b[31mred" in as_text(nasty, "ns")
    assert "\\\\x1b\\[31mred \\*bold\\* \\<b\\>" in as_markdown(nasty, "x", "ns")


def test_an_estimate_says_what_it_is() -> None:
    """What was estimated says by what; what was not says so."""
    guess = {"sentence": "much is saved", "saved_share": None}
    known = as_text(answer(found(0, effect=guess | {"saved_ns": 5, "estimated_by": "adding up"})), "ns")
    unknown = as_text(
        answer(found(0, effect=guess | {"saved_ns": None, "estimated_by": "not estimated"})), "ns"
    )
    assert "much is saved (estimated by adding up)" in known
    assert "much is saved (not estimated)" in unknown
