"""The house stands as the design draws it."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hvtrace
from hvtrace.cli.main import COMMANDS

TOP = Path(__file__).parent.parent


@pytest.mark.parametrize("room", ["parsers", "replay"])
def test_rooms_at_the_top_level_are_reached_through_links(room: str) -> None:
    """hvtrace/parsers and hvtrace/replay are relative links to the folders beside the package."""
    link = TOP / "hvtrace" / room
    assert link.is_symlink()
    assert link.readlink() == Path("..") / room


def test_every_module_can_be_imported_and_says_what_it_is() -> None:
    """No module fails on import, and each starts with a docstring."""
    names = [
        m.name for m in pkgutil.walk_packages(hvtrace.__path__, "hvtrace.") if not m.name.endswith("__main__")
    ]
    silent = [name for name in names if not (importlib.import_module(name).__doc__ or "").strip()]
    assert silent == []


def test_help_loads_no_heavy_library() -> None:
    """`hvtrace --help` answers at once: nothing that reads tables is imported for it."""
    code = (
        "import sys; from hvtrace.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('numpy', 'pyarrow', 'polars', 'perfetto') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("name", [name for name, *_ in COMMANDS])
def test_every_command_has_help_with_an_example(name: str) -> None:
    """`hvtrace COMMAND --help` shows an example and ends with 0."""
    done = subprocess.run(
        [sys.executable, "-m", "hvtrace", name, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"hvtrace {name}" in done.stdout


@pytest.mark.parametrize("name", [name for name, *_ in COMMANDS])
def test_every_command_is_in_the_readme(name: str) -> None:
    """The README names every command."""
    assert f"hvtrace {name}" in (TOP / "README.md").read_text()


def test_no_bare_import_of_the_rooms() -> None:
    """`import parsers` would give a second copy of every class."""
    bare = [
        str(path)
        for room in ("hvtrace", "parsers", "replay", "tests", "benchmarks")
        for path in (TOP / room).rglob("*.py")
        if any(re.match(r"(import|from) (parsers|replay)\b", line) for line in path.read_text().splitlines())
    ]
    assert bare == []


def test_sample_traces_are_small_and_explained() -> None:
    """At most 25 MB, and every folder has its metadata and a row in the README."""
    folder = TOP / "sample_traces"
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 25_000_000
    readme = (folder / "README.md").read_text()
    for recording in [*(folder / "unmodified").iterdir(), *(folder / "broken").iterdir()]:
        assert (recording / "meta.json").exists()
        assert f"{recording.parent.name}/{recording.name}" in readme
