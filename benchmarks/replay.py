"""Measures replay on large recordings: tape events a second and core, memory, and processes.

    python benchmarks/replay.py [--recordings linux-hv-min vmbus-balloon] [--times 4] [--sizes 1 4 16] [--quick]

Repeats real recordings (each round is a VM of its own), ingests them and runs `hvtrace replay --check` over the stores:
at all sizes in one process, and at the second in two. Tape events are those that the model consumes. Prints a table
and writes all figures as JSON. Recordings are looked for in $HVTRACE_RECORDINGS (default sample_traces/).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

from measure import Measurement, alternate
from run import KINDS, ROOT, Bench, machine, verdict

__all__ = ["main"]

HERE = Path(__file__).resolve().parent

#: Recordings that are taken where the folder has them: those with most events, and those with most timers and calls.
PREFERRED = ("linux-hv-min", "vmbus-balloon", "linux-hv")

#: What must hold of each recording: figure, bound, whether the figure must be at least or at most that.
TARGETS = (
    ("tape events per CPU second", 1e6, ">="),
    ("peak memory, largest / smallest size", 1.5, "<="),
    ("wall time, 1 process / 2", 1.5, ">="),
)

HEADER = f"{'':<34} {'size':>4} {'tape events':>12} {'wall s':>8} {'CPU s':>8} {'per CPU s':>11} {'MiB':>6}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recordings", nargs="+", default=PREFERRED, help="names of their folders")
    parser.add_argument("--times", type=int, default=4, help="rounds of the smallest size")
    parser.add_argument("--sizes", type=int, nargs="+", default=(1, 4, 16), help="multiples of that")
    parser.add_argument("--rounds", type=int, default=3, help="times each command is run")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: does the harness work?")
    parser.add_argument("--work", type=Path, help="folder for large files (default: a temporary one)")
    parser.add_argument("--json", type=Path, default=HERE / "replay.json", help="where the figures go")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.times, arguments.sizes, arguments.rounds = 1, (1, 2), 1
    folder = Path(os.environ.get("HVTRACE_RECORDINGS", ROOT / "sample_traces"))
    sources = [
        path for name in arguments.recordings for path in sorted(folder.rglob(f"{name}/{KINDS[0].pattern}"))
    ]
    if not sources:
        raise SystemExit(f"none of the recordings is under {folder}")
    answer: dict[str, object] = {"machine": machine(), "rounds": arguments.rounds}
    print(HEADER)
    for source in sources:
        with tempfile.TemporaryDirectory(prefix="hvtrace-bench-", dir=arguments.work) as work:
            bench = Bench(Path(work), arguments.rounds)
            measure(bench, source, arguments.times, sorted(arguments.sizes))
            figures = summary(bench.rows)
        print("\n".join(verdict(*target, figures[target[0]]) for target in TARGETS if target[0] in figures))
        answer[source.parent.name] = {
            "measurements": [row.as_json() for row in bench.rows],
            "figures": {name: round(value, 3) for name, value in figures.items()},
        }
    arguments.json.write_text(json.dumps(answer, indent=1) + "\n")


def measure(bench: Bench, source: Path, times: int, sizes: list[int]) -> None:
    """All measurements of one recording."""
    for size in sizes:
        recording = bench.build(source, "trace.dat", times * size)
        subprocess.run([*map(str, bench.ingest(recording))], check=True, stdout=subprocess.DEVNULL)
        bytes_, name = recording.path.stat().st_size, source.parent.name
        recording.path.unlink()
        command = (bench.hvtrace, "replay", bench.store, "--check", "--jobs")
        commands = {f"{name}, 1 process": (*command, "1")}
        if size == sizes[min(1, len(sizes) - 1)]:
            commands[f"{name}, 2 processes"] = (*command, "2")
        events = replayed((*command, "2", "--output-format", "json"))
        for what, runs in alternate(commands, bench.rounds, bench.log).items():
            row = Measurement(what, size, events, bytes_, runs)
            bench.rows.append(row)
            print(
                f"{what:<34} {size:>3}x {events:>12,} {row.best.wall_s:>8.2f} {row.best.cpu_s:>8.2f} "
                f"{per_cpu_second(row):>11,.0f} {row.peak_mib:>6.0f}",
                flush=True,
            )


def replayed(command: tuple[str | Path, ...]) -> int:
    """Events that replay says it consumed. Fails where the check finds something: the recordings are of a sound KVM."""
    answer = subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE).stdout
    return int(json.loads(answer)["events"]["replayed"])


def per_cpu_second(row: Measurement) -> float:
    """Tape events a second of one core, start of the process and all, in the run that took least."""
    return row.events / min(run.cpu_s for run in row.runs)


def summary(rows: list[Measurement]) -> dict[str, float]:
    """The figures that TARGETS judges."""
    alone = [row for row in rows if row.what.endswith("1 process")]
    figures = {
        "tape events per CPU second": max(per_cpu_second(row) for row in alone),
        "peak memory, largest / smallest size": alone[-1].peak_mib / alone[0].peak_mib,
    }
    for row in rows:
        if row.what.endswith("2 processes"):
            one = next(other for other in alone if other.scale == row.scale)
            figures["wall time, 1 process / 2"] = one.best.wall_s / row.best.wall_s
    return figures


if __name__ == "__main__":
    main()
