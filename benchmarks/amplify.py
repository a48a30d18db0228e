"""Makes a large recording by repeating a real one in time.

    python benchmarks/amplify.py RECORDING OUT --times N
    python benchmarks/amplify.py RECORDING OUT --times N --text

A trace.dat (version 6 or 7) gives a trace.dat of version 6, a perf.data a perf.data; with `--text` OUT is
what `trace-cmd report` or `perf script` prints of that. Prints what was written as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from dataclasses import asdict
from pathlib import Path

import zstandard
from repeat_perf_data import repeat_perf_data
from repeat_trace_dat import Repeated, repeat_trace_dat

__all__ = ["amplify", "main", "print_text"]

PERF_MAGIC = b"PERFILE2"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def amplify(source: Path, target: Path, times: int) -> Repeated:
    """Repeat a trace.dat or an (unpacked or zstd-packed) perf.data `times` times."""
    with source.open("rb") as file:
        magic = file.read(8)
    if magic.startswith(ZSTD_MAGIC):
        plain = target.with_suffix(".unpacked")
        try:
            with source.open("rb") as packed, plain.open("wb") as unpacked:
                zstandard.ZstdDecompressor().copy_stream(packed, unpacked)
            return amplify(plain, target, times)
        finally:
            plain.unlink(missing_ok=True)
    return (repeat_perf_data if magic == PERF_MAGIC else repeat_trace_dat)(source, target, times)


def print_text(recording: Path, target: Path) -> None:
    """Write what the recording's own tool prints of it."""
    with recording.open("rb") as file:
        is_perf = file.read(8) == PERF_MAGIC
    command = ["perf", "script", "-i"] if is_perf else ["trace-cmd", "report", "-i"]
    with target.open("wb") as out:
        subprocess.run([*command, str(recording)], check=True, stdout=out, stderr=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recording", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--text", action="store_true")
    arguments = parser.parse_args()
    if not arguments.text:
        print(json.dumps(asdict(amplify(arguments.recording, arguments.out, arguments.times))))
        return
    binary = arguments.out.with_suffix(".binary")
    try:
        done = amplify(arguments.recording, binary, arguments.times)
        print_text(binary, arguments.out)
        print(json.dumps({**asdict(done), "size": arguments.out.stat().st_size}))
    finally:
        binary.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
