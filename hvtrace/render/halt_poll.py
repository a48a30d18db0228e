"""`hvtrace halt-poll` for people and for scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hvtrace.render import answer as answers
from hvtrace.render.table import Column, Units, bar, table
from hvtrace.render.terminal import duration, plural, safe, stamp, styled, wrapped

__all__ = ["SETTING_COLUMNS", "as_csv", "as_json", "as_text"]

#: Steps of a line that shows how something changes over time.
STEPS = "▁▂▃▄▅▆▇█"

#: Bars of the settings.
BAR = 8

#: Columns of the settings' CSV form, beside the parameters.
SETTING_COLUMNS = (
    "name",
    "successes",
    "failures",
    "polled_ns",
    "vain_ns",
    "burnt_ns",
    "cpu_share",
    "latency_mean_ns",
    "latency_p50_ns",
    "latency_p99_ns",
)

#: Settings that are always there: the recording's own, and none.
AGAINST = 2

#: vCPUs that the text form shows.
MOST = 16

#: What differs between a recomputed change and a recorded one.
DIFFERS = {
    "value": "grew or shrank to another value",
    "old": "started from another value",
    "position": "came where none is due, or the other way",
    "missing": "not recorded where due",
}


def _vcpu(row: Mapping[str, Any]) -> str:
    return row["label"] if "label" in row else f"VM {row['vm']} vCPU {row['vcpu']}"


_HALTS = (
    Column("", 0, lambda row, _: _vcpu(row), right=False),
    Column.count("halts", "halts", 1),
    Column.count("successes", "success", 2),
    Column.count("failures", "failed", 3),
    Column.count("unpolled", "unpolled", 6),
    Column.count("at_once", "at once", 8),
    Column.time("polled_ns", "polled", 4),
    Column.time("vain_ns", "in vain", 5),
    Column("CPU", 7, lambda row, _: _share(row["cpu_share"])),
    Column.count("grown", "grew", 9),
    Column.count("shrunk", "shrank", 10),
    Column.count("barred", "barred", 12),
    Column.count("unknown", "unknown", 11),
)

_LATENCIES = (
    Column("", 0, lambda row, _: str(row["label"]), right=False),
    Column.count("count", "wake-ups", 1),
    Column.time("mean_ns", "mean", 2),
    Column.time("p50_ns", "p50", 3),
    Column.time("p99_ns", "p99", 4),
)


def _share(share: float | None) -> str:
    if share is None:
        return "?"
    return "<0.01%" if 0 < share < 0.0001 else f"{100 * share:.2f}%"


def _settings(most: float, longest: int, best: str | None) -> tuple[Column, ...]:
    def name(row: dict[str, Any], _: Units) -> str:
        return safe(row["name"], 40) + (" ◀" if row["name"] == best else "")

    def cpu(row: dict[str, Any], _: Units) -> str:
        return bar((row["cpu_share"] or 0) / most, BAR) if most else ""

    def latency(row: dict[str, Any], _: Units) -> str:
        return bar((row["latency_mean_ns"] or 0) / longest, BAR) if longest else ""

    return (
        Column("what if", 0, name, right=False),
        Column.count("successes", "success", 6),
        Column.count("failures", "failed", 7),
        Column.time("polled_ns", "polled", 9),
        Column.time("vain_ns", "in vain", 8),
        Column("CPU", 1, lambda row, _: _share(row["cpu_share"])),
        Column("", 4, cpu, right=False),
        Column.time("latency_mean_ns", "wake-up", 2),
        Column("", 5, latency, right=False),
        Column.time("latency_p50_ns", "p50", 10),
        Column.time("latency_p99_ns", "p99", 3),
    )


def as_text(answer: Mapping[str, Any], unit: str) -> str:
    """Lines for a terminal. `answer` is that of HaltPoll.as_dict()."""
    units = Units(unit)
    if not answer["total"]["halts"]:
        return "\n".join(["No vCPU halted in this part.", *_parameters(answer), *_notes(answer)])
    sections = [
        [*_head(answer, units), *_parameters(answer)],
        _halts(answer, units),
        _latency(answer, units),
        _over_time(answer, units),
        _outcomes(answer, units),
        _notes(answer),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _head(answer: Mapping[str, Any], units: Units) -> list[str]:
    total = answer["total"]
    length = f" in {duration(answer['length_ns'])}" if units.unit == "ns" else ""
    burnt = duration(total["burnt_ns"])
    share = "" if total["cpu_share"] is None else f", {_share(total['cpu_share'])} of one CPU"
    what = f"{plural(total['halts'], 'halt')} of {plural(len(answer['rows']), 'vCPU')}{length}"
    text = f"{what}; polling took {burnt}{share}"
    return [styled(line, "bold") for line in wrapped(text)]


def _parameters(answer: Mapping[str, Any]) -> list[str]:
    own = answer["parameters"]
    values, sources = own["setting"], own["sources"]
    several = len(set(sources.values())) > 1
    shown = [
        f"{name} {values[name]}" + (f" ({source})" if several else "") for name, source in sources.items()
    ]
    only = "" if several else f" ({next(iter(sources.values()))})"
    lines = wrapped(f"Parameters: {', '.join(shown)}{only}.")
    found = answer["reproduced"]
    if found is None:
        text = "kvm_halt_poll_ns was not recorded: polling times are those the parameters lead to."
        return [*lines, *wrapped(text)]
    if not found["recorded"] and not found["missing"]:
        return [*lines, "No change of a polling time was recorded, and none was due."]
    text = f"Reproduced {found['matched']} of {plural(found['recorded'], 'recorded change')}"
    text += " of polling times" + (f"; {found['unknown']} cannot be told" if found["unknown"] else "")
    lines += wrapped(f"{text}.")
    for kind, what in DIFFERS.items():
        if found[kind]:
            lines += wrapped(f"{plural(found[kind], 'change')} {what}", "  ")
    for one in found["examples"][:3]:
        expected, recorded = (_change(one[side]) for side in ("expected", "recorded"))
        at = f"{stamp(one['ts_ns'])} VM {one['vm']} vCPU {one['vcpu']}, event {one['seq']}"
        lines += wrapped(
            f"{at}: a halt of {one['halt_ns']} ns: expected {expected}, recorded {recorded}", "  "
        )
    if found["mismatched"]:
        lines += wrapped("These parameters, or this kernel, are not what was recorded: see --own.", "  ")
    return lines


def _change(change: Sequence[int] | None) -> str:
    return "no change" if change is None else f"{change[0]} → {change[1]}"


def _halts(answer: Mapping[str, Any], units: Units) -> list[str]:
    rows = list(answer["rows"])[:MOST]
    if len(rows) > 1:
        rows.append(answer["total"] | {"label": "all"})
    used = [
        column
        for column in _HALTS
        if column.title not in ("barred", "unknown") or answer["total"][column.title]
    ]
    return [*table(used, rows, units), *_more(len(answer["rows"]))]


def _more(number: int) -> list[str]:
    return [f"… and {number - MOST:,} more vCPUs (--output-format json has all)"] if number > MOST else []


def _latency(answer: Mapping[str, Any], units: Units) -> list[str]:
    total, rows = answer["total"], []
    for way, what in (("polled", "after polling"), ("blocked", "after sleeping")):
        figures = {name: total[f"{way}_latency_{name}"] for name in ("count", "mean_ns", "p50_ns", "p99_ns")}
        causes = [row | {"label": f"  {row['cause']}"} for row in answer["causes"] if row["after"] == way]
        rows += [{"label": what} | figures, *causes] if figures["count"] else []
    if not rows:
        return ["No wake-up latency: no event tells what ended the halts."]
    lines = table(_LATENCIES, rows, units)
    lines += ["From the event that ended the halt to kvm_vcpu_wakeup."]
    if total["successes"] and total["saved_ns"] is not None:
        each = total["blocked_latency_p50_ns"] - total["polled_latency_p50_ns"]
        text = f"Polling saved about {duration(total['saved_ns'])} of waiting: "
        text += f"{total['successes']:,} success{'es' if total['successes'] > 1 else ''}"
        lines += wrapped(f"{text} · {duration(each)}, the difference of the medians.")
    return lines


def _over_time(answer: Mapping[str, Any], units: Units) -> list[str]:
    most = max((row["poll_max_ns"] for row in answer["rows"]), default=0)
    if not most:
        return []
    lines = [
        styled(
            f"Longest polling time, {units.time(answer['over_time']['part_ns'])} a step (█ {units.time(most)}):",
            "bold",
        )
    ]
    shown = answer["over_time"]["vcpus"][:MOST]
    names = [_vcpu(row) for row in shown]
    width = max(map(len, names))
    for name, row in zip(names, shown, strict=True):
        line = "".join(
            " " if value is None else "·" if value == 0 else STEPS[min(value * len(STEPS) // (most + 1), 7)]
            for value in row["poll_max_ns"]
        )
        lines.append(f"{name:<{width}} {line}".rstrip())
    return [*lines, *_more(len(answer["rows"]))]


def _outcomes(answer: Mapping[str, Any], units: Units) -> list[str]:
    rows = answer["settings"]
    most = max((row["cpu_share"] or 0 for row in rows), default=0)
    longest = max((row["latency_mean_ns"] or 0 for row in rows), default=0)
    best = answer["recommended"] if len(rows) > AGAINST else None
    lines = table(_settings(most, longest, best and best["name"]), rows, units)
    if len(rows) <= AGAINST:
        return [*lines, "Other settings: --what-if halt_poll_ns=50000, --sweep auto."]
    if best is None:
        return lines
    text = f"Recommended: {best['name']}: {best['reason']}"
    if best["share"] is not None:
        chosen = next(row for row in rows if row["name"] == best["name"])
        text += f". On average {units.time(best['saving_ns'])} less than without polling, for"
        text += f" {units.time(chosen['burnt_ns'])} of CPU time, {best['price']:.1f} times the waiting saved"
    text += f" (--prefer {best['prefer']})."
    text += (
        " None of these polls longer: a wider --sweep may find one that saves more." if best["edge"] else ""
    )
    return [*lines, "", *(styled(line, "green") for line in wrapped(text, "", "  "))]


def _notes(answer: Mapping[str, Any]) -> list[str]:
    total, known, excluded = answer["total"], answer["latencies"], answer["excluded"]
    notes = []
    if known["drawn"]:
        notes.append(
            f"Of {plural(known['drawn'], 'halt')} no event tells the end's cause; "
            "their wake-up latencies are drawn from the others'."
        )
    if not known["polled"] and any(row["successes"] for row in answer["settings"]):
        notes.append(
            "No wake-up after polling was measured: what settings let poll is taken to wake up at once."
        )
    if total["unknown"]:
        notes.append(
            f"How long {plural(total['unknown'], 'halt')} polled is not known: they count for no polling."
        )
    if total["barred"]:
        notes.append(
            f"During {plural(total['barred'], 'halt')} the guest did not let the host poll (it polls itself): "
            "no setting changes them."
        )
    if excluded["unattributed"]:
        notes.append(f"Not counted: {plural(excluded['unattributed'], 'halt')} of an unknown vCPU.")
    if excluded["orphans"]:
        notes.append(f"Not counted: {plural(excluded['orphans'], 'change')} that no kvm_vcpu_wakeup follows.")
    return [line for note in notes for line in wrapped(note)]


def as_json(answer: Mapping[str, Any], source: str, unit: str) -> str:
    """Return one object; times are integers, in ns where `unit` is ns."""
    return answers.as_json(answer, source, unit)


def as_csv(answer: Mapping[str, Any], columns: Sequence[str]) -> str:
    """The vCPUs, or the settings where some were asked for: a line each under a line of names."""
    if not (answer["what_if"] or answer["sweep"]):
        return answers.as_csv(answer["rows"], columns)
    parameters = dict.fromkeys(name for row in answer["settings"] for name in row["setting"])
    rows = [row | row["setting"] for row in answer["settings"]]
    return answers.as_csv(rows, [*SETTING_COLUMNS, *parameters])
