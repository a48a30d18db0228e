"""What docs/advise.md shows is what the command prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "advise.md").read_text(encoding="utf-8")
#: A command on a sample, and the indented lines that follow it.
SHOWN = re.findall(
    r"^    \$ hvtrace (advise sample_traces/[^\n|]+)\n((?:    .*\n|\n(?=    ))+)", PAGE, re.MULTILINE
)


def test_the_page_shows_real_recordings() -> None:
    """There is something to compare."""
    assert SHOWN


@pytest.mark.parametrize(("command", "shown"), SHOWN, ids=[command for command, _ in SHOWN])
def test_what_is_shown_is_what_is_printed(command: str, shown: str) -> None:
    """Line by line, in this order; "…" alone stands for lines that are left out."""
    done = subprocess.run(
        [sys.executable, "-m", "hvtrace", *command.split()],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "80", "NO_COLOR": "1"},
    )
    printed = iter(done.stdout.splitlines())
    for line in (line.removeprefix("    ") for line in shown.rstrip().splitlines()):
        assert line.strip() == "…" or line in printed, line
