"""`hvtrace vmbus` for people and for scripts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from hvtrace.render import answer as answers
from hvtrace.render.table import Column, Units, more, table
from hvtrace.render.terminal import plural, safe, styled, wrapped

__all__ = ["as_csv", "as_json", "as_text"]

#: Bytes of a page, and of a MB.
PAGE, MB = 4096, 1 << 20

TO_HOST, SIGNAL = "to host", "SIGNAL_EVENT"

_FIGURES = (
    Column.time("min_ns", "min", 7),
    Column.time("mean_ns", "mean", 4),
    Column.time("p50_ns", "p50", 2),
    Column.time("p90_ns", "p90", 6),
    Column.time("p99_ns", "p99", 5),
    Column.time("p99_9_ns", "p99.9", 8),
    Column.time("max_ns", "max", 3),
)

CHANNELS = (
    Column.text("name", "", 0),
    Column.text("device", "device", 1),
    Column.text("vp", "VP", 5),
    Column.text("gpadl", "GPADL", 8),
    Column.text("state", "state", 2),
    Column("since", 6, lambda row, units: "" if row["since_ns"] is None else units.when(row["since_ns"])),
    Column("until", 7, lambda row, units: "" if row["until_ns"] is None else units.when(row["until_ns"])),
    Column.count("to_host", "→ host", 3),
    Column("failed", 3, lambda row, _: f"{row['to_host_failed']:,}" if row["to_host_failed"] else ""),
    Column("/s", 9, lambda row, _: _rate(row["to_host_per_s"])),
    Column.count("to_guest", "→ guest", 4),
    Column("/s ", 10, lambda row, _: _rate(row["to_guest_per_s"])),
)

MESSAGES = (
    Column.text("label", "", 0),
    Column.count("count", "count", 0),
    Column.count("answered", "answered", 1),
    Column.count("repeated", "repeated", 1),
    *_FIGURES,
)

CALLS = (Column.text("label", "", 0), Column.count("count", "count", 0), *_FIGURES)

INTERRUPTS = (
    Column.text("label", "", 0),
    Column.count("message", "messages", 0),
    Column.count("signal", "signals", 0),
    Column.count("timer", "of timers", 0),
    Column.count("undelivered", "not taken", 1),
    Column.count("eois", "with EOI", 2),
)

STAGES = (
    Column.text("stage", "", 0),
    Column("", 1, lambda row, _: "*" if row["correlation"] else "", right=False),
    Column.count("count", "count", 0),
    *_FIGURES,
)

OPERATIONS = (
    Column("", 0, lambda row, units: units.when(row["ts_ns"])),
    Column.text("operation", "", 0),
    Column.count("pages", "pages", 0),
    Column.count("done", "done", 1),
    Column.time("ns", "answered after", 2),
)

#: Stages with a sentence each, once for all VMs.
_WIDE = 18


def as_text(answer: Mapping[str, Any], unit: str, top: int | None, *, conversation: bool) -> str:
    """Return tables as wide as the terminal, VM by VM, and what could not be told.

    `top` rows of each table; `unit` is that of the times: ns, or ticks of a clock whose frequency is not known. With
    `conversation` each message by itself.
    """
    units = Units(unit)
    vms = sorted({row["vm"] for name in _OWN for row in answer[name]}, key=lambda vm: (vm is None, vm))
    sections = []
    for vm in vms:
        own = {name: [row for row in answer[name] if row["vm"] == vm] for name in _OWN}
        sections += [
            _connection(vm, own, answer["told"], units),
            _channels(own["channels"], units, top),
            _messages(own["messages"], units, top),
            _conversation(own["conversation"], units, top) if conversation else [],
            _unanswered(own["unanswered"], units, top, known=answer["told"]["qemu"]),
            _calls(own["calls"], units, top),
            _interrupts(own["interrupts"], units, top),
            _latencies(own["latencies"], units),
            *(_balloon(row, units, top) for row in own["balloon"]),
        ]
    if not vms:
        sections.append(["No message, no signal and no interrupt of a SINT in this part of the recording."])
    sections.append(_absent(answer))
    if unit != "ns":
        sections.append(["Stamps and times count ticks (of a log without stamps: its lines)."])
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


#: Tables whose rows belong to a VM.
_OWN = (
    "connections",
    "channels",
    "messages",
    "conversation",
    "unanswered",
    "calls",
    "search",
    "interrupts",
    "latencies",
    "balloon",
)


def _rate(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.3g}" if rate < 1000 else f"{rate:,.0f}"


def _connection(
    vm: int | None, own: Mapping[str, Sequence[Any]], told: Mapping[str, Any], units: Units
) -> list[str]:
    head = f"VM {'?' if vm is None else vm}"
    lines = []
    for one in own["connections"]:
        last = one["versions"][-1]
        who = "" if last["vcpu"] is None else f" by vCPU {last['vcpu']}"
        if one["version"] is not None:
            agreed = next(v for v in one["versions"] if v["version"] == one["version"])
            said = f"VMBus {one['version']}, agreed at {units.when(one['agreed_ns'] or agreed['ts_ns'])}{who}"
        else:
            said = f"no version of VMBus agreed; contact at {units.when(one['since_ns'])}{who}"
        refused = [v["version"] for v in one["versions"] if v["outcome"] == "refused"]
        said += f"; before it {', '.join(refused)} refused" if refused else ""
        said += f"; {plural(one['offers'], 'channel')} offered"
        if one["until_ns"] is not None:
            said += f"; {one['ended']} at {units.when(one['until_ns'])}"
        lines.append(said)
    if not lines and not told["qemu"]:
        lines.append("what was said is not known: only KVM's events are there")
    for one in own["search"]:
        if one["searched"]:
            then = "before one was taken" if one["taken"] else "and none was taken"
            lines.append(
                f"{plural(one['searched'], 'message')} refused for the connection id {then}: "
                + ("so a guest tries newer versions first" if one["taken"] else "the guest found no VMBus")
            )
    first, *rest = lines or ["VMBus"]
    out = wrapped(f"{head}: {first}", rest="  ")
    out[0] = styled(out[0], "bold")
    for line in rest:
        out += wrapped(line, "  ")
    if told["kvm"] and (outside := _outside(own["conversation"], *told["kvm"])):
        begin, end = map(units.when, told["kvm"])
        out += wrapped(
            f"KVM's events are there only from {begin} to {end}; messages outside of that: {outside}.", "  "
        )
    if told["residual_ns"]:
        out += wrapped(f"QEMU's stamps may be off by {units.time(told['residual_ns'])} either way.", "  ")
    return out


def _outside(rows: Sequence[Mapping[str, Any]], first: int, last: int) -> int:
    """Messages while KVM was not traced."""
    return sum(not first <= row["ts_ns"] <= last for row in rows)


def _channels(rows: Sequence[dict[str, Any]], units: Units, top: int | None) -> list[str]:
    if not rows:
        return []
    shown = []
    for row in rows[:top]:
        known = row["channel"] is not None
        inside = "in memory" if row["connection"] is None else f"{row['connection']:#x}"
        shown.append(
            row
            | {
                "name": f"#{row['channel']}" if known else f"connection {inside}",
                "device": (row["device"] or "?") if known else None,
            }
        )
    told = [column for column in CHANNELS if any(column.cell(row, units) for row in shown)]
    lines = [
        *_titled("Channels, and signals each way", told, shown, units),
        *more(len(rows) - len(shown)),
    ]
    if any(row["channel"] is not None and row["device"] is None for row in rows):
        lines += wrapped("?: no event prints the GUIDs of an offer.", "  ")
    if any(row["channel"] is None for row in rows):
        lines += wrapped("Which channel a connection id belongs to is the host's choice.", "  ")
    return lines


def _titled(title: str, columns: Sequence[Column], rows: Sequence[dict[str, Any]], units: Units) -> list[str]:
    return [styled(title, "bold"), *table(columns, list(rows), units)]


def _messages(rows: Sequence[dict[str, Any]], units: Units, top: int | None) -> list[str]:
    lines: list[str] = []
    for way, title in (
        (TO_HOST, "Messages to the host, with the time until the answer was delivered"),
        (None, "Messages to the guest, with the time from the post to the delivery"),
    ):
        own = [row for row in rows if (row["way"] == TO_HOST) == (way == TO_HOST)]
        if own:
            shown = [row | {"label": safe(row["message"])} for row in own[:top]]
            gone = "repeated" if way == TO_HOST else "answered"
            columns = [column for column in MESSAGES if column.title != gone]
            lines += [*([""] if lines else []), *_titled(title, columns, shown, units)]
            lines += more(len(own) - len(shown))
    return lines


def _conversation(rows: Sequence[dict[str, Any]], units: Units, top: int | None) -> list[str]:
    if not rows:
        return []
    lines = [styled("Conversation", "bold")]
    for row in rows[:top]:
        arrow = "→" if row["way"] == TO_HOST else "←"
        about = f" ({row['about']})" if row["about"] else ""
        tries = f", at the {_ordinal(row['tries'])} try" if row["way"] != TO_HOST and row["tries"] > 1 else ""
        done = "answered" if row["way"] == TO_HOST else "delivered"
        took = "" if row["ns"] is None else f", {done} after {units.time(row['ns'])}{tries}"
        lines += wrapped(f"{row['message']}{about}{took}", f"{units.when(row['ts_ns'])} {arrow} ", " " * 4)
    return [*lines, *more(len(rows) - len(rows[:top]))]


def _ordinal(number: int) -> str:
    return {1: "1st", 2: "2nd", 3: "3rd"}.get(number, f"{number}th")


def _unanswered(
    rows: Sequence[Mapping[str, Any]], units: Units, top: int | None, *, known: bool
) -> list[str]:
    if not rows:
        return ["No request without an answer."] if known else []
    lines = [styled(f"{plural(len(rows), 'request')} without an answer", "bold")]
    for row in rows[:top]:
        about = f" ({row['about']})" if row["about"] else ""
        who = "" if row["vcpu"] is None else f" of vCPU {row['vcpu']}"
        tries = f", tried {row['tries']} times" if row["tries"] and row["tries"] > 1 else ""
        said = (
            f"{row['message']}{about}{who}: {row['why']}{tries}; {units.time(row['waited_ns'])} until the end"
        )
        lines += wrapped(said, f"{units.when(row['ts_ns'])} ", " " * 4)
    return [*lines, *more(len(rows) - len(rows[:top]))]


def _calls(rows: Sequence[dict[str, Any]], units: Units, top: int | None) -> list[str]:
    if not rows:
        return []
    shown = []
    for row in rows[:top]:
        where = "" if row["connection"] is None else f" {row['connection']:#x}"
        if row["call"] == SIGNAL and row["connection"] is None:
            where = " in memory"
        where += f" flag {row['flag']}" if row["flag"] else ""
        result = (row["result"] or "").removeprefix("HV_STATUS_").lower().replace("_", " ")
        result = "no result" if row["status"] is None else result or f"status {row['status']:#x}"
        # Who usually answers need not be told.
        usual = row["userspace"] == (row["call"] != SIGNAL)
        by = "" if usual else ", by userspace" if row["userspace"] else ", by KVM"
        shown.append(row | {"label": f"{row['call']}{where}: {result}{by}"})
    return [*_titled("Hypercalls, until their result", CALLS, shown, units), *more(len(rows) - len(shown))]


def _interrupts(rows: Sequence[dict[str, Any]], units: Units, top: int | None) -> list[str]:
    if not rows:
        return []

    def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return row["sint"], row["vector"]

    merged = []
    for (sint, vector), group in groupby(sorted(rows, key=lambda row: str(key(row))), key):
        own = list(group)
        kinds = {kind: _total(own, kind) for kind in ("message", "signal", "timer", "undelivered")}
        label = f"SINT {sint}" + ("" if vector is None else f" (vector {vector:#04x})")
        merged.append({"label": label, "eois": sum(row["eois"] for row in own)} | kinds)
    merged.sort(key=lambda row: -sum(row[name] for name in ("message", "signal")))
    lines = _titled("Interrupts of SINTs", INTERRUPTS, merged[:top], units)
    return [*lines, *more(len(merged) - len(merged[:top]))]


def _total(rows: Iterable[Mapping[str, Any]], kind: str) -> int:
    return sum(row["count"] for row in rows if row["kind"] == kind)


def _latencies(rows: Sequence[dict[str, Any]], units: Units) -> list[str]:
    shown = [row for row in rows if row["count"]]
    if not shown:
        return []
    width = max(len(row["stage"]) for row in shown)
    lines = [styled("Where the time went", "bold")]
    for row in shown:
        lines += wrapped(row["sentence"], f"  {row['stage']:{width}}  ")
    lines += table(STAGES, shown, units)
    if any(row["correlation"] for row in shown):
        lines += wrapped("*: found by the order in time; a correlation, no proof.", "  ")
    reasons = {"lost": "in which events were lost", "backwards": "with the end before the beginning"}
    for why, words in reasons.items():
        if number := sum(row["excluded"][why] for row in rows):
            lines.append(f"  Not counted: {number:,} {words}.")
    return lines


def _balloon(row: Mapping[str, Any], units: Units, top: int | None) -> list[str]:
    said = [f"protocol {row['version']}"] if row["version"] else []
    if row["capabilities"] is not None:
        able = [
            name for name, key in (("balloon", "balloon"), ("hot-add", "hot_add")) if row["capabilities"][key]
        ]
        said.append(
            f"the guest can {' and '.join(able)}" if able else "the guest can neither balloon nor hot-add"
        )
    said += [f"{plural(len(row['targets']), 'target')} set"] if row["targets"] else []
    said += [f"last state {safe(row['state'])}"] if row["state"] else []
    lines = wrapped("; ".join(said), "Balloon: ", "  ")
    lines[0] = styled(lines[0], "bold")
    pairs = (
        ("given by the guest", "given", "requested"),
        ("returned to it", "returned", "asked_back"),
        ("hot-added", "hot_added", "hot_add_asked"),
    )
    for words, done, asked in pairs:
        if row[asked]:
            lines.append(f"  {words}: {_pages(row[done])} of {_pages(row[asked])}")
    if row["targets"] and not row["operations"]:
        lines += wrapped("No target led to a request: the balloon was not ready for one.", "  ")
    if row["operations"]:
        shown = row["operations"][:top]
        lines += [*table(OPERATIONS, shown, units), *more(len(row["operations"]) - len(shown))]
    return lines


def _pages(pages: int) -> str:
    return f"{pages:,} pages ({pages * PAGE / MB:,.0f} MB)"


def _absent(answer: Mapping[str, Any]) -> list[str]:
    lines = []
    told = answer["told"]
    if not told["qemu"]:
        lines += wrapped(
            "Not told, for QEMU's trace events are not there: versions, channels, messages by type and what they "
            "were about, answers, the balloon. `hvtrace ingest trace.dat --qemu qemu-trace.log` adds QEMU's log "
            "(-trace 'vmbus*' -trace 'hv_balloon*')."
        )
    if told["kvm"] is None:
        lines += wrapped(
            "Not told, for KVM's events are not there: hypercalls, signals to the host, interrupts."
        )
    elif told["qemu"]:
        missing = sorted(
            {one for row in answer["absent"] for one in row["missing"] if not one.startswith("kvm_")}
        )
        if missing:
            names = "; ".join(one.replace("|", " or ") for one in missing)
            stages = ", ".join(row["stage"] for row in answer["absent"])
            lines += wrapped(f"{stages}: no such events ({names}).", "Not told: ", "  ")
    return lines


def as_json(answer: Mapping[str, Any], source: str, unit: str, top: int | None) -> str:
    """Return one object; times are integers, in ns where `unit` is ns."""
    return answers.as_json({**answer, "rows": answer["rows"][:top]}, source, unit)


def as_csv(answer: Mapping[str, Any], columns: Sequence[str], top: int | None) -> str:
    """Return the rows, a line each, under a line of names."""
    return answers.as_csv(answer["rows"][:top], columns)
