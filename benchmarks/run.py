"""Measures hvtrace on large recordings, side by side with the tools that wrote them.

    python benchmarks/run.py [--events 5000000] [--quick]

Builds recordings of any size by repeating a real one, then measures in one run: ingest of trace.dat against
`trace-cmd report`, ingest of perf.data against `perf script`, ingest of their text, memory at 1x, 4x and 16x,
and `hvtrace --help`. Prints tables and writes all figures as JSON. Real recordings are looked for in
$HVTRACE_RECORDINGS (default sample_traces/).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from measure import Measurement, alternate, run

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

#: The recording that is taken where the folder has it: a booting Linux guest with all enlightenments.
PREFERRED = "linux-hv"
#: Sizes: the first has the events asked for and is compared with the other tools; memory is looked at in all.
SCALES = (1, 4, 16)
COMPARED = 1
HELP_RUNS = 5

#: What must hold: figure, bound, whether the figure must be at least or at most that.
TARGETS = (
    ("trace.dat ingest / trace-cmd report", 5.0, ">="),
    ("perf.data ingest / perf script", 5.0, ">="),
    ("report text ingest / trace.dat ingest", 1 / 3, ">="),
    ("perf text ingest / perf.data ingest", 1 / 3, ">="),
    ("trace.dat peak memory 16x / 1x", 1.5, "<="),
    ("perf.data peak memory 16x / 1x", 1.5, "<="),
    ("peak memory of any ingest, MiB", 1024.0, "<="),
    ("hvtrace --help, s", 0.3, "<="),
)


@dataclass(frozen=True)
class Kind:
    """A binary format: the name of its recordings, its tool's command, what its text is called."""

    name: str
    pattern: str
    tool: tuple[str, ...]
    text: str


KINDS = (
    Kind("trace.dat", "trace.dat", ("trace-cmd", "report", "-i"), "report text"),
    Kind("perf.data", "perf.data*", ("perf", "script", "-i"), "perf text"),
)


@dataclass(frozen=True)
class Recording:
    """A built recording."""

    path: Path
    events: int


class Bench:
    """One benchmark run: where its files go and what it has measured."""

    def __init__(self, work: Path, rounds: int) -> None:
        self.work = work
        self.rounds = rounds
        self.log = work / "stderr.log"
        self.hvtrace = shutil.which("hvtrace", path=str(Path(sys.executable).parent)) or "hvtrace"
        self.rows: list[Measurement] = []

    def build(self, source: Path, name: str, times: int, *, text: bool = False) -> Recording:
        """Repeat a recording, in a process of its own: its memory would count as its children's."""
        target = self.work / name
        command: list[str | Path] = [
            sys.executable,
            HERE / "amplify.py",
            source,
            target,
            "--times",
            str(times),
        ]
        command += ["--text"] if text else []
        done = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        return Recording(target, done["events"])

    def ingest(self, recording: Recording) -> Sequence[str | Path]:
        """The command that ingests it."""
        return (self.hvtrace, "ingest", recording.path, "-o", self.store, "--force")

    @property
    def store(self) -> Path:
        """Where every ingest writes."""
        return self.work / "out.hvt"

    def measure(
        self, recording: Recording, scale: int, commands: dict[str, Sequence[str | Path]], rounds: int
    ) -> None:
        """Run the commands in turn over one recording and print a row for each."""
        size = recording.path.stat().st_size
        for what, runs in alternate(commands, rounds, self.log).items():
            self.rows.append(Measurement(what, scale, recording.events, size, runs))
            print(row(self.rows[-1]), flush=True)

    def events_in_store(self) -> int:
        """What `hvtrace info` says of the store that was written last."""
        command = [self.hvtrace, "info", str(self.store), "--output-format", "json"]
        answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        return sum(answer["events"].values())

    def find(self, what: str, scale: int) -> Measurement:
        """The measurement of that name and size."""
        return next(m for m in self.rows if m.what == what and m.scale == scale)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--events", type=int, default=5_000_000, help="events of the recordings that are compared"
    )
    parser.add_argument("--rounds", type=int, default=3, help="times each command is run")
    parser.add_argument(
        "--quick", action="store_true", help="200,000 events, one round: does the harness work?"
    )
    parser.add_argument("--only", choices=[k.name for k in KINDS], help="one format only")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=SCALES, help="sizes to measure (default: 1 4 16)"
    )
    parser.add_argument("--work", type=Path, help="folder for large files (default: a temporary one)")
    parser.add_argument("--json", type=Path, default=HERE / "results.json", help="where the figures go")
    arguments = parser.parse_args()
    events, rounds = (200_000, 1) if arguments.quick else (arguments.events, arguments.rounds)
    with tempfile.TemporaryDirectory(prefix="hvtrace-bench-", dir=arguments.work) as work:
        bench = Bench(Path(work), rounds)
        print(HEADER)
        for kind in KINDS:
            if arguments.only in (None, kind.name):
                compare(bench, kind, find_source(kind), events, sorted({COMPARED, *arguments.sizes}))
        help_s = min(run((bench.hvtrace, "--help"), bench.log).wall_s for _ in range(HELP_RUNS))
    figures = summary(bench, help_s)
    print("\n" + "\n".join(verdict(*t, figures[t[0]]) for t in TARGETS if t[0] in figures))
    answer = {
        "machine": machine(),
        "rounds": rounds,
        "measurements": [m.as_json() for m in bench.rows],
        "figures": {name: round(value, 3) for name, value in figures.items()},
    }
    arguments.json.write_text(json.dumps(answer, indent=1) + "\n")


def find_source(kind: Kind) -> Path:
    """The recording to repeat: the preferred one, else the largest."""
    folder = Path(os.environ.get("HVTRACE_RECORDINGS", ROOT / "sample_traces"))
    found = [p for p in folder.rglob(kind.pattern) if p.is_file()]
    if not found:
        raise SystemExit(f"no {kind.name} under {folder}")
    return max(found, key=lambda p: (p.parent.name == PREFERRED, p.stat().st_size, p.name))


def compare(bench: Bench, kind: Kind, source: Path, events: int, scales: Sequence[int]) -> None:
    """All measurements of one format: all sizes, its tool and its text at the first."""
    once = bench.build(source, "once", 1).events
    times = {scale: -(-events // once) * scale for scale in scales}
    print(f"{kind.name}: {source.parent.name}, {once:,} events")
    for scale in scales:
        recording = bench.build(source, kind.name, times[scale])
        commands: dict[str, Sequence[str | Path]] = {f"{kind.name} ingest": bench.ingest(recording)}
        if scale == COMPARED:
            commands[" ".join(kind.tool[:2])] = (*kind.tool, recording.path)
        bench.measure(recording, scale, commands, bench.rounds if scale == COMPARED else 1)
        stored = bench.events_in_store()
        if stored != recording.events:
            raise SystemExit(f"the store has {stored} events, the recording {recording.events}")
        recording.path.unlink()
    text = bench.build(source, f"{kind.name}.txt", times[COMPARED], text=True)
    text = replace(text, events=count_lines(text.path))
    bench.measure(text, COMPARED, {f"{kind.text} ingest": bench.ingest(text)}, bench.rounds)
    if bench.events_in_store() < text.events * 0.999:
        raise SystemExit(f"the store has {bench.events_in_store()} events, the text {text.events}")
    text.path.unlink()


def count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def summary(bench: Bench, help_s: float) -> dict[str, float]:
    """The figures that TARGETS judges, as far as they were measured."""
    figures: dict[str, float] = {}
    for kind in KINDS:
        ingest, tool, text = f"{kind.name} ingest", " ".join(kind.tool[:2]), f"{kind.text} ingest"
        if not any(m.what == ingest for m in bench.rows):
            continue
        binary = bench.find(ingest, COMPARED)
        figures[f"{ingest} / {tool}"] = binary.events_per_s / bench.find(tool, COMPARED).events_per_s
        figures[f"{text} / {ingest}"] = bench.find(text, COMPARED).events_per_s / binary.events_per_s
        peaks = [m.peak_mib for m in bench.rows if m.what == ingest and m.scale in (SCALES[0], SCALES[-1])]
        if len(peaks) == 2:
            figures[f"{kind.name} peak memory 16x / 1x"] = peaks[1] / peaks[0]
    figures["peak memory of any ingest, MiB"] = max(
        m.peak_mib for m in bench.rows if m.what.endswith("ingest")
    )
    figures["hvtrace --help, s"] = help_s
    return figures


HEADER = (
    f"{'':<20} {'size':>4} {'events':>12} {'MB':>7} {'wall s':>8} {'CPU s':>8} {'events/s':>11} {'MiB':>9}"
)


def row(m: Measurement) -> str:
    return (
        f"{m.what:<20} {m.scale:>3}x {m.events:>12,} {m.size / 1e6:>7.0f} {m.best.wall_s:>8.2f} "
        f"{m.best.cpu_s:>8.2f} {m.events_per_s:>11,.0f} {m.peak_mib:>9.0f}"
    )


def verdict(name: str, bound: float, relation: str, value: float) -> str:
    met = value >= bound if relation == ">=" else value <= bound
    return f"{'met   ' if met else 'MISSED'}  {name:<40} {value:>9.2f}   target {relation} {bound:.2f}"


def machine() -> dict[str, str | int | None]:
    """What the figures depend on."""
    cpu = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        "",
    )
    memory = next((line.split(":", 1)[1].strip() for line in _lines("/proc/meminfo")), "")
    versions = {
        tool: subprocess.run([tool, "--version"], capture_output=True, text=True).stdout
        for tool in ("trace-cmd", "perf")
    }
    first = {
        tool: next((s.strip() for s in text.splitlines() if s.strip()), "") for tool, text in versions.items()
    }
    return {
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "memory": memory,
        "kernel": platform.release(),
        "python": platform.python_version(),
        **first,
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


if __name__ == "__main__":
    main()
