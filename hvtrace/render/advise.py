"""`hvtrace advise` for people and for scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap
from typing import Any

from hvtrace.render import answer as answers
from hvtrace.render.table import Units
from hvtrace.render.terminal import WIDTH, plural, safe, styled, wrapped

__all__ = ["as_json", "as_markdown", "as_text", "book"]

STYLES = {"high": "red", "medium": "yellow", "low": "bold", "info": "dim"}

#: Width of a page of the documentation.
PAGE = 125

#: VMs named one by one.
MOST_VMS = 20

#: Width of what stands before a line: "  libvirt ".
LABEL = 10


def as_json(answer: dict[str, Any], source: str, unit: str) -> str:
    """Return one object; times are integers, in ns where `unit` is ns."""
    return answers.as_json(answer, source, unit)


def as_text(answer: dict[str, Any], unit: str) -> str:
    """Return the findings, what was not found, and what could not be judged, at most 79 wide."""
    lines = [_head(answer, Units(unit))]
    for found, others in _gathered(answer["rows"]):
        lines += ["", *_finding(found, others)]
    lines += ["", *_fine(answer)] if answer["fine"] else []
    lines += ["", *_unjudged(answer["unjudged"])] if answer["unjudged"] else []
    lines += ["", *(line for note in answer["notes"] for line in wrapped(note, "Note: "))]
    return "\n".join(lines).rstrip()


def _head(answer: dict[str, Any], units: Units) -> str:
    rows = answer["rows"]
    by = [(name, sum(row["severity"] == name for row in rows)) for name in STYLES]
    told = ", ".join(f"{number} {name}" for name, number in by if number)
    vms = plural(len(answer["vms"]), "VM")
    length = units.time(answer["length_ns"]) + ("" if units.unit == "ns" else " ticks")
    count = plural(len(rows), "finding") + (f" ({told})" if told else "")
    return f"{styled(count, 'bold')} in {length} of {vms}"


def _gathered(rows: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Findings in the same words as one: the first of them, and the others, which are in other VMs."""
    found: dict[tuple[Any, ...], tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    for row in rows:
        told = tuple(seen["sentence"] for seen in row["evidence"]) if row["severity"] == "info" else ()
        key = (row["code"], row["severity"], row["title"], row["vcpu"], told)
        if key in found:
            found[key][1].append(row)
        else:
            found[key] = (row, [])
    return list(found.values())


def _elsewhere(others: Sequence[dict[str, Any]]) -> str:
    """The VMs in which the same was found."""
    listed = ", ".join(str(row["vm"]) for row in others[:MOST_VMS])
    more = f" and {len(others) - MOST_VMS} more" if len(others) > MOST_VMS else ""
    return f"the same in VM {listed}{more}"


def _finding(found: dict[str, Any], others: Sequence[dict[str, Any]]) -> Iterator[str]:
    where = "" if found["vm"] is None else f"  VM {found['vm']}"
    where += "" if found["vcpu"] is None else f" vCPU {found['vcpu']}"
    severity = found["severity"]
    yield f"{styled(severity.upper(), STYLES[severity])} {styled(found['code'], 'bold')} {found['name']}{where}"
    yield from wrapped(found["title"], "  ")
    for seen in found["evidence"]:
        yield from wrapped(_sentence(seen), _label("seen"))
    if others:
        yield from wrapped(_elsewhere(others), _label(""))
    if found["change"]:
        yield from wrapped(found["change"], _label("change"))
    if found["qemu"]:
        yield from _snippet(found["qemu"], _label("QEMU"))
    if found["libvirt"]:
        yield from _snippet(found["libvirt"], _label("libvirt"))
    if found["effect"]:
        yield from wrapped(_effect(found["effect"]), _label("effect"))


def _label(word: str) -> str:
    return f"  {word:<{LABEL - 2}}"


def _sentence(seen: dict[str, Any]) -> str:
    ranks = ", ".join(map(str, seen["seqs"]))
    return (
        f"{seen['sentence']} (event{'' if len(seen['seqs']) == 1 else 's'} {ranks})"
        if ranks
        else str(seen["sentence"])
    )


def _effect(effect: dict[str, Any]) -> str:
    """What the change brings; what was not estimated says so itself."""
    known = effect["saved_ns"] is not None or effect["saved_share"] is not None
    return f"{effect['sentence']} ({'estimated by ' if known else ''}{effect['estimated_by']})"


def _snippet(text: str, first: str) -> Iterator[str]:
    """Lines to be copied: broken, where they are too long, behind a comma."""
    width = WIDTH - LABEL
    for line in text.splitlines():
        own, rest = safe(line), ""
        while own:
            if len(own) > width and (cut := own.rfind(",", 0, width) + 1):
                own, rest = own[:cut], own[cut:]
            yield f"{first}{own}"
            first, own, rest = " " * LABEL, rest, ""


def _fine(answer: dict[str, Any]) -> Iterator[str]:
    """Advices without a finding; where there are several VMs, in how many of them."""
    whole = len(answer["vms"])
    parts = [
        f"{row['code']} {row['name']}" + ("" if len(row["vms"]) == whole else f" ({_vms(row['vms'])})")
        for row in answer["fine"]
    ]
    yield from wrapped("; ".join(parts) + ".", "Looked for and not found: ", "  ")


def _vms(numbers: Sequence[int]) -> str:
    listed = ", ".join(map(str, numbers[:MOST_VMS]))
    return f"VM {listed}" + (f" and {len(numbers) - MOST_VMS} more" if len(numbers) > MOST_VMS else "")


def _unjudged(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield styled("Could not be judged:", "yellow")
    for reason, names in _by_reason(rows):
        yield from wrapped(f"{names}: {reason}", "  ", "    ")


def _by_reason(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Why, and the advices (and VMs) of which that is so."""
    gathered: dict[tuple[str, tuple[int | None, ...]], list[str]] = {}
    vms: dict[tuple[str, str], list[int | None]] = {}
    for row in rows:
        vms.setdefault((row["reason"], f"{row['code']} {row['name']}"), []).append(row["vm"])
    for (reason, name), places in vms.items():
        gathered.setdefault((reason, tuple(places)), []).append(name)
    for (reason, own), names in gathered.items():
        numbers = [vm for vm in own if vm is not None]
        yield reason, ", ".join(names) + (f" ({_vms(numbers)})" if numbers else "")


def as_markdown(answer: dict[str, Any], source: str, unit: str) -> str:
    """Return a report: a heading for each finding."""
    return "\n".join(_markdown(answer, source, unit)).rstrip()


def _markdown(answer: dict[str, Any], source: str, unit: str) -> Iterator[str]:
    yield f"# Advice on {_plain(source)}"
    yield ""
    yield f"{_head(answer, Units(unit))}."
    for found, others in _gathered(answer["rows"]):
        where = "" if found["vm"] is None else f" (VM {found['vm']}"
        where += "" if found["vcpu"] is None else f", vCPU {found['vcpu']}"
        where += ")" if where else ""
        yield ""
        yield f"## {found['severity'].upper()} {found['code']} {found['name']}{where}"
        yield ""
        yield _plain(found["title"])
        yield ""
        yield from (f"- {_plain(_sentence(seen))}" for seen in found["evidence"])
        if others:
            yield f"- {_elsewhere(others)}"
        if found["change"]:
            yield ""
            yield f"**Change:** {_plain(found['change'])}"
        for language, text in (("sh", found["qemu"]), ("xml", found["libvirt"])):
            if text:
                yield from ("", f"```{language}", *(safe(line) for line in text.splitlines()), "```")
        if found["effect"]:
            yield ""
            yield f"**Effect:** {_plain(_effect(found['effect']))}"
    if answer["fine"]:
        yield from ("", "## Looked for and not found", "")
        several = len(answer["vms"]) > 1
        for row in answer["fine"]:
            where = f" ({_vms(row['vms'])})" if several else ""
            yield f"- {row['code']} {row['name']}{where}"
    if answer["unjudged"]:
        yield from ("", "## Could not be judged", "")
        yield from (f"- {names}: {_plain(reason)}" for reason, names in _by_reason(answer["unjudged"]))
    yield from (line for note in answer["notes"] for line in ("", f"Note: {_plain(note)}"))


def _plain(text: str) -> str:
    """Text in which nothing is markup."""
    return "".join(f"\\{c}" if c in "\\`*_<>|#[]" else c for c in safe(text))


def book(rows: Iterable[dict[str, Any]], form: str, *, whole: bool) -> str:
    """Return the list of advices, or with `whole` their pages."""
    listed = list(rows)
    if form == "json":
        return json.dumps({"schema_version": 1, "rows": listed}, indent=1, ensure_ascii=False)
    if form == "markdown":
        return "\n".join(_pages(listed)).rstrip()
    if not whole:
        width = max((len(row["name"]) for row in listed), default=0)
        return "\n".join(
            line
            for row in listed
            for line in wrapped(row["summary"], f"{row['code']}  {row['name']:<{width}}  ")
        )
    return "\n".join(line for row in listed for line in _page(row))


def _page(row: dict[str, Any]) -> Iterator[str]:
    yield styled(f"{row['code']} {row['name']}", "bold")
    yield from wrapped(row["summary"], "  ")
    for paragraph in row["doc"].split("\n\n"):
        yield ""
        yield from wrapped(" ".join(paragraph.split()), "  ")
    yield ""
    yield from wrapped(", ".join(row["needs"]) or "whatever the recording has", "  needs  ")


def _pages(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Pages under the headings of their families, as docs/advise.md has them."""
    family = None
    for row in rows:
        if row["family"] != family:
            family = row["family"]
            yield from (f"## {row['code'][:3]}xx: {family}", "")
        yield from (f"### {row['code']} {row['name']}", "")
        needs = ", ".join(f"`{name}`" for name in row["needs"]) or "whatever the recording has"
        for paragraph in (row["summary"], *row["doc"].split("\n\n"), f"Needs: {needs}."):
            yield from wrap(" ".join(paragraph.split()), PAGE, break_on_hyphens=False, break_long_words=False)
            yield ""
