"""`hvtrace diff` for people and for scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hvtrace.render import answer as answers
from hvtrace.render.table import Column, Units, more, table
from hvtrace.render.terminal import duration, plural, safe, styled, wrapped

__all__ = ["amount", "as_csv", "as_json", "as_text", "change"]

#: Longest label.
LABEL = 32

#: Where a subject changed, this stands behind the change.
MARK = "*"

#: Sections whose subjects take time, and those that are about waiting.
_TIMED = ("exits", "halts")
_LATENCY = "latency "

#: What untested means.
WHY = {
    "few": "too few events",
    "phases": "neighbouring blocks of time resemble each other: phases, not a sample",
}

KINDS = {"offered": "offered", "msr": "MSR used", "hypercall": "hypercall used"}


def as_json(answer: dict[str, Any], sources: Sequence[str]) -> str:
    """Return one object; times in ns."""
    for side, source in zip("ab", sources, strict=True):
        answer = answer | {side: {"source": source} | answer[side]}
    return answers.as_json(answer, " ".join(sources), "ns")


def as_csv(answer: dict[str, Any], columns: Sequence[str]) -> str:
    """Return the rows, a line each, under a line of names."""
    return answers.as_csv(answer["rows"], columns)


def amount(value: float | None, unit: str) -> str:
    """A figure's value: a rate, a share in per cent, a time."""
    if value is None:
        return "–"
    if unit == "ns":
        return duration(round(value))
    if unit == "share":
        return f"{100 * value:.1f} %"
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.3g}"


def change(row: dict[str, Any]) -> str:
    """How much a figure changed, in words that fit a column."""
    a, b = row["a"], row["b"]
    if a is None or b is None:
        return ""
    if a == 0 or b == 0:
        return "=" if a == b else "new" if b else "gone"
    ratio = b / a
    shown = f"×{ratio:.3g}" if ratio >= 3 else f"{100 * (ratio - 1):+.0f} %"
    return "=" if shown in ("+0 %", "-0 %") else shown.replace("-", "−")


def as_text(answer: dict[str, Any], sources: Sequence[str], top: int | None) -> str:
    """Return what the recordings are, what changed, and tables side by side of at most `top` rows each."""
    sections = [
        list(_heads(answer, sources)),
        list(_facts(answer["facts"])),
        list(_enlightenments(answer["enlightenments"])),
        list(_divergences(answer["divergences"])),
        list(_changed(answer, top)),
        *_side_by_side(answer["rows"], top),
        list(_left_out(answer)),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _heads(answer: dict[str, Any], sources: Sequence[str]) -> Iterator[str]:
    for side, source in zip("ab", sources, strict=True):
        own = answer[side]
        vms = f"VM {own['vms'][0]}" if len(own["vms"]) == 1 else plural(len(own["vms"]), "VM")
        of = "" if own["seconds"] is None else f", {own['seconds']:.3f} s"
        yield from wrapped(f"{source}, {vms}{of}", f"{side.upper()}  ")


def _facts(facts: Sequence[dict[str, Any]]) -> Iterator[str]:
    rows = [fact for fact in facts if not fact["same"] and None not in (fact["a"], fact["b"])]
    width = max((len(safe(row["fact"])) for row in rows), default=0)
    for row in rows:
        if row["fact"] == "-cpu":
            yield from _flags(row)
        else:
            shown = f"A: {row['a']}   B: {row['b']}"
            yield from wrapped(shown, f"{safe(row['fact']):{width}}  ")
    for side in "ab":
        names = [fact["fact"] for fact in facts if fact[side] is None]
        if names:
            yield from wrapped(f"Not known of {side.upper()}: {', '.join(names)}.")
    if not rows:
        yield "What is known of kernel, host, flags and parameters is the same."


def _flags(row: dict[str, Any]) -> Iterator[str]:
    """What is in one -cpu option only."""
    a, b = (set(str(row[side]).split(",")) for side in "ab")
    for side, only in (("A", a - b), ("B", b - a)):
        if only:
            yield from wrapped(", ".join(sorted(only)), f"-cpu  only {side}: ")


def _enlightenments(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    for kind, title in KINDS.items():
        for side, other in (("a", "b"), ("b", "a")):
            names = [row["name"] for row in rows if row["kind"] == kind and row[side] and row[other] is False]
            if names:
                yield from wrapped(", ".join(names), f"{title}, only {side.upper()}: ", " " * 4)
        unknown = [s.upper() for s in "ab" if any(row["kind"] == kind and row[s] is None for row in rows)]
        if unknown:
            yield f"{title}: not known of {' and '.join(unknown)}"


def _divergences(found: dict[str, Any]) -> Iterator[str]:
    absent = [side.upper() for side in "ab" if not found[f"checked_{side}"]]
    for row in found["rows"]:
        numbers = [f"{side.upper()}: {'–' if row[side] is None else f'{row[side]:,}'}" for side in "ab"]
        style = "red" if row["severity"] == "error" else "yellow"
        yield f"{styled(safe(row['rule']), style)} {safe(row['name'])} ({row['severity']})  {'   '.join(numbers)}"
    checked = [side.upper() for side in "ab" if found[f"checked_{side}"]]
    if not found["rows"] and checked:
        yield f"No divergences in {' and '.join(checked)}."
    if absent:
        yield f"{' and '.join(absent)} {'was' if len(absent) == 1 else 'were'} not checked (--replay)."


def _changed(answer: dict[str, Any], top: int | None) -> Iterator[str]:
    rows = answer["rows"]
    tested = [row for row in rows if row["p"] is not None]
    found = [row for row in tested if row["significant"]]
    if not rows:
        return
    head = f"{len(found):,} of {len(tested):,} figures changed (q ≤ {answer['alpha']:g})"
    yield styled(head, "bold")
    whys = [(sum(row["untested"] == why for row in rows), words) for why, words in WHY.items()]
    told = "; ".join(f"{number:,}: {words}" for number, words in whys if number)
    if told:
        yield from wrapped(f"Not tested: {told}.")
    if found:
        yield ""
        yield from table(_CHANGED, [row | {"label": safe(row["subject"], LABEL)} for row in found[:top]])
        yield from more(len(found[:top]) and len(found) - len(found[:top]))


_CHANGED = (
    Column.text("label", "", 0),
    Column.text("figure", "", 1),
    Column("A", 2, lambda row, _: amount(row["a"], row["unit"])),
    Column("B", 3, lambda row, _: amount(row["b"], row["unit"])),
    Column("change", 4, lambda row, _: change(row)),
    Column("q", 5, lambda row, _: f"{row['q']:.1g}"),
    Column("delta", 6, lambda row, _: f"{row['delta']:+.2f}"),
    Column("blocks", 7, lambda row, _: f"{row['blocks_a']}, {row['blocks_b']}"),
)


#: Tables: title, figures (and whether to tell the change), which sections, and by what subjects are sorted.
_TABLES: tuple[tuple[str, tuple[tuple[str, bool], ...], Callable[[str], bool], str], ...] = (
    ("Exits", (("rate", True), ("time", False), ("mean", True)), lambda section: section in _TIMED, "time"),
    (
        "Rates",
        (("rate", True),),
        lambda section: section not in _TIMED and not section.startswith(_LATENCY),
        "rate",
    ),
    ("Latencies", (("mean", True), ("p99", True)), lambda section: section.startswith(_LATENCY), "weight"),
)


def _side_by_side(rows: Sequence[dict[str, Any]], top: int | None) -> Iterator[list[str]]:
    """Tables of all subjects: what takes time, what has a rate, what waits."""
    subjects: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        own = subjects.setdefault((row["section"], row["subject"]), {"label": safe(row["subject"], LABEL)})
        own[row["figure"]] = row
        own["weight"] = {"a": row["weight"], "b": 0.0}
    for title, figures, belongs, sort in _TABLES:
        chosen = [own for (section, _), own in subjects.items() if belongs(section)]
        weights = [max(own[sort]["a"], own[sort]["b"]) for own in chosen]
        order = sorted(range(len(chosen)), key=weights.__getitem__, reverse=True)
        chosen = [chosen[place] for place in order]
        if chosen:
            lines = table(_columns(title, figures), chosen[:top], Units())
            yield [*lines, *more(len(chosen) - len(chosen[:top]))]


def _columns(title: str, figures: Sequence[tuple[str, bool]]) -> list[Column]:
    """A label, and for each figure A, B and, where asked for, the change."""
    names = {"rate": "/s", "time": "time", "mean": "mean", "p99": "p99"}
    columns = [Column.text("label", title, 0)]
    for order, (figure, with_change) in enumerate(figures):
        for place, side in enumerate("ab", 1):
            columns.append(Column(f"{side.upper()} {names[figure]}", 3 * order + place, _cell(figure, side)))
        if with_change:
            columns.append(Column("", 3 * order + 3, _change(figure)))
    return columns


def _cell(figure: str, side: str) -> Callable[[dict[str, Any], Units], str]:
    def cell(own: dict[str, Any], _: Units) -> str:
        return amount(own[figure][side], own[figure]["unit"]) if figure in own else ""

    return cell


def _change(figure: str) -> Callable[[dict[str, Any], Units], str]:
    def cell(own: dict[str, Any], _: Units) -> str:
        return (
            "" if figure not in own else change(own[figure]) + (MARK if own[figure]["significant"] else " ")
        )

    return cell


def _left_out(answer: dict[str, Any]) -> Iterator[str]:
    by_why: dict[str, list[str]] = {}
    for left in answer["not_compared"]:
        by_why.setdefault(left["why"], []).append(left["section"])
    for why, sections in by_why.items():
        yield from wrapped(f"Not compared, {why}: {', '.join(sections)}.")
