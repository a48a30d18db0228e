"""What `perf kvm stat report` says of a perf.data."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

__all__ = ["perf"]

#: Name, samples, their share, share of the time, min, max, mean, deviation.
LINE = re.compile(
    r"\s*(\S.*?)\s+(\d+)\s+([\d.]+)%\s+([\d.]+)%\s+([\d.]+)us\s+([\d.]+)us\s+([\d.]+)us \( \+-\s*([\d.]+)% \)"
)


def perf(path: Path, event: str, *more: str) -> tuple[dict[str, tuple[str, ...]], tuple[str, str]]:
    """What `perf kvm stat report` prints: rows by name, and the line of totals."""
    if shutil.which("perf") is None:
        pytest.skip("perf is not installed (Debian: linux-perf)")
    command = ["perf", "kvm", "--host", "-i", str(path), "stat", "report", f"--event={event}", *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    text = done.stdout + done.stderr
    if "is not a perf-command" in text:
        pytest.skip("this perf has no `perf kvm stat`")
    total = re.search(r"Total Samples:(\d+), Total events handled time:([\d.]+)us", text)
    assert total is not None, text
    found = [match.groups() for match in map(LINE.fullmatch, text.splitlines()) if match]
    rows = {name: tuple(figures) for name, *figures in found}
    assert len(rows) == len(found)
    return rows, (total[1], total[2])
