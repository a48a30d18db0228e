"""Baselines: divergences that are known and accepted.

A baseline is the JSON answer of an earlier check, or the shorter file that `--write-baseline` writes. The same fault
shows in another recording with other ranks, stamps and values, on another vCPU or VM. So a divergence is known where
its form is: the rule, the tracepoint of its event, and its message without numbers. The expected and observed values
are left out, for the message says what is wrong with them. A file without forms (written by hand) gives rule,
tracepoint and message.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hvtrace.errors import InputError
from hvtrace.replay.verdict import Form, form_of

if TYPE_CHECKING:
    from hvtrace.pipeline.result import CheckResult

__all__ = ["VERSION", "Baseline", "read_baseline", "write_baseline"]

#: `schema_version` of the JSON answer and of a baseline.
VERSION = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One divergence that is accepted, with all its forms."""

    rule: str
    name: str
    forms: frozenset[Form]


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is accepted."""

    entries: list[Entry] = field(default_factory=list)

    @property
    def forms(self) -> frozenset[Form]:
        """The forms of all entries."""
        return frozenset(form for entry in self.entries for form in entry.forms)

    def absent(self, result: CheckResult) -> list[str]:
        """A sentence for each entry that this check did not see, although its rules were asked."""
        seen = {form for found in result.divergences for form in found.forms}
        said: dict[str, None] = {}
        for entry in self.entries:
            if entry.forms & seen or entry.rule not in result.coverage:
                continue
            counted = result.coverage[entry.rule]
            number = counted.holds + counted.diverges
            how = f"its rule judged {number:,} events" if number else "its rule judged nothing here"
            shown = min(entry.forms).message
            said[f"baseline: {entry.rule} {entry.name} did not occur ({how}): {shown}"] = None
        return list(said)


def read_baseline(path: Path) -> Baseline:
    """Read a baseline. Raises InputError where it is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(path, f"the baseline cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(path, "the baseline is not text in UTF-8") from error
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(path, f"the baseline is not JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("divergences"), list):
        raise InputError(path, "not a baseline: no list `divergences` in it")
    if content.get("schema_version") != VERSION:
        version = content.get("schema_version")
        raise InputError(path, f"baseline of version {version!r}; this hvtrace reads version {VERSION}")
    return Baseline([_entry(path, number, one) for number, one in enumerate(content["divergences"])])


def _entry(path: Path, number: int, content: object) -> Entry:
    if not isinstance(content, dict):
        raise InputError(path, f"divergence {number} of the baseline is no object")
    forms = content.get("forms") or [content]
    if not isinstance(forms, list):
        raise InputError(path, f"divergence {number} of the baseline: `forms` is no list")
    try:
        found = frozenset(_form(one) for one in forms)
    except (KeyError, TypeError) as error:
        raise InputError(path, f"divergence {number} of the baseline lacks {error}") from error
    rule = content.get("rule")
    return Entry(rule if isinstance(rule, str) else min(found).rule, str(content.get("name", "")), found)


def _form(content: Any) -> Form:
    words = [content[key] for key in ("rule", "tracepoint", "message")]
    if not all(isinstance(word, str) for word in words):
        raise TypeError("a rule, a tracepoint or a message in words")
    return form_of(*words)


def write_baseline(path: Path, result: CheckResult) -> None:
    """Write what this check found, so that a later one accepts it. OSError: it cannot be written."""
    rows = [
        {"rule": found.rule, "name": found.name, "forms": [form._asdict() for form in sorted(found.forms)]}
        for found in result.divergences
    ]
    # One divergence of several VMs is written once; two checks that find the same write the same bytes.
    unique = {json.dumps(row, sort_keys=True): row for row in rows}
    content = {"schema_version": VERSION, "divergences": [unique[key] for key in sorted(unique)]}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
