"""The verdicts of a replay as workflow commands of GitHub Actions, which shows them as annotations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hvtrace.render.findings import gathered, outcome, same_elsewhere, where
from hvtrace.render.terminal import safe
from hvtrace.replay.verdict import Severity

if TYPE_CHECKING:
    from hvtrace.pipeline.result import CheckResult
    from hvtrace.replay.verdict import Divergence

__all__ = ["as_github"]

TITLE = "hvtrace replay"


def as_github(result: CheckResult) -> str:
    """One command a line: errors, warnings, what is known as notices, and last a summary."""
    return "\n".join(_lines(result))


def _lines(result: CheckResult) -> Iterator[str]:
    # GitHub shows ten annotations of each kind a step: the errors that came first are the ones to see.
    for found, others in gathered(sorted(result.divergences, key=_rank)):
        yield _command(_kind(found), f"{found.rule} {found.name}", _words(found, others))
    for note in result.notes:
        yield _command("warning" if result.exit_code else "notice", TITLE, note)
    last = f"{result.source}, profile {result.profile}: {outcome(result)}"
    yield _command("error" if result.verdict == "unjudged" else "notice", TITLE, last)


def _kind(found: Divergence) -> str:
    if found.known:
        return "notice"
    return "error" if found.severity is Severity.ERROR else "warning"


def _rank(found: Divergence) -> tuple[int, int, str]:
    return ("error", "warning", "notice").index(_kind(found)), found.seq, found.rule


def _words(found: Divergence, others: list[int | None]) -> str:
    lines = [
        found.message,
        f"expected {found.expected}",
        f"observed {found.observed}",
        f"at {where(found)}",
    ]
    if found.count > 1:
        lines.append(f"and {found.count - 1} more, the last at event {found.last_seq}")
    if others:
        lines.append(same_elsewhere(others))
    if found.known:
        lines.append("known, by the baseline")
    return "\n".join(lines)


def _command(kind: str, title: str, message: str) -> str:
    return f"::{kind} title={_property(title)}::{_data(message)}"


def _data(text: str) -> str:
    """The escapes of a command's message; other control characters are made visible."""
    return safe(text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A"))


def _property(text: str) -> str:
    """The escapes of a command's property."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
