"""What halt polling cost and saved. The answer of `hvtrace halt-poll`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hvtrace.analysis.halt_poll import settings as words
from hvtrace.analysis.halt_poll.arrivals import Arrivals, arrivals
from hvtrace.analysis.halt_poll.halts import CHANGE, UNKNOWN, WAKEUP, Recorded, read
from hvtrace.analysis.halt_poll.machine import walks
from hvtrace.analysis.halt_poll.own import Own, find_own
from hvtrace.analysis.halt_poll.recommend import PREFER, Recommendation, recommend
from hvtrace.analysis.halt_poll.reproduce import forbidden
from hvtrace.analysis.halt_poll.rules import Halts
from hvtrace.analysis.halt_poll.what_if import Outcome, again, run
from hvtrace.analysis.scope import Scope
from hvtrace.errors import HvtraceError, InputError
from hvtrace.schema.groups import is_whole_group
from hvtrace.store import Store

__all__ = ["COLUMNS", "HaltPoll", "Question", "halt_poll"]

I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

#: Parts of the time for which the polling time is told.
PARTS = 60

#: How a vCPU was woken: while it polled, or from its sleep.
WAYS = ("polled", "blocked")

#: What a row says of a vCPU's halts, in this order; times in ns.
COLUMNS = (
    "vm",
    "vcpu",
    "halts",
    "successes",
    "failures",
    "at_once",
    "unpolled",
    "unknown",
    "polled_ns",
    "vain_ns",
    "burnt_ns",
    "cpu_share",
    "polled_latency_count",
    "polled_latency_mean_ns",
    "polled_latency_p50_ns",
    "polled_latency_p99_ns",
    "blocked_latency_count",
    "blocked_latency_mean_ns",
    "blocked_latency_p50_ns",
    "blocked_latency_p99_ns",
    "saved_ns",
    "grown",
    "shrunk",
    "poll_max_ns",
    "barred",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question(Scope):
    """What is asked, of which part of the recording.

    `what_if`: settings as hvtrace.analysis.halt_poll.settings reads them; `sweep`: "auto", or a grid. `own`: parameters
    of the recording that a person knows better. `prefer` is a word of PREFER.
    """

    what_if: tuple[str, ...] = ()
    sweep: str | None = None
    own: str | None = None
    prefer: str = "balance"

    def __post_init__(self) -> None:
        if self.prefer not in PREFER:
            raise ValueError(f"prefer {self.prefer!r}: {', '.join(PREFER)}")


@dataclass(slots=True)
class HaltPoll:
    """The answer.

    `rows`: for each vCPU the COLUMNS; `total`: the same of all of them. Of the halts, `successes` ended while they
    polled, `failures` polled in vain and slept, `unpolled` slept without, `at_once` were over without either; of
    `unknown` ones it is not known for how long they polled. `polled_ns` and `vain_ns`: the time polled with success
    and in vain, `cpu_share` both of one CPU. `saved_ns`: successes · (median latency of waking up blocked − polled) of
    all vCPUs asked about; null where either is not known. `barred`: halts while the guest did not let the host poll.

    `over_time`: for each vCPU its longest polling time in each of `PARTS` parts of the time (null: not known, or no
    halt). `causes`: wake-up latencies by whether the halt had polled, and by the tracepoint that told of its end.
    `outcomes`: what settings bring about; the first of them is the recording's own, the second no polling. `excluded`:
    what is not counted, by why.
    """

    question: Question
    own: Own
    rows: list[dict[str, Any]]
    total: dict[str, Any]
    over_time: list[dict[str, Any]]
    part_ns: int
    causes: list[dict[str, Any]]
    latencies: dict[str, int]
    outcomes: list[Outcome]
    recommended: Recommendation | None
    excluded: dict[str, int]
    length_ns: int

    def as_dict(self) -> dict[str, Any]:
        """Return question and answer as the JSON form has them."""
        return {
            **asdict(self.question),
            "length_ns": self.length_ns,
            "parameters": self.own.as_dict(),
            "reproduced": None if self.own.reproduced is None else self.own.reproduced.as_dict(),
            "rows": self.rows,
            "total": self.total,
            "over_time": {"part_ns": self.part_ns, "vcpus": self.over_time},
            "causes": self.causes,
            "latencies": self.latencies,
            "settings": [outcome.as_dict() for outcome in self.outcomes],
            "recommended": None if self.recommended is None else self.recommended.as_dict(),
            "excluded": self.excluded,
        }


def halt_poll(store: Store, question: Question = Question()) -> HaltPoll:
    """Answer the question from a store. Raises InputError where it holds no halts, HvtraceError: a setting is wrong."""
    question.check(store)
    if not store.has(WAKEUP):
        raise InputError(store.path, f"holds no {WAKEUP} events: when vCPUs halted is not known")
    tables = question.tables(store)
    whole = read(tables, store.scan("lost").collect() if store.has("lost") else None)
    whole.traced = _traced(store)
    own = _own(whole, store, question)
    if whole.traced:
        whole.allowed = np.where(forbidden(whole, own.setting), 0, whole.allowed)
    in_force = _in_force(whole, own)
    inside = np.ones(len(whole), np.bool_)
    if question.first_ns is not None:
        inside &= whole.ts >= question.first_ns
    if question.last_ns is not None:
        inside &= whole.ts <= question.last_ns
    halts, in_force = whole.at(inside), in_force[inside]
    in_ns = store.manifest.clock.get("unit", "ns") == "ns"
    arrived = arrivals(tables, halts, in_ns=in_ns)
    length = question.length_ns(store)
    recorded = again(halts, arrived, in_force)
    span = length if in_ns else None
    chosen = _settings(question, own)
    outcomes = run(recorded, chosen, span)
    start = max(store.manifest.time.get("first_ns") or 0, question.first_ns or 0)
    part = max(-(-length // PARTS), 1)
    ways = _ways(halts, in_force, arrived)
    total = _figures(ways, np.ones(len(halts), np.bool_), span)
    rows, over_time = [], []
    for owner in np.unique(halts.owner).tolist():
        mine = halts.owner == owner
        place = {"vm": owner >> 16, "vcpu": owner & 0xFFFF}
        rows.append(place | _figures(ways, mine, span))
        over_time.append(place | {"poll_max_ns": _over_time(halts.ts[mine] - start, in_force[mine], part)})
    _save([*rows, total], total)
    return HaltPoll(
        question,
        own,
        rows,
        total,
        over_time,
        part,
        _by_cause(ways, arrived),
        {**recorded.known, "drawn": recorded.drawn},
        outcomes,
        recommend(outcomes, outcomes[1], question.prefer, int(recorded.waits.sum())),
        {"unattributed": whole.unattributed, "orphans": len(whole.orphans)},
        length,
    )


def _own(halts: Recorded, store: Store, question: Question) -> Own:
    try:
        given = {} if question.own is None else words.given_host(question.own)
    except ValueError as error:
        raise HvtraceError(f"--own: {error}") from error
    return find_own(halts, store.manifest, given)


def _settings(question: Question, own: Own) -> list[words.Named]:
    """The recording's own, none, and those asked for, each once."""
    found = [words.own_named(own.setting), words.named("off", own.setting)]
    try:
        asked = [words.named(text, own.setting) for text in question.what_if]
        asked += [] if question.sweep is None else words.sweep(question.sweep, own.setting)
    except ValueError as error:
        raise HvtraceError(f"what if: {error}") from error
    for one in asked:
        if one[0] not in [name for name, *_ in found]:
            found.append(one)
    return found


def _traced(store: Store) -> bool:
    """Whether changes of polling times were recorded, fired or not, as far as the recording shows it."""
    fired = {name for name, count in store.manifest.events.items() if count}
    return CHANGE in fired or is_whole_group(fired)


def _in_force(halts: Recorded, own: Own) -> I64:
    """The polling time before each halt: as recorded, or, where changes were not recorded, as the rules make it."""
    if halts.traced:
        return halts.in_force(own.setting)
    never = np.full(len(halts), np.iinfo(np.int64).max)
    # Halts as they were: those that slept sleep again, those that did not poll as long as they took.
    came = np.where(halts.waited, never, -1)
    first = np.where(halts.first, 0, UNKNOWN)
    as_recorded = Halts(came, halts.ns, halts.ns, halts.allowed != 0, first)
    (in_force,) = walks([own.setting], as_recorded)
    return in_force


def _ways(halts: Recorded, in_force: I64, arrived: Arrivals) -> dict[str, Any]:
    """For each halt what became of it, and the times that belong to that."""
    polls = np.where(halts.allowed == 0, 0, in_force)
    unknown = polls == UNKNOWN
    success, failure = ~halts.waited & (polls > 0), halts.waited & (polls > 0)
    return {
        "successes": success,
        "failures": failure,
        "at_once": ~halts.waited & (polls == 0),
        "unpolled": halts.waited & (polls == 0),
        "unknown": unknown,
        "polled_ns": np.where(success, halts.ns, 0),
        "vain_ns": np.where(failure, polls, 0),
        "polled_latency": np.where(success, arrived.latency, UNKNOWN),
        "blocked_latency": np.where(halts.waited, arrived.latency, UNKNOWN),
        "grown": halts.changed & halts.grew,
        "shrunk": halts.changed & ~halts.grew,
        "poll": np.maximum(polls, 0),
        "barred": halts.allowed == 0,
    }


def _figures(ways: dict[str, Any], mine: Flags, length_ns: int | None) -> dict[str, Any]:
    """Figures of some of the halts."""
    found: dict[str, Any] = {"halts": int(mine.sum())}
    for name in ("successes", "failures", "at_once", "unpolled", "unknown", "polled_ns", "vain_ns"):
        found[name] = int(ways[name][mine].sum())
    found["burnt_ns"] = found["polled_ns"] + found["vain_ns"]
    found["cpu_share"] = found["burnt_ns"] / length_ns if length_ns else None
    for way in WAYS:
        figures = _spread(ways[f"{way}_latency"][mine])
        found |= {f"{way}_latency_{name}": value for name, value in figures.items()}
    found["saved_ns"] = None
    for name in ("grown", "shrunk"):
        found[name] = int(ways[name][mine].sum())
    found["poll_max_ns"] = int(ways["poll"][mine].max(initial=0))
    found["barred"] = int(ways["barred"][mine].sum())
    return found


def _spread(latency: I64) -> dict[str, int | None]:
    """Figures of the latencies that are known."""
    known = np.sort(latency[latency != UNKNOWN])
    number = len(known)
    found: dict[str, int | None] = {
        "count": number,
        "mean_ns": round(float(known.mean())) if number else None,
    }
    for name, permille in (("p50_ns", 500), ("p99_ns", 990)):
        found[name] = int(known[(number * permille + 999) // 1000 - 1]) if number else None
    return found


def _by_cause(ways: dict[str, Any], arrived: Arrivals) -> list[dict[str, Any]]:
    """Figures of latencies by way and cause, as far as there are any."""
    every = [
        {"after": way, "cause": table}
        | _spread(np.where(arrived.cause == rank, ways[f"{way}_latency"], UNKNOWN))
        for way in WAYS
        for rank, table in enumerate(arrived.tables)
    ]
    return [row for row in every if row["count"]]


def _save(rows: list[dict[str, Any]], total: dict[str, Any]) -> None:
    """Fill in what successes saved, by the median latencies of all halts."""
    polled, blocked = total["polled_latency_p50_ns"], total["blocked_latency_p50_ns"]
    for row in rows:
        if not row["successes"]:
            row["saved_ns"] = 0
        elif polled is not None and blocked is not None:
            row["saved_ns"] = row["successes"] * (blocked - polled)


def _over_time(since: I64, in_force: I64, part: int) -> list[int | None]:
    most = np.full(PARTS, UNKNOWN, np.int64)
    np.maximum.at(most, np.clip(since // part, 0, PARTS - 1), in_force)
    return [None if value == UNKNOWN else value for value in most.tolist()]
