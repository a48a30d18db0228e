"""Which of several settings to choose: the least CPU time for most of the latency that polling can save."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hvtrace.analysis.halt_poll.what_if import Outcome

__all__ = ["PREFER", "Recommendation", "recommend"]

#: What a person may prefer → the share of the obtainable saving that is asked for.
PREFER = {"cpu": 0.5, "balance": 0.9, "latency": 1.0}

#: Below this share of the mean wake-up latency, what can be saved is not worth any polling.
WORTH = 0.05


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The setting chosen, and why.

    `saving_ns`: how much less mean wake-up latency than with polling off; `obtainable_ns`: the most that any of the
    settings saves; `share`: one over the other; `wanted`: the share that the criterion asks for. `edge`: no other of
    them polls longer, so that one that does may save more.
    """

    name: str
    prefer: str
    wanted: float
    saving_ns: int
    obtainable_ns: int
    share: float | None
    edge: bool
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Return all fields."""
        return asdict(self)


def recommend(outcomes: Sequence[Outcome], off: Outcome, prefer: str) -> Recommendation | None:
    """Choose among `outcomes`, against `off`: no polling at all. None where no latency is known."""
    if off.latency_mean_ns is None:
        return None
    most = off.latency_mean_ns
    savings = [most - (one.latency_mean_ns or 0) for one in outcomes]
    obtainable, wanted = max([0, *savings]), PREFER[prefer]
    if obtainable <= WORTH * most:
        reason = f"the best of them saves less than {WORTH:.0%} of the mean wake-up latency"
        return Recommendation(off.name, prefer, wanted, 0, obtainable, None, False, reason)
    enough = [
        (one.burnt_ns, -saving, nth) for nth, (one, saving) in enumerate(zip(outcomes, savings, strict=True))
        if saving >= wanted * obtainable
    ]  # fmt: skip
    nth = min(enough)[2]
    reason = (
        "the most that any of them saves"
        if wanted == 1
        else f"the least CPU time for at least {wanted:.0%} of the latency that any of them saves"
    )
    share = savings[nth] / obtainable
    chosen = outcomes[nth]
    edge = chosen.burnt_ns >= max(one.burnt_ns for one in outcomes)
    return Recommendation(chosen.name, prefer, wanted, savings[nth], obtainable, share, edge, reason)
