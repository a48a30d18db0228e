"""Model mutants: what is changed in the reference model or in a rule is noticed by the cases or by real recordings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import replay_cases
from model_mutants import AREAS, Recording, applied, caught, changes, fails, own_cases
from recordings import get
from replay_cases import CASES

from hvtrace.pipeline.ingest import ingest
from hvtrace.replay.rule import Rule
from hvtrace.replay.rules import RULES
from hvtrace.replay.verdict import HOLDS, Diverges, Reason, Verdict, unknown
from hvtrace.store import Store

#: Changes that are tried, and the share that must be noticed. The others are looked at by hand: most leave the model
#: as it is (a bound that no tape reaches, a text, what is forgotten where nothing is asked any more).
NUMBER, SHARE = 40, 0.7

ANSWERS: dict[str, Verdict | None] = {
    "holds": HOLDS,
    "says nothing": None,
    "diverges": Diverges("one thing", "another", "always"),
    "cannot tell": unknown(Reason.CLOCK_UNKNOWN),
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_rule_that_always_says_the_same_fails_its_cases(
    rule: Rule, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it says, some case of its own asks for something else."""
    own = [case for case in CASES if case.rule == rule.code]
    counted = [replay_cases.replay(case).judge.coverage[rule.code] for case in own]
    if answer == "diverges" and not any(
        one.holds or set(one.unknown) - {Reason.NOT_TRACED} for one in counted
    ):
        pytest.skip("it is asked only where something is wrong, or cannot be told for want of a tracepoint")
    always = replace(rule, check=lambda _: ANSWERS[answer])
    monkeypatch.setattr(replay_cases, "RULES", tuple(always if r is rule else r for r in RULES))
    assert any(fails(case, replay_cases.replay(case)) for case in own)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    """Clean tapes: the little KVM's and real ones."""
    folder, found = tmp_path_factory.mktemp("models"), [Recording.made(0), Recording.made(1)]
    for name in ("baseline-hvmut-stimer", "baseline-hvmut-msr"):
        ingest([get(name) / "trace.dat"], folder / f"{name}.hvt")
        found.append(Recording.of(Store(folder / f"{name}.hvt")))
    return found


def test_without_a_change_nothing_is_noticed(recordings: list[Recording]) -> None:
    """The cases give their verdicts, the tapes are clean and judged."""
    assert [case.name for case in own_cases() if fails(case, replay_cases.replay(case))] == []
    for recording in recordings:
        assert recording.judged > 500
        assert [d.rule for d in recording.run().divergences.values() if d.severity.value == "error"] == []


def test_most_changes_of_the_model_are_noticed(recordings: list[Recording]) -> None:
    """Comparisons, conditions, numbers and statements of the model and of the rules."""
    made = changes(NUMBER, 1)
    survivors = [f"{c.module}:{c.line} {c.what}" for c in made if not caught(c, own_cases(), recordings)]
    assert 1 - len(survivors) / len(made) >= SHARE, survivors


def test_a_change_is_undone() -> None:
    """The model is as before afterwards."""
    change = changes(1, 3)[0]
    with applied(change):
        pass
    assert [
        c.name for c in own_cases() if c.rule.startswith(AREAS[:1]) and fails(c, replay_cases.replay(c))
    ] == []
