"""Advices on halt polling: CPU time it burns for little, and short halts that it would have shortened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hvtrace.analysis.advice.facts import Facts
from hvtrace.analysis.advice.finding import Advice, Effect, Evidence, Finding, Severity
from hvtrace.analysis.advice.wording import duration, each_second, percent, times
from hvtrace.analysis.halt_poll.answer import HaltPoll, Question, halt_poll
from hvtrace.analysis.halt_poll.own import DEFAULT

__all__ = ["ADVICES"]

#: Polling that takes less of a CPU than this costs nobody anything.
SHARE = 0.01
#: So many times the latency it saves may polling cost, before it is out of proportion. With KVM's own limit of 200 µs a
#: success costs 100 µs on average, and saves a wake-up of tens of µs.
RATIO = 10
#: What KVM polls for at most if nobody says otherwise.
DEFAULT_NS = 200_000
#: Where polling is off, it would have to shorten so many halts a second, and this share of them.
SHORTENED_RATE, SHORTENED_SHARE = 50, 0.1

_WAKEUP = "kvm_vcpu_wakeup"


def _question(facts: Facts, vm: int | None, *what_if: str) -> Question:
    scope = facts.scope
    return Question(
        vm=scope.vm if vm is None else vm,
        vcpu=scope.vcpu,
        first_ns=scope.first_ns,
        last_ns=scope.last_ns,
        what_if=what_if,
    )


def _polls(facts: Facts) -> HaltPoll:
    return facts.once("halt polling", lambda: halt_poll(facts.store, _question(facts, None)))


def _sum(rows: list[dict[str, Any]], name: str) -> int:
    return sum(row[name] or 0 for row in rows)


def burnt(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding]:
    """Polling takes CPU time out of proportion to what it saves."""
    answer = _polls(facts)
    rows = [row for row in answer.rows if row["vm"] == vm]
    vain_ns = _sum(rows, "vain_ns")
    # A halt that did not sleep may have taken longer than KVM polls, while the thread had no CPU.
    burnt_ns = vain_ns + sum(min(row["polled_ns"], row["successes"] * row["poll_max_ns"]) for row in rows)
    share = burnt_ns / facts.life_ns(vm)
    # Of a VM whose vCPUs have no success nothing is saved; what is not known counts as nothing, and is said.
    saved_ns = max(_sum(rows, "saved_ns"), 0)
    known = all(row["saved_ns"] is not None for row in rows)
    if (
        not facts.in_ns
        or share < SHARE
        or burnt_ns < RATIO * saved_ns
        or (not known and vain_ns < burnt_ns / 2)
    ):
        return
    successes, failures = _sum(rows, "successes"), _sum(rows, "failures")
    limit = answer.own.setting.limit
    saved = f"saved about {duration(saved_ns)} of waiting in all" if known else "what it saved is not known"
    yield Finding(
        advice.code,
        advice.name,
        Severity.MEDIUM if share >= 5 * SHARE else Severity.LOW,
        vm,
        f"Halt polling burnt {duration(burnt_ns)} of CPU time ({percent(share)} of a CPU) and {saved}",
        (
            Evidence(
                f"of {times(successes + failures, 'halt')} that polled, {successes:,} ended while they polled"
                f" ({duration(burnt_ns - vain_ns)}), and {failures:,} polled in vain ({duration(vain_ns)})",
                successes + failures,
                (successes + failures) * 1e9 / facts.life_ns(vm),
                burnt_ns,
            ),
            Evidence(
                f"halt_poll_ns is {duration(limit)} ({answer.own.sources['cap']}), the longest polling time in force"
                f" was {duration(max((row['poll_max_ns'] for row in rows), default=0))}"
            ),
        ),
        change="lower the module parameter kvm.halt_poll_ns, or give this VM a cap of its own (KVM_CAP_HALT_POLL);"
        " `hvtrace halt-poll --sweep auto` says what other settings would have cost and saved",
        effect=Effect(
            f"up to {duration(burnt_ns)} of CPU time less, wake-ups {duration(saved_ns / max(successes, 1))} slower"
            if known and successes
            else f"up to {duration(burnt_ns)} of CPU time less",
            "adding up the time polled; and the halts that polling ended, times the difference of the median wake-up"
            " latencies with and without it",
            burnt_ns,
            burnt_ns / facts.vcpu_ns(vm),
        ),
    )


def off(facts: Facts, vm: int, advice: Advice) -> Iterator[Finding]:
    """Polling is off on the host, and would have shortened many halts."""
    own = _polls(facts).own
    if own.setting.limit or own.sources["cap"] == DEFAULT or not facts.in_ns:
        return
    answer = halt_poll(facts.store, _question(facts, vm, f"halt_poll_ns={DEFAULT_NS}"))
    never, polled = answer.outcomes[0], answer.outcomes[-1]
    halts, life = answer.total["halts"], facts.life_ns(vm)
    shortened = polled.successes
    if shortened * 1e9 < SHORTENED_RATE * life or shortened < SHORTENED_SHARE * halts:
        return
    told = never.latency_mean_ns is not None and polled.latency_mean_ns is not None
    better = (never.latency_mean_ns or 0) - (polled.latency_mean_ns or 0)
    yield Finding(
        advice.code,
        advice.name,
        Severity.MEDIUM,
        vm,
        f"Halt polling is off, and many of {times(halts, 'halt')} are short: each pays for a full wake-up",
        (
            Evidence(
                f"{shortened:,} of {times(halts, 'halt')}, {each_second(shortened, life)}, would have ended while"
                f" polling for up to {duration(DEFAULT_NS)}",
                shortened,
                shortened * 1e9 / life,
            ),
        ),
        change=f"set the module parameter kvm.halt_poll_ns, say to KVM's default of {DEFAULT_NS}, where the host has"
        " CPU time to spare; `hvtrace halt-poll --sweep auto` compares settings",
        effect=Effect(
            (
                f"wake-ups {duration(better)} sooner on average, for "
                if told and better > 0
                else "quicker wake-ups, for "
            )
            + f"{duration(polled.burnt_ns)} of CPU time spent on polling",
            "running the recorded halts through KVM's polling algorithm with its default parameters",
        ),
    )


ADVICES: tuple[Advice, ...] = (
    Advice(
        "AD501",
        "halt-poll-burn",
        "Halt polling burns CPU time out of proportion to the waiting it saves.",
        (_WAKEUP,),
        burnt,
        f"It is found where polling took {percent(SHARE)} of a CPU or more, and {RATIO} times or more what it saved of"
        " wake-up latency: the halts that ended while they polled, times the difference of the median latencies with"
        " and without. Time polled in vain is spent on top of the wake-up. A halt"
        " counts as polled for no longer than KVM polls: what it took beyond that, the thread had no CPU. On a host"
        " with idle CPUs polling costs energy and the turbo of other cores, on a busy one the time of other vCPUs (a"
        " thread that wants the CPU ends it).",
    ),
    Advice(
        "AD502",
        "halt-poll-off",
        "Halt polling is off, and would have shortened many halts.",
        (_WAKEUP,),
        off,
        "It is found where the host's halt_poll_ns is known to be 0 (from what was noted beside the recording, or from"
        f" the events) and KVM's default of {DEFAULT_NS} would have ended {SHORTENED_RATE} halts a second or more while"
        f" polling, and {percent(SHORTENED_SHARE)} of all or more: the recorded halts are run through KVM's algorithm,"
        " as `hvtrace halt-poll --what-if` does.",
    ),
)
