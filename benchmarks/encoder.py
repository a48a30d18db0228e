"""Exports a store and says how much of the time the encoder took.

    python benchmarks/encoder.py STORE OUT

The encoder is what makes packets out of ready columns (hvtrace.export.packets), puts them in order and writes them:
the part of an export that the perfetto package's builder stands for. Nothing is done at the same time, as otherwise in
an export (hvtrace.export.overlap): a part's time could not be told. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any, cast

from hvtrace.export import overlap, packets, wire
from hvtrace.export.perfetto import write_trace
from hvtrace.store import Store

__all__ = ["encode", "main"]

#: What the encoder consists of, as the rest of the export calls it.
ENCODER = (packets.begins, packets.ends, packets.instants, packets.counts, wire.in_order)


class InTurn:
    """Stands for a pool of threads: what is given is done at once."""

    def __init__(self, *given: object) -> None:
        pass

    def submit(self, function: Callable[..., Any], *given: Any) -> Future[Any]:
        """Call the function."""
        done: Future[Any] = Future()
        try:
            done.set_result(function(*given))
        except Exception as error:
            done.set_exception(error)
        return done

    def shutdown(self) -> None:
        """Nothing is running."""

    def __enter__(self) -> InTurn:
        return self

    def __exit__(self, *given: object) -> None:
        pass


class Clock:
    """Adds up the wall and CPU time spent in functions."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time added up."""

        def call(*given: Any, **named: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return function(*given, **named)
            finally:
                self.wall += time.perf_counter() - wall
                self.cpu += time.process_time() - cpu

        return call


class TimedFile:
    """A file whose writes are timed."""

    def __init__(self, file: IO[bytes], clock: Clock) -> None:
        self.write = clock.timed(file.write)


def encode(store: Path, target: Path) -> dict[str, float]:
    """Export; return the seconds of wall and CPU time that the encoder took."""
    clock = Clock()
    vars(overlap)["ThreadPoolExecutor"] = InTurn
    for name, module in list(sys.modules.items()):
        if name.startswith("hvtrace.export"):
            for function in ENCODER:
                if getattr(module, function.__name__, None) is function:
                    setattr(module, function.__name__, clock.timed(function))
    with target.open("wb", buffering=0) as file:
        write_trace(Store(store), cast(Any, TimedFile(file, clock)))
    return {"wall_s": round(clock.wall, 4), "cpu_s": round(clock.cpu, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    print(json.dumps(encode(arguments.store, arguments.out)))


if __name__ == "__main__":
    main()
