"""Runs a command and measures it: wall time, CPU time, peak memory."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Measurement", "Run", "alternate", "run"]


@dataclass(frozen=True)
class Run:
    """One run. `peak_mib`: largest resident set of the process or of any process it waited for."""

    wall_s: float
    cpu_s: float
    peak_mib: float


@dataclass(frozen=True)
class Measurement:
    """Runs of one command over one input of `events` events and `size` bytes."""

    what: str
    scale: int
    events: int
    size: int
    runs: tuple[Run, ...]

    @property
    def best(self) -> Run:
        """The run with the shortest wall time: what is least disturbed by the rest of the machine."""
        return min(self.runs, key=lambda r: r.wall_s)

    @property
    def peak_mib(self) -> float:
        """The largest peak of all runs."""
        return max(r.peak_mib for r in self.runs)

    @property
    def events_per_s(self) -> float:
        """By the best run."""
        return self.events / self.best.wall_s

    def as_json(self) -> dict[str, object]:
        """All runs, rounded."""
        return {
            "what": self.what,
            "scale": self.scale,
            "events": self.events,
            "size_bytes": self.size,
            "wall_s": [round(r.wall_s, 3) for r in self.runs],
            "cpu_s": [round(r.cpu_s, 3) for r in self.runs],
            "peak_mib": round(self.peak_mib, 1),
            "events_per_s": round(self.events_per_s),
        }


def run(command: Sequence[str | Path], log: Path) -> Run:
    """Run `command` with its output thrown away; `log` takes what it says on stderr. Fails if it fails."""
    with log.open("ab") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        tail = log.read_text(errors="replace").splitlines()[-5:]
        raise SystemExit(f"{' '.join(map(str, command))} ended with {process.returncode}\n" + "\n".join(tail))
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def alternate(
    commands: dict[str, Sequence[str | Path]], rounds: int, log: Path
) -> dict[str, tuple[Run, ...]]:
    """Run the commands in turn, `rounds` times, each second round in the opposite order."""
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for n in range(rounds):
        order = list(commands) if n % 2 == 0 else list(reversed(commands))
        for name in order:
            runs[name].append(run(commands[name], log))
    return {name: tuple(r) for name, r in runs.items()}
