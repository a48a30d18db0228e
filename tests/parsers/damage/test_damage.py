"""Damage costs the damaged part: a recording cut or changed anywhere gives what is whole, or one clear error.

The copies are read in a process with little memory and time, so that a length field that is believed shows.
Run `worker.py` by hand for one recording, one case, or more of them; HVTRACE_DAMAGE=full takes 200 cuts and
1,000 changes of each format, all the way into a store.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builders.samples import EVENTS, SAMPLES

WORKER = Path(__file__).with_name("worker.py")

FULL = os.environ.get("HVTRACE_DAMAGE") == "full"
CUTS, FLIPS = (200, 1000) if FULL else (30, 70)

#: Formats that may end anywhere between two events: what follows cannot be missed.
ENDLESS = (
    "perf.data pipe",
    "ftrace text",
    "report text",
    "perf script text",
    "QEMU log, threads",
    "QEMU log, dates",
    "QEMU log, no time",
    "QEMU simpletrace",
)

INSTANCE_EVENTS = {"trace.dat 6 with an instance": EVENTS // 2, "trace.dat 7 zstd": EVENTS // 2}


def read_damaged(recording: Path) -> list[dict[str, Any]]:
    """The worker's answers: first that of the whole recording, then one for each case."""
    command = [sys.executable, str(WORKER), str(recording), "--cuts", str(CUTS), "--flips", str(FLIPS)]
    command += ["--ingest"] if FULL else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    answers = [line for line in lines if {"events", "error", "failure"} & line.keys()]
    assert len(answers) == 1 + CUTS + FLIPS, (
        f"ended in {lines[-1:]} with {done.returncode}: {done.stderr[-2000:]}"
    )
    return answers


@pytest.mark.parametrize("name", SAMPLES)
def test_damage_costs_the_damaged_part(name: str, tmp_path: Path) -> None:
    """No exception but InputError, no hang, no memory because a length asks for it; what is cut is said."""
    path = tmp_path / "recording"
    path.write_bytes(SAMPLES[name]())
    whole, *cases = read_damaged(path)
    assert whole["events"] == EVENTS + INSTANCE_EVENTS.get(name, 0)

    failures = [f"{c['case']} (seed {c['seed']})\n{c['failure']}" for c in cases if "failure" in c]
    assert not failures, f"{len(failures)} cases failed, first: {failures[0]}"

    cuts = [c for c in cases if c["case"].startswith("cut") and "events" in c]
    unsaid = [c["case"] for c in cuts if c["events"] < whole["events"] and not c["reported"]]
    assert not unsaid or name in ENDLESS, "events are cut off and nothing is said"
