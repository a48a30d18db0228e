"""Which of several settings to choose: the least CPU time for most of the latency that polling can save."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hvtrace.analysis.halt_poll.what_if import Outcome

__all__ = ["PREFER", "Criterion", "Recommendation", "recommend"]

#: Below this share of the mean wake-up latency, what can be saved is not worth any polling.
WORTH = 0.05


@dataclass(frozen=True, slots=True)
class Criterion:
    """What is asked of a setting: `share` of the saving that is obtainable, for at most `price`.

    The price is CPU time polled for each part of waiting that is saved. With KVM's own limit of 200 µs a halt that
    polling ends costs 100 µs on average, and saves a wake-up of tens of µs; add what is polled in vain.
    """

    share: float
    price: float | None


#: What a person may prefer.
PREFER = {"cpu": Criterion(0.5, 2), "balance": Criterion(0.9, 10), "latency": Criterion(1.0, None)}


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The setting chosen, and why.

    `saving_ns`: how much less mean wake-up latency than with polling off; `obtainable_ns`: the most that any of the
    settings saves for no more than the criterion's price; `share`: one over the other (null where nothing is chosen
    but to poll not at all); `price`: CPU time polled for each part of waiting saved. `edge`: no other of them polls
    longer, so that one that does may save more.
    """

    name: str
    prefer: str
    saving_ns: int
    obtainable_ns: int
    share: float | None
    price: float | None
    edge: bool
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Return all fields."""
        return asdict(self)


def recommend(outcomes: Sequence[Outcome], off: Outcome, prefer: str, waits: int) -> Recommendation | None:
    """Choose among `outcomes`, against `off`: no polling at all. None where no latency is known.

    `waits`: how many halts waited for something.
    """
    if off.latency_mean_ns is None:
        return None
    most, criterion = off.latency_mean_ns, PREFER[prefer]
    savings = [most - (one.latency_mean_ns or 0) for one in outcomes]

    def none(reason: str) -> Recommendation:
        return Recommendation(off.name, prefer, 0, max([0, *savings]), None, None, False, reason)

    if max([0, *savings]) <= WORTH * most:
        return none(f"the best of them saves less than {WORTH:.0%} of the mean wake-up latency")
    prices = [
        one.burnt_ns / (saving * waits) if saving > 0 else 0.0
        for one, saving in zip(outcomes, savings, strict=True)
    ]
    limit = criterion.price
    fair = [
        nth
        for nth, (saving, price) in enumerate(zip(savings, prices, strict=True))
        if saving > WORTH * most and (limit is None or price <= limit)
    ]
    if not fair:
        return none(f"each of them polls for more than {limit:g} times the waiting that it saves")
    obtainable = max(savings[nth] for nth in fair)
    enough = [nth for nth in fair if savings[nth] >= criterion.share * obtainable]
    nth = min(enough, key=lambda nth: (outcomes[nth].burnt_ns, -savings[nth], nth))
    if limit is None:
        reason = "the most that any of them saves"
    else:
        reason = (
            f"the least CPU time for {criterion.share:.0%} or more of the latency that can be saved by polling for"
            f" no more than {limit:g} times the waiting saved"
        )
    chosen = outcomes[nth]
    edge = chosen.burnt_ns >= max(one.burnt_ns for one in outcomes)
    share = savings[nth] / obtainable
    return Recommendation(chosen.name, prefer, savings[nth], obtainable, share, prices[nth], edge, reason)
