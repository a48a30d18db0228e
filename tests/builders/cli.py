"""Runs the program as a user does: in a process of its own, in a terminal of so many columns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["hvtrace"]


def hvtrace(*words: str | Path, cwd: Path, columns: int = 80) -> subprocess.CompletedProcess[str]:
    """Run `hvtrace WORDS` in the folder `cwd`; its output is text."""
    return subprocess.run(
        [sys.executable, "-m", "hvtrace", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(cwd),
            "COLUMNS": str(columns),
            "NO_COLOR": "1",
            "LC_ALL": "C.UTF-8",
        },
    )
