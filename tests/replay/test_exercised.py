"""What recordings exercise is counted, and the documentation has a row for every rule."""

from __future__ import annotations

import re
from pathlib import Path

from exercised import exercise, table
from recordings import get

from hvtrace.replay.rules import RULES

MODEL = Path(__file__).parent.parent.parent / "docs" / "model.md"


def test_the_verdicts_of_each_rule_are_counted() -> None:
    """A recording of halts exercises halt polling, and no nested guest."""
    found = exercise(get("baseline-hvmut-haltbig"))
    assert found.holds["HP101"] > 0 == found.diverges["HP101"]
    assert found.recordings["HP101"] == 1
    assert found.judged["kvm_halt_poll_ns"] == found.totals["kvm_halt_poll_ns"] > 0
    lines = list(table(found))
    assert all(any(line.startswith(f"| {rule.code} | {rule.name} |") for line in lines) for rule in RULES)
    assert any("not exercised" in line and "HV904" in line and "HP101" not in line for line in lines)


def test_the_documentation_of_the_model_has_every_rule_once() -> None:
    """docs/model.md says of each rule what exercises it."""
    rows = re.findall(r"^\| ([A-Z]{2}\d{3}) \| (\S+) \|", MODEL.read_text(), re.MULTILINE)
    assert sorted(rows) == [(rule.code, rule.name) for rule in RULES]
