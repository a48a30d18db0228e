"""Measures export of large stores, side by side with the perfetto package's own builder writing the same trace.

    python benchmarks/export.py [--events 10000000] [--rounds 3] [--quick]

Builds recordings by repeating a real one, ingests them and runs `hvtrace export` over the stores at 1x, 4x and 16x,
the last of which has the events asked for. At that size, in turn: the whole command, its encoder alone
(encoder.py), and the package's two builders (perfetto_builder.py), which get everything ready made and pay only for
building and writing. Prints tables and writes all figures as JSON. Real recordings are looked for in
$HVTRACE_RECORDINGS (default sample_traces/).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from measure import Measurement, alternate, run
from run import KINDS, SCALES, Bench, find_source, machine, verdict

__all__ = ["main"]

HERE = Path(__file__).resolve().parent

EXPORT, ENCODER, BUILDERS = "hvtrace export", "encoder alone", ("memory", "streaming")

#: What must hold: figure, bound, whether the figure must be at least or at most that.
TARGETS = (
    ("slices/s, hvtrace export / builder", 10.0, ">="),
    ("slices/s, encoder alone / builder", 10.0, ">="),
    ("peak memory of any export, MiB", 1024.0, "<="),
    ("peak memory, 16x / 4x", 1.5, "<="),
)


@dataclass(frozen=True)
class Writing:
    """One way to write the slices of a trace: the seconds that count, a run each."""

    what: str
    slices: int
    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]

    @property
    def slices_per_s(self) -> float:
        """By the shortest wall time."""
        return self.slices / min(self.wall_s)

    def as_json(self) -> dict[str, object]:
        """All runs."""
        return {
            "what": self.what,
            "slices": self.slices,
            "wall_s": [round(s, 3) for s in self.wall_s],
            "cpu_s": [round(s, 3) for s in self.cpu_s],
            "slices_per_s": round(self.slices_per_s),
            "slices_per_cpu_s": round(self.slices / min(self.cpu_s)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=10_000_000, help="events of the largest store")
    parser.add_argument("--sizes", type=int, nargs="+", default=SCALES, help="sizes, relative to each other")
    parser.add_argument("--rounds", type=int, default=3, help="times each way of writing is run")
    parser.add_argument("--quick", action="store_true", help="two small sizes, one round: does it work?")
    parser.add_argument("--work", type=Path, help="folder for large files (default: a temporary one)")
    parser.add_argument("--json", type=Path, default=HERE / "export.json", help="where the figures go")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.events, arguments.sizes, arguments.rounds = 100_000, (1, 2), 1
    sizes = sorted(arguments.sizes)
    source = find_source(KINDS[0])
    with tempfile.TemporaryDirectory(prefix="hvtrace-bench-", dir=arguments.work) as work:
        bench = Bench(Path(work), arguments.rounds)
        once = bench.build(source, "once", 1).events
        print(f"{source.parent.name}, {once:,} events\n{MEMORY_HEADER}")
        for size in sizes:
            # As many rounds of the recording as give the events asked for, or a few more.
            times = -(-arguments.events * size // (sizes[-1] * once))
            measure_export(bench, source, times, size, arguments.rounds if size == sizes[-1] else 1)
        writings = compare(bench)
    figures = summary(bench.rows, writings)
    print(
        "\n" + "\n".join(verdict(*target, figures[target[0]]) for target in TARGETS if target[0] in figures)
    )
    answer = {
        "machine": machine(),
        "recording": source.parent.name,
        "rounds": arguments.rounds,
        "measurements": [row.as_json() for row in bench.rows],
        "writings": [writing.as_json() for writing in writings],
        "figures": {name: round(value, 3) for name, value in figures.items()},
    }
    arguments.json.write_text(json.dumps(answer, indent=1) + "\n")


def export(bench: Bench) -> Sequence[str | Path]:
    """The command that exports the store that was written last."""
    return (bench.hvtrace, "export", bench.store, "-o", bench.work / "out.pftrace")


def measure_export(bench: Bench, source: Path, times: int, size: int, rounds: int) -> None:
    """Export a store of so many rounds of a recording."""
    recording = bench.build(source, "recording", times)
    run(bench.ingest(recording), bench.log)
    recording.path.unlink()
    for what, runs in alternate({EXPORT: export(bench)}, rounds, bench.log).items():
        written = (bench.work / "out.pftrace").stat().st_size
        row = Measurement(what, size, recording.events, written, runs)
        bench.rows.append(row)
        print(
            f"{what:<18} {size:>3}x {row.events:>12,} {row.size / 1e6:>7.0f} {row.best.wall_s:>8.2f} "
            f"{row.best.cpu_s:>8.2f} {row.events_per_s:>11,.0f} {row.peak_mib:>6.0f}",
            flush=True,
        )


MEMORY_HEADER = (
    f"{'':<18} {'size':>4} {'events':>12} {'MB':>7} {'wall s':>8} {'CPU s':>8} {'events/s':>11} {'MiB':>6}"
)
WRITING_HEADER = f"{'':<24} {'slices':>12} {'wall s':>8} {'CPU s':>8} {'slices/s':>11}"


def compare(bench: Bench) -> list[Writing]:
    """Write the trace of the last store in every way, in turn, each second round in the opposite order."""
    trace, again = bench.work / "out.pftrace", bench.work / "again.pftrace"
    commands: dict[str, Sequence[str | Path]] = {EXPORT: export(bench)}
    commands[ENCODER] = (sys.executable, HERE / "encoder.py", bench.store, again)
    for builder in BUILDERS:
        commands[f"builder, {builder}"] = (
            sys.executable,
            HERE / "perfetto_builder.py",
            trace,
            again,
            "--builder",
            builder,
        )
    found: dict[str, list[tuple[float, float]]] = {what: [] for what in commands}
    slices = 0
    for n in range(bench.rounds):
        for what in list(commands) if n % 2 == 0 else list(reversed(commands)):
            command = [str(part) for part in commands[what]]
            if what == EXPORT:
                done = run(command, bench.log)
                found[what].append((done.wall_s, done.cpu_s))
                continue
            # What the builders wrote is looked at once.
            check = ["--check"] if n == 0 and what != ENCODER else []
            answer = json.loads(subprocess.run([*command, *check], check=True, stdout=subprocess.PIPE).stdout)
            found[what].append((answer["wall_s"], answer["cpu_s"]))
            slices = max(slices, answer.get("slices", 0))
    print("\n" + WRITING_HEADER)
    writings = []
    for what, runs in found.items():
        wall, cpu = zip(*runs, strict=True)
        writings.append(Writing(what, slices, wall, cpu))
        print(
            f"{what:<24} {writings[-1].slices:>12,} {min(wall):>8.2f} {min(cpu):>8.2f} "
            f"{writings[-1].slices_per_s:>11,.0f}",
            flush=True,
        )
    return writings


def summary(rows: list[Measurement], writings: list[Writing]) -> dict[str, float]:
    """The figures that TARGETS judges, against the faster builder, and the same in CPU time."""
    by = {writing.what: writing for writing in writings}
    builders = [by[f"builder, {builder}"] for builder in BUILDERS]
    figures: dict[str, float] = {}
    for what, name in ((EXPORT, EXPORT), (ENCODER, ENCODER)):
        own = by[what]
        figures[f"slices/s, {name} / builder"] = own.slices_per_s / max(b.slices_per_s for b in builders)
        figures[f"slices/CPU s, {name} / builder"] = min(min(b.cpu_s) for b in builders) / min(own.cpu_s)
    figures["peak memory of any export, MiB"] = max(row.peak_mib for row in rows)
    # The first size fits into one window.
    if len(rows) > 2:
        figures["peak memory, 16x / 4x"] = rows[-1].peak_mib / rows[-2].peak_mib
    return figures


if __name__ == "__main__":
    main()
