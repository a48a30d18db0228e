"""Recordings with holes and without their beginning: nothing diverges, and almost as much is judged as before."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from recordings import get

from hvtrace.pipeline.check import Options, prepare, tape_of
from hvtrace.pipeline.ingest import ingest
from hvtrace.replay.engine import Engine, Loss
from hvtrace.replay.tape import Event
from hvtrace.replay.verdict import Severity
from hvtrace.store import Store

NAMES = (
    "baseline-hvmut-msr",
    "baseline-hvmut-stimer",
    "kut-hyperv_synic",
    "linux-6.12-kut-hyperv_synic",
    "two-vms",
)

#: What is to be judged, and by how much the share may fall.
TOLD = ("kvm_hv_", "kvm_msr", "kvm_hypercall", "kvm_pv_eoi", "kvm_halt_poll_ns", "kvm_vcpu_wakeup")
FALL = 0.10
#: Events at the beginning of a recording that cannot be judged before others were seen.
FEW = 100

#: The seeds of one recording.
SEEDS = 4


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory):
    """A recording's store, its tape, and the CPU of each event of the tape."""
    folder = tmp_path_factory.mktemp("chaos")

    @cache
    def load(name: str) -> tuple[Store, list[Event], np.ndarray]:
        path = folder / f"{name}.hvt"
        ingest([get(name) / "trace.dat"], path)
        store = Store(path)
        tape = [event for window in tape_of(store) for event in window]
        cpus = np.zeros(store.manifest.total, np.int64)
        for table in Path(store.path, "events").glob("*.parquet"):
            columns = store.parquet(table.stem).read(["seq", "cpu"])
            cpus[columns["seq"].to_numpy()] = columns["cpu"].to_numpy()
        return store, tape, cpus[[event[0] for event in tape]]

    return load


def told(tape: list[Event]) -> int:
    """Number of events that are to be judged."""
    return sum(event[2].startswith(TOLD) for event in tape)


def replayed(store: Store, tape: list[Event], losses: list[Loss]) -> tuple[list[str], int]:
    """The errors, and how much of what is to be judged was."""
    bench = prepare(store, Options())[0].bench
    engine = Engine(bench, losses)
    engine.run(tape)
    engine.finish()
    judge = bench.judge
    judged = sum(count for name, count in judge.judged.items() if name.startswith(TOLD))
    errors = [d for d in judge.divergences.values() if d.severity is Severity.ERROR]
    return [f"{found.rule} at {found.seq}: {found.message}" for found in errors], judged


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("name", NAMES)
def test_windows_are_lost(name: str, seed: int, loaded) -> None:
    """Up to six windows of up to 3 % of the time removed, on one CPU or on all, and declared as lost."""
    store, tape, cpus = loaded(name)
    stamps = np.array([event[1] for event in tape])
    chance = random.Random(f"{name} {seed}")
    first, span = int(stamps[0]), int(stamps[-1] - stamps[0])
    kept, losses = np.ones(len(tape), bool), []
    for _ in range(chance.randint(1, 6)):
        begin = first + int(span * chance.random())
        end = begin + int(span * chance.random() * 0.03)
        on = cpus >= 0 if seed % 2 else cpus == chance.choice(sorted(set(cpus)))
        kept &= ~(on & (stamps >= begin) & (stamps < end))
        losses.append((begin - 1, end))
    rest = [event for event, keep in zip(tape, kept, strict=True) if keep]
    outside = [event for event in rest if not any(begin <= event[1] <= end for begin, end in losses)]
    errors, judged = replayed(store, rest, losses)
    assert errors == []
    # What lies on another CPU inside a window is not judged: the share is that of the rest.
    share = replayed(store, tape, [])[1] / told(tape)
    assert judged >= (share - FALL) * told(outside)


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("name", NAMES)
def test_the_beginning_is_missing(name: str, seed: int, loaded) -> None:
    """A recording that was started late, at a random moment of its first nine tenths."""
    store, tape, _ = loaded(name)
    begin = tape[0][1] + int((tape[-1][1] - tape[0][1]) * 0.9 * random.Random(f"{name} {seed}").random())
    rest = [event for event in tape if event[1] >= begin]
    errors, judged = replayed(store, rest, [])
    assert errors == []
    # The same events of the whole recording.
    known = replayed(store, tape, [])[1] - replayed(store, [e for e in tape if e[1] < begin], [])[1]
    assert judged >= known - max(FALL * told(rest), FEW)
