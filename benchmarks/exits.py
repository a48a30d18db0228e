"""Measures `hvtrace exits` on a large store, side by side with `perf kvm stat report` on the recording it was made of.

    python benchmarks/exits.py [--events 10000000] [--quick]

Repeats a real perf.data, ingests it, and runs both over it in turn; then the other questions one can ask. Before that,
the samples of both are compared. Prints a table and writes all figures as JSON. The recording is looked for in
$HVTRACE_RECORDINGS (default sample_traces/).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path

from measure import Measurement
from run import HEADER, KINDS, Bench, find_source, machine, verdict

__all__ = ["main"]

HERE = Path(__file__).resolve().parent

PERF = "perf kvm stat report"
OURS = "exits"
#: What else is measured: arguments of `hvtrace exits`.
QUESTIONS = (
    ("--by", "msr"),
    ("--by", "vcpu", "--by", "vector"),
    ("--event", "mmio"),
    ("--event", "ioport"),
    ("--interval", "1s", "--histogram"),
    ("--than", "5ms"),
)

#: What must hold: figure, bound, whether the figure must be at least or at most that.
TARGETS = (("perf kvm stat report / exits", 1.0, ">="), ("slowest question, s", 2.0, "<="))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=10_000_000, help="events of the recording")
    parser.add_argument("--rounds", type=int, default=3, help="times each command is run")
    parser.add_argument("--quick", action="store_true", help="small, one round: does the harness work?")
    parser.add_argument("--work", type=Path, help="folder for large files (default: a temporary one)")
    parser.add_argument("--json", type=Path, default=HERE / "exits.json", help="where the figures go")
    arguments = parser.parse_args()
    events, rounds = (200_000, 1) if arguments.quick else (arguments.events, arguments.rounds)
    with tempfile.TemporaryDirectory(prefix="hvtrace-bench-", dir=arguments.work) as work:
        bench = Bench(Path(work), rounds)
        print(HEADER)
        measure(bench, events)
    figures = summary(bench)
    print("\n" + "\n".join(verdict(*target, figures[target[0]]) for target in TARGETS))
    answer = {
        "machine": machine(),
        "rounds": rounds,
        "measurements": [row.as_json() for row in bench.rows],
        "figures": {name: round(value, 3) for name, value in figures.items()},
    }
    arguments.json.write_text(json.dumps(answer, indent=1) + "\n")


def measure(bench: Bench, events: int) -> None:
    """All measurements."""
    kind = next(kind for kind in KINDS if kind.name == "perf.data")
    source = find_source(kind)
    once = bench.build(source, "once", 1).events
    recording = bench.build(source, kind.name, -(-events // once))
    subprocess.run([*map(str, bench.ingest(recording))], check=True, stdout=subprocess.DEVNULL)
    perf = ("perf", "kvm", "--host", "-i", recording.path, "stat", "report", "--event=vmexit")
    ours = (bench.hvtrace, "exits", bench.store)
    printed = subprocess.run([*map(str, perf)], check=True, capture_output=True, text=True)
    samples = re.search(r"Total Samples:(\d+)", printed.stdout + printed.stderr)
    answer = subprocess.run(
        [*map(str, ours), "--output-format", "json"], check=True, stdout=subprocess.PIPE
    ).stdout
    counted = json.loads(answer)
    # perf pairs the last exit of a round with the first entry of the next: the thread is the same, the VM is not.
    most = counted["count"] + sum(counted["excluded"].values())
    if samples is None or not counted["count"] <= int(samples[1]) <= most:
        raise SystemExit(f"perf has {samples and samples[1]} samples, hvtrace {counted['count']}")
    print(f"{source.parent.name}, {counted['count']:,} exits")
    bench.measure(recording, 1, {OURS: ours, PERF: perf}, bench.rounds)
    questions = {" ".join((OURS, *words)): (*ours, *words) for words in QUESTIONS}
    bench.measure(recording, 1, questions, bench.rounds)


def summary(bench: Bench) -> dict[str, float]:
    """The figures that TARGETS judges."""

    def best(row: Measurement) -> float:
        return row.best.wall_s

    ours = [row for row in bench.rows if row.what != PERF]
    return {
        "perf kvm stat report / exits": best(bench.find(PERF, 1)) / best(bench.find(OURS, 1)),
        "slowest question, s": max(map(best, ours)),
    }


if __name__ == "__main__":
    main()
