"""Measures the analyses on stores of 10 million events: `exits` beside `perf kvm stat report`, then all others.

    python benchmarks/analyses.py [--events 10000000] [--quick]

Repeats a real perf.data, ingests it, and runs `hvtrace exits` and `perf kvm stat report` over it in turn, after the
samples of both were compared; then every other question one can ask of it, and of a recording that has the scheduler's
events as well. Prints a table and writes all figures as JSON. The recordings are looked for in $HVTRACE_RECORDINGS
(default sample_traces/).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from measure import Measurement
from run import HEADER, KINDS, Bench, find_source, machine, verdict

__all__ = ["main"]

HERE = Path(__file__).resolve().parent

PERF = "perf kvm stat report"
OURS = "exits"
#: What else is measured: command, and arguments behind the store. "STORE" among them is the store once more.
QUESTIONS = (
    ("exits", "--by", "msr"),
    ("exits", "--by", "vcpu", "--by", "vector"),
    ("exits", "--event", "mmio"),
    ("exits", "--event", "ioport"),
    ("exits", "--interval", "1s", "--histogram"),
    ("exits", "--than", "5ms"),
    ("latency",),
    ("latency", "--by", "vcpu", "--histogram"),
    ("halt-poll",),
    ("halt-poll", "--sweep", "auto"),
    ("advise",),
    ("query", "SELECT vm, vcpu, exit_reason_name, count(*) AS n FROM kvm_exit GROUP BY ALL"),
    ("diff", "STORE"),
    ("diff", "STORE", "--align"),
)

#: A recording with sched_switch and sched_wakeup: its preemptions and wake-ups are looked at as well.
SCHEDULED = ("linux-hv-sched", (("latency",), ("halt-poll",), ("advise",)))

#: What must hold: figure, bound, whether the figure must be at least or at most that.
TARGETS = (
    ("perf kvm stat report / exits", 1.0, ">="),
    ("slowest question, s", 2.0, "<="),
    ("slowest diff, s", 4.0, "<="),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=10_000_000, help="events of the recording")
    parser.add_argument("--rounds", type=int, default=3, help="times each command is run")
    parser.add_argument("--quick", action="store_true", help="small, one round: does the harness work?")
    parser.add_argument("--work", type=Path, help="folder for large files (default: a temporary one)")
    parser.add_argument("--json", type=Path, default=HERE / "analyses.json", help="where the figures go")
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
    bench.measure(recording, 1, commands(bench, QUESTIONS), bench.rounds)
    recording.path.unlink()
    name, questions = SCHEDULED
    found = [p for p in source.parents[1].glob(f"{name}/{kind.pattern}") if p.is_file()]
    if not found:
        print(f"no {name}: preemptions are not measured")
        return
    once = bench.build(found[0], "once", 1).events
    recording = bench.build(found[0], kind.name, -(-events // once))
    subprocess.run([*map(str, bench.ingest(recording))], check=True, stdout=subprocess.DEVNULL)
    bench.measure(recording, 1, commands(bench, questions, f" ({name})"), bench.rounds)


def commands(
    bench: Bench, questions: Sequence[tuple[str, ...]], told: str = ""
) -> dict[str, Sequence[str | Path]]:
    """By what is measured: the command line."""
    return {
        " ".join((command, *(word if len(word) < 20 else "…" for word in words))) + told: (
            bench.hvtrace,
            command,
            bench.store,
            *(bench.store if word == "STORE" else word for word in words),
        )
        for command, *words in questions
    }


def summary(bench: Bench) -> dict[str, float]:
    """The figures that TARGETS judges."""

    def best(row: Measurement) -> float:
        return row.best.wall_s

    ours = [row for row in bench.rows if row.what != PERF and not row.what.startswith("diff")]
    diffs = [row for row in bench.rows if row.what.startswith("diff")]
    return {
        "perf kvm stat report / exits": best(bench.find(PERF, 1)) / best(bench.find(OURS, 1)),
        "slowest question, s": max(map(best, ours)),
        # Two stores of that size.
        "slowest diff, s": max(map(best, diffs)),
    }


if __name__ == "__main__":
    main()
