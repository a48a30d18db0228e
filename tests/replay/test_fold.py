"""Folding: exits in which nothing happens are counted instead of replayed, and no verdict changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recordings import get

from hvtrace.pipeline.check import Options, prepare, tape_of
from hvtrace.pipeline.ingest import ingest
from hvtrace.replay.fold import ENTRY, EXIT, INNER, MSR, MSR_EXIT, OTHER, fold, kind_of_exits
from hvtrace.replay.tape import FOLDED
from hvtrace.store import Store

LETTERS = {"x": EXIT, "m": MSR_EXIT, "r": MSR, "u": INNER, "e": ENTRY, "?": OTHER}


def folded(tape: str, places: str | None = None) -> tuple[str, list[int]]:
    """The rows that are kept, and how many entries each mark stands for."""
    kind = np.array([LETTERS[letter] for letter in tape], dtype=np.int64)
    place = np.array([int(digit) for digit in places or "0" * len(tape)], dtype=np.int64)
    keep, _, entries = fold(place, kind)
    return "".join(letter for letter, kept in zip(tape, keep, strict=True) if kept), entries.tolist()


@pytest.mark.parametrize(
    ("tape", "kept", "entries"),
    [
        # The last of a row stays, and one that follows no entry.
        ("xexexexe", "xexe", [2]),
        ("xe xue xuue xe".replace(" ", ""), "xexe", [2]),
        ("xemremre", "xemre", [1]),
        # Something to look at ends the row and stays as it is.
        ("xexex?exexexe", "xexex?exe", [2]),
        ("xexe", "xexe", []),
        # An access that was not seen, and an exit without its entry.
        ("xememe", "xememe", []),
        ("xexxexe", "xexxexe", []),
        ("", "", []),
    ],
)
def test_dull_units_are_counted(tape: str, kept: str, entries: list[int]) -> None:
    """x: exit, m: exit for an MSR, r: its access, u: return to userspace, e: entry, ?: anything else."""
    assert folded(tape) == (kept, entries)


def test_another_vcpu_that_does_something_ends_the_row() -> None:
    """What one vCPU does is judged by where the others are: between their exit and entry, or not."""
    assert folded("xexexexe" + "xexe", "00000000" + "1111") == ("xexe" + "xexe", [2])
    assert folded("xexex?exexe", "00000100000") == ("xex?exe", [1, 1])


@given(st.lists(st.tuples(st.sampled_from(sorted(LETTERS)), st.integers(0, 2)), max_size=60))
def test_nothing_but_whole_units_is_left_out(rows: list[tuple[str, int]]) -> None:
    """As many entries as exits are left out, each counted in a mark; what is to be looked at never is."""
    tape = "".join(letter for letter, _ in rows)
    kept, entries = folded(tape, "".join(str(place) for _, place in rows))
    gone = {letter: tape.count(letter) - kept.count(letter) for letter in LETTERS}
    assert gone["?"] == 0
    assert gone["e"] == gone["x"] + gone["m"] == sum(entries)
    assert gone["m"] == gone["r"]


def test_halts_and_hypercalls_are_never_dull() -> None:
    """Rules look at them: HLT and VMCALL of VMX, HLT and VMMCALL of SVM, and what is not known."""
    reason = np.array([12, 18, 0x78, 0x81, -1, 30, 0x7B, 31, 0x7C])
    isa = np.array([1, 1, 2, 2, -1, 1, 2, 1, 2])
    assert kind_of_exits(reason, isa).tolist() == [OTHER] * 5 + [EXIT] * 2 + [MSR_EXIT] * 2


@pytest.mark.parametrize("name", ["linux-vmbus-msg", "kut-hyperv_synic", "two-vms"])
def test_no_verdict_changes(name: str, tmp_path: Path) -> None:
    """Real recordings, with and without folding: the same verdicts on the same events."""
    ingest([get(name) / "trace.dat"], tmp_path / "x.hvt")
    store = Store(tmp_path / "x.hvt")
    found = []
    for folding in (False, True):
        engine, result = prepare(store, Options())
        marks = 0
        for window in tape_of(store, result.totals, folding=folding):
            marks += sum(event[2] == FOLDED for event in window)
            engine.run(window)
        engine.finish()
        judge = engine.judge
        counted = {code: (c.holds, c.diverges, dict(c.unknown)) for code, c in sorted(judge.coverage.items())}
        found.append((result.totals, counted, dict(judge.judged), sorted(judge.divergences)))
        assert bool(marks) == folding
    assert found[0] == found[1]
