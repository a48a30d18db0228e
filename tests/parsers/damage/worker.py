"""Reads damaged copies of a recording under limits of memory and CPU time, in a process of its own.

    python tests/parsers/damage/worker.py RECORDING [--cuts 200] [--flips 1000] [--seed 1] [--case KIND:N]
    python tests/parsers/damage/worker.py RECORDING --words

Each case damages the recording in one way that its kind, its number and the seed decide: a cut, a flip, or with
`--words` a large number at every place in turn. Prints one JSON
object a case, before and after it, so that the case that killed the process is known.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from hvtrace.errors import HvtraceError
from hvtrace.parsers.open import open_recording
from hvtrace.pipeline.ingest import ingest

#: Address space a case may take beyond what the process has at the start.
MEMORY = 1 << 30
#: CPU seconds a case may take; of the whole process, in case the first limit is never looked at.
CASE_SECONDS, SLACK_SECONDS = 20, 120

#: Values that a damaged length field is likely to hang on.
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF)
#: The same for the words of `--words`, by seed.
WORDS = (0xFFFFFFFF, 0x7FFFFFFF, 0x00FFFFFF, 0)
#: How many bytes at most a recording's own damage report may hold.
MAX_REPORT = 1 << 20


def damaged(data: bytes, kind: str, number: int, seed: int) -> bytes:
    """The recording cut at a random place, or with one byte (of every fourth case: a run of them) changed."""
    chance = random.Random(f"{seed} {kind} {number}")
    if kind == "cut":
        return data[: chance.randrange(len(data))]
    out = bytearray(data)
    if kind == "word":
        out[number : number + 4] = WORDS[seed % len(WORDS)].to_bytes(4, "little")
        return bytes(out[: len(data)])
    at = _somewhere(data, chance, in_head=number % 2 == 0)
    if number % 4 == 3:
        run = bytes([chance.choice(EXTREMES)]) * chance.choice((2, 4, 8))
        out[at : at + len(run)] = run[: len(data) - at]
    else:
        out[at] ^= chance.randrange(1, 256)
    return bytes(out)


def _somewhere(data: bytes, chance: random.Random, *, in_head: bool) -> int:
    """A random place: `in_head` in the first quarter, where headers are; seldom amid zeros."""
    reach = max(len(data) // 4, 1) if in_head else len(data)
    at = 0
    for _ in range(4):
        at = chance.randrange(reach)
        if data[at]:
            break
    return at


def read(path: Path) -> dict[str, object]:
    """Read a whole recording: how many events it gave and how much it says is wrong, or its one error."""
    try:
        recording = open_recording(path)
    except HvtraceError as error:
        return {"error": str(error)}
    try:
        events = 0
        for window in recording.windows():
            for table in window.tables.values():
                table.validate(full=True)
            assert window.events == sum(t.num_rows for t in window.tables.values())
            events += window.events
        assert sum(len(d.message) for d in recording.damage) < MAX_REPORT
        reported = len(recording.damage) + recording.not_understood.count
        return {"events": events, "reported": reported}
    except HvtraceError as error:
        return {"error": str(error)}
    finally:
        recording.close()


def ingested(path: Path) -> dict[str, object]:
    """The same, all the way into a store; an error leaves none behind."""
    store = path.with_suffix(".hvt")
    try:
        manifest = ingest([path], store, force=True)
        (source,) = manifest.sources
        found = source["damaged"] + source["not_understood"]["count"]
        return {"events": manifest.total, "reported": found}
    except HvtraceError as error:
        assert os.listdir(path.parent) == [path.name], "an error left something behind"
        return {"error": str(error)}
    finally:
        shutil.rmtree(store, ignore_errors=True)


def _too_long(signum: int, frame: FrameType | None) -> None:
    raise RuntimeError(f"more than {CASE_SECONDS} s of CPU time")


def run_case(
    data: bytes, kind: str, number: int, seed: int, folder: Path, reader: Callable[[Path], dict[str, object]]
) -> dict[str, object]:
    """Damage and read. The answer has `failure`, a traceback, where something else than allowed came."""
    path = folder / "damaged"
    path.write_bytes(damaged(data, kind, number, seed))
    signal.setitimer(signal.ITIMER_PROF, CASE_SECONDS)
    try:
        return reader(path)
    except (Exception, MemoryError):
        return {"failure": traceback.format_exc(limit=-8)}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def limit_resources(cases: int) -> None:
    """Limit memory to what is in use now plus MEMORY."""
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY, in_use + MEMORY))
    seconds = cases + SLACK_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def wanted(arguments: argparse.Namespace) -> Iterator[tuple[str, int]]:
    if arguments.case:
        kind, _, number = arguments.case.partition(":")
        yield kind, int(number)
        return
    if arguments.words:
        yield from (("word", at) for at in range(arguments.recording.stat().st_size))
        return
    yield from (("cut", n) for n in range(arguments.cuts))
    yield from (("flip", n) for n in range(arguments.flips))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recording", type=Path)
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", help="this one only, e.g. flip:17")
    parser.add_argument("--words", action="store_true", help="a large number at every place")
    parser.add_argument("--ingest", action="store_true", help="read it into a store")
    parser.add_argument("--failures", action="store_true", help="print only what failed")
    arguments = parser.parse_args()
    warnings.simplefilter("error")
    signal.signal(signal.SIGPROF, _too_long)
    data = arguments.recording.read_bytes()
    # Everything that is imported or started on first use is there before the limit is set.
    reader = ingested if arguments.ingest else read
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged"
        path.write_bytes(data)
        whole = reader(path)
    print(json.dumps({"case": "whole", **whole}), flush=True)
    cases = list(wanted(arguments))
    limit_resources(len(cases))
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for kind, number in cases:
            name = {"case": f"{kind}:{number}", "seed": arguments.seed}
            if not arguments.failures:
                print(json.dumps(name), flush=True)
            answer = run_case(data, kind, number, arguments.seed, Path(folder), reader)
            failed += "failure" in answer
            if "failure" in answer or not arguments.failures:
                print(json.dumps({**name, **answer}), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
