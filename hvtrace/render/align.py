"""`hvtrace diff --align` for people and for scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hvtrace.render import answer as answers
from hvtrace.render.table import more
from hvtrace.render.terminal import count, plural, safe, stamp, styled, wrapped

__all__ = ["as_csv", "as_json", "as_text"]


def as_json(answer: dict[str, Any], sources: Sequence[str]) -> str:
    """Return one object."""
    names = {f"source_{side}": source for side, source in zip("ab", sources, strict=True)}
    return answers.as_json(names | answer, " ".join(sources))


def as_csv(answer: dict[str, Any], columns: Sequence[str]) -> str:
    """Return the rows, a line each, under a line of names; without the events around a difference."""
    return answers.as_csv(answer["rows"], columns)


def as_text(answer: dict[str, Any], sources: Sequence[str], top: int | None) -> str:
    """Return the first differences, `top` sequences of them, each with the events around it."""
    rows = answer["rows"]
    other = [row for row in rows if row["verdict"] not in ("same", "unknown")]
    same = sum(row["common"] for row in rows if row not in other)
    head = [f"{side.upper()}  {safe(source)}" for side, source in zip("ab", sources, strict=True)]
    if not rows:
        return "\n".join([*head, "", *_limits(answer), "There are no events to align."])
    cut = sum(row["verdict"] == "unknown" for row in rows)
    told = f"{len(rows) - len(other):,} of {plural(len(rows), 'sequence')} the same ({plural(same, 'event')})"
    told += f", {cut:,} of them up to a loss" if cut else ""
    style = "bold" if other else "green"
    sections = [head, [*_limits(answer), *(styled(line, style) for line in wrapped(f"{told}."))]]
    sections += [list(_difference(row)) for row in other[:top]]
    sections.append(more(len(other) - len(other[:top])))
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _limits(answer: dict[str, Any]) -> Iterator[str]:
    """What was not compared."""
    for side in "ab":
        if (until := answer[f"until_{side}"]) is not None:
            yield f"Compared up to {stamp(until)} of {side.upper()}: events were lost after that."
    if answer["not_compared"]:
        yield from wrapped(f"Not recorded in both: {', '.join(answer['not_compared'])}.")
    if not answer["vms"]:
        yield "There is no VM in both."


def _difference(row: dict[str, Any]) -> Iterator[str]:
    several = row["vm_a"] != row["vm_b"]
    vm = f"VM {row['vm_a']} and {row['vm_b']}" if several else f"VM {row['vm_a']}"
    yield styled(f"{vm} vCPU {row['vcpu']}, {safe(row['sequence'])}: {_verdict(row)}", "bold")
    for event in (event for event in row["a"] if event["common"]):
        yield from wrapped(f"{_at(event)}  {event['text']}", "    ", " " * 8)
    for side in "ab":
        for event in row[side]:
            if not event["common"]:
                yield from wrapped(f"{_at(event)}  {event['text']}", f"  {side.upper()} ", " " * 8)
    if row["verdict"] == "differs":
        yield from wrapped(_rest(row), "  ")


def _at(event: dict[str, Any]) -> str:
    return f"{stamp(event['ts_ns'])} #{event['seq']}"


def _verdict(row: dict[str, Any]) -> str:
    common = plural(row["common"], "event")
    if row["verdict"] == "differs":
        return f"after {common} in common, another one" if row["common"] else "another first event"
    goes_on = row["verdict"][0].upper()
    ends = "B" if goes_on == "A" else "A"
    if not row["common"]:
        return f"only in {goes_on} ({plural(row[f'events_{goes_on.lower()}'], 'event')})"
    return f"{ends} ends after {common}, {goes_on} goes on"


def _rest(row: dict[str, Any]) -> str:
    """How it goes on after the first difference."""
    places = plural(row["hunks"], "place")
    own = f"{count(row['only_a'])} only in A, {count(row['only_b'])} only in B"
    if row["rejoined"]:
        return (
            f"Differs in {places}: {own}; together again after {'it' if row['hunks'] == 1 else 'the last'}."
        )
    return f"Differs to the end{'' if row['hunks'] == 1 else f', in {places}'}: {own}."
