"""A recording as Python code asks it: `hvtrace.open("trace.hvt").exits()`."""

from __future__ import annotations

import os
from typing import Any

import polars as pl

from hvtrace.analysis.advise import Answer as Advised
from hvtrace.analysis.advise import Question as Advisable
from hvtrace.analysis.advise import advise
from hvtrace.analysis.diff.align import Alignment, align
from hvtrace.analysis.diff.compare import Diff, diff
from hvtrace.analysis.exits import Exits, Question
from hvtrace.analysis.exits import exits as answer
from hvtrace.analysis.halt_poll.answer import HaltPoll, halt_poll
from hvtrace.analysis.halt_poll.answer import Question as Pollable
from hvtrace.analysis.latency import Latency, latency
from hvtrace.analysis.latency import Question as Waiting
from hvtrace.analysis.query import query, told
from hvtrace.analysis.scope import Scope
from hvtrace.analysis.vmbus import Question as Conversing
from hvtrace.analysis.vmbus import Vmbus, vmbus
from hvtrace.pipeline.opening import store_for
from hvtrace.store import Store

__all__ = ["Recording"]


class Recording:
    """A store, or a recording that is read into a temporary one. Raises InputError.

    `store` is the store: its tables as polars LazyFrames, its manifest.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.store = Store(store_for(path))

    def exits(self, event: str = "vmexit", **asked: Any) -> Exits:
        """What handling exits took: see hvtrace.analysis.exits.Question for what may be asked. Raises InputError."""
        return answer(self.store, Question(event=event, **asked))

    def latency(self, *measures: str, **asked: Any) -> Latency:
        """How long a guest waits, by measure: hvtrace.analysis.latency.Question says what else may be asked.

        Raises InputError; KeyError: an unknown measure.
        """
        return latency(self.store, Waiting(measures=measures, **asked))

    def halt_poll(self, *what_if: str, **asked: Any) -> HaltPoll:
        """What halt polling cost and saved, and would under other settings: `halt_poll_ns=50000`, `off`, `guest=on`.

        See hvtrace.analysis.halt_poll.answer.Question for what else may be asked. Raises HvtraceError.
        """
        return halt_poll(self.store, Pollable(what_if=what_if, **asked))

    def vmbus(self, **asked: Any) -> Vmbus:
        """The conversation over VMBus: see hvtrace.analysis.vmbus.Vmbus for what is in it. Raises InputError."""
        return vmbus(self.store, Conversing(**asked))

    def advise(self, *codes: str, **asked: Any) -> Advised:
        """What should be changed: all advices, or those of `codes`. Raises InputError; ValueError: an unknown code."""
        return advise(self.store, Advisable(codes=codes, **asked))

    def diff(self, other: Recording, part: Scope | None = None, other_part: Scope | None = None) -> Diff:
        """What changed from this recording, or part of it, to the other. Raises InputError."""
        return diff(self.store, other.store, part, other_part)

    def align(
        self, other: Recording, part: Scope | None = None, other_part: Scope | None = None
    ) -> Alignment:
        """Where this run and the other first do something else. Raises InputError."""
        return align(self.store, other.store, part, other_part)

    def query(self, sql: str, engine: str = "polars", **part: Any) -> pl.DataFrame:
        """What an SQL query over the tables says; `part` as in hvtrace.analysis.scope.Scope. Raises HvtraceError."""
        with told(self.store):
            return query(self.store, sql, Scope(**part), engine).collect()
