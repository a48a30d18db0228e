"""Every advice is given where it must be, is not where it must not, and has its page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from advice_cases import CASES, Built, Recorded
from builders.store import tiny_store

from hvtrace.analysis.advice.finding import Advice
from hvtrace.analysis.advice.table import ADVICES
from hvtrace.analysis.advise import Answer, Question, advise
from hvtrace.store import Store

PAGE = Path(__file__).parents[3] / "docs" / "advise.md"
EVERY = pytest.mark.parametrize("advice", ADVICES, ids=lambda advice: advice.code)

Asked = Callable[[Recorded | Built, Advice], Answer]


@pytest.fixture
def asked(recorded: Callable[..., Store], tmp_path: Path) -> Asked:
    """A case's recording, and an advice → the answer to that advice alone."""

    def answer(source: Recorded | Built, advice: Advice) -> Answer:
        if isinstance(source, Recorded):
            store = recorded(source.name)
        else:
            store = tiny_store(
                tmp_path / "built.hvt", source.rows, last_ns=source.lasts_ns, polling_cap=source.halt_poll_ns
            )
            if source.cpu is not None:
                store.manifest.host["qemu_command"] = f"qemu-system-x86_64 -cpu {source.cpu}"
        return advise(store, Question(codes=(advice.code,)))

    return answer


@EVERY
def test_it_is_given_where_it_must_be(advice: Advice, asked: Asked) -> None:
    """At least one finding, of this advice, each with evidence; what costs time says what to change, and the gain."""
    answer = asked(CASES[advice.code].found, advice)
    assert answer.findings
    for found in answer.findings:
        assert (found.code, found.name) == (advice.code, advice.name)
        assert found.evidence
        assert found.severity == 0 or found.change
        assert not found.title.endswith(".")


@EVERY
def test_it_is_not_given_where_it_must_not_be(advice: Advice, asked: Asked) -> None:
    """It was looked for in every VM, and there is nothing."""
    case = CASES[advice.code]
    answer = asked(case.absent, advice)
    assert answer.findings == []
    if case.silent:
        assert answer.unjudged
    else:
        assert answer.unjudged == []
        assert [(fine.code, fine.vms) for fine in answer.fine] == [(advice.code, answer.vms)]


@EVERY
def test_it_has_its_page(advice: Advice) -> None:
    """A section in docs/advise.md (hvtrace advise --list --output-format markdown) that says when and why."""
    page = PAGE.read_text(encoding="utf-8")
    _, heading, rest = page.partition(f"\n### {advice.code} {advice.name}\n")
    assert heading
    section = " ".join(rest.partition("\n##")[0].split())
    for paragraph in (advice.summary, *advice.doc.split("\n\n")):
        assert " ".join(paragraph.split()) in section
    assert advice.doc.endswith(".")
    assert advice.summary.endswith(".")


def test_codes_are_in_order_and_unique() -> None:
    """Codes ascend; no name occurs twice."""
    codes = [advice.code for advice in ADVICES]
    assert codes == sorted(set(codes))
    assert len({advice.name for advice in ADVICES}) == len(ADVICES)


def test_no_case_is_of_an_advice_that_does_not_exist() -> None:
    """Each case has its advice."""
    assert set(CASES) == {advice.code for advice in ADVICES}
