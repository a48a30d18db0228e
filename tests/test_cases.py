"""What docs/cases.md shows is what the program prints: each command in it is run."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: A line of a block that stands for lines left out.
LEFT_OUT = "…"


def commands() -> list[tuple[str, list[str]]]:
    """The command lines of the page, each with the lines shown below it."""
    found: list[tuple[str, list[str]]] = []
    inside = False
    for line in (ROOT / "docs/cases.md").read_text().splitlines():
        if line.startswith("    $ hvtrace "):
            found.append((line.removeprefix("    $ "), []))
            inside = True
        elif inside and (line.startswith("    ") or not line.strip()):
            found[-1][1].append(line[4:])
        else:
            inside = False
    return [(command, _stripped(lines)) for command, lines in found]


def _stripped(lines: list[str]) -> list[str]:
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def pieces(lines: list[str]) -> list[list[str]]:
    """The lines between those that stand for lines left out."""
    result: list[list[str]] = [[]]
    for line in lines:
        if line.strip() == LEFT_OUT:
            result.append([])
        else:
            result[-1].append(line.rstrip())
    return [piece for piece in result if piece]


@pytest.mark.parametrize(("command", "shown"), commands(), ids=[command for command, _ in commands()])
def test_a_command_prints_what_the_page_shows(command: str, shown: list[str]) -> None:
    """The pieces shown stand in the output, in their order, line by line."""
    words = [sys.executable, "-m", "hvtrace", *shlex.split(command)[1:]]
    environment = os.environ | {"COLUMNS": "80", "NO_COLOR": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    printed = [line.rstrip() for line in done.stdout.splitlines()]
    at = 0
    for piece in pieces(shown):
        starts = range(at, len(printed) - len(piece) + 1)
        found = next((start for start in starts if printed[start : start + len(piece)] == piece), None)
        assert found is not None, "\n".join(["not printed, or not in this order:", *piece])
        at = found + len(piece)


def test_the_page_tells_three_cases() -> None:
    """A storm, a late timer, a polling host; each with commands that are run here."""
    assert len(commands()) >= 6
