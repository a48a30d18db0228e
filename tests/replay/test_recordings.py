"""Real recordings: an unmodified KVM never diverges, a broken one is found where it shows."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from recordings import BROKEN, UNMODIFIED, get

from hvtrace.pipeline import check as checking
from hvtrace.pipeline.check import CheckResult, Options, check
from hvtrace.pipeline.ingest import ingest
from hvtrace.render.verdicts import as_json
from hvtrace.replay import tape
from hvtrace.replay.engine import Engine, Loss
from hvtrace.replay.judge import Judge
from hvtrace.replay.model.clock import Stamps
from hvtrace.replay.model.machine import Bench
from hvtrace.replay.profile import profile_for
from hvtrace.replay.rules import RULES
from hvtrace.replay.verdict import Divergence, Severity
from hvtrace.store import Store

#: Nearly every event of these must be judged, except where the recording lacks what they rest on.
INTERFACE = re.compile(r"kvm_msr|kvm_hv_(?=\w)|kvm_hypercall|kvm_pv_eoi|kvm_halt_poll_ns|kvm_vcpu_wakeup")
# Of the interface, the last two have next to nothing: the ends of timers that nobody started; seven MSR accesses, of
# which three read what the host had set.
POOR = ("lossy", "selftest-hyperv_features", "selftest-hyperv_svm_test", "linux-hv-min-boot")
#: How far a dump's stamp may lie from the recording's.
NEAR_NS = 100_000


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory):
    """Stores of recordings, each made once."""
    folder = tmp_path_factory.mktemp("stores")

    @cache
    def store(recording: Path) -> Store:
        path = folder / f"{recording.parent.name}-{recording.name}.hvt"
        ingest([recording / "trace.dat"], path)
        return Store(path)

    return store


def told(divergences: list[Divergence]) -> list[str]:
    return [f"{found.rule} at {found.ts_ns}: {found.message}" for found in divergences]


def errors(result: CheckResult) -> list[Divergence]:
    """What is not merely a warning."""
    return [found for found in result.divergences if found.severity is Severity.ERROR]


@pytest.mark.parametrize("recording", UNMODIFIED, ids=lambda path: path.name)
def test_an_unmodified_kvm_never_diverges(recording: Path, stores) -> None:
    """No rule finds an error, and nearly every event of the interface is judged."""
    result = check(stores(recording))
    assert told(errors(result)) == []
    assert result.verdict == "clean"
    if recording.name in POOR:
        return
    totals: Counter[str] = Counter()
    judged: Counter[str] = Counter()
    for name, total in result.totals.items():
        if group := INTERFACE.match(name):
            totals[group[0]] += total
            judged[group[0]] += result.judged[name]
    assert {name for name, total in totals.items() if total and judged[name] / total < 0.95} == set()


@pytest.mark.parametrize("recording", BROKEN, ids=lambda path: path.name)
def test_a_broken_kvm_is_found_at_the_event_that_shows_it(recording: Path, stores) -> None:
    """One divergence, of a rule of one of its families, at the first event that shows the fault."""
    mutant = json.loads((recording / "mutant.json").read_text())
    result = check(stores(recording))
    assert len(result.divergences) == 1, told(result.divergences)
    found = result.divergences[0]
    assert found.severity is Severity.ERROR
    example = mutant["visible_as"]["example"]
    assert found.rule[:3] in mutant["families"]
    assert re.search(rf"\b{found.tracepoint}:", example["line"])
    assert abs(found.ts_ns - round(float(example["timestamp"]) * 1e9)) <= NEAR_NS


def test_the_same_tape_gives_the_same_bytes(stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts do not depend on the run, nor on how many rows are read at a time."""
    store = stores(get("013-periodic-drift"))
    first = as_json(check(store))
    assert as_json(check(store)) == first
    monkeypatch.setattr(tape, "BATCH", 97)
    assert as_json(check(store)) == first


def test_verdicts_are_written_into_the_store(stores) -> None:
    """divergences.parquet has the event, coverage.parquet the counts."""
    store = stores(get("035-os-id-zero"))
    result = check(store)
    rows = pq.read_table(store.path / "divergences.parquet").to_pylist()
    assert [(row["rule"], row["expected"], row["observed"]) for row in rows] == [
        ("HV208", "0x104d000", "0x104d001")
    ]
    told = [int(line.partition(" ")[0]) for line in result.divergences[0].history]
    assert rows[0]["history"] == told
    assert told[-1] == rows[0]["seq"]
    counts = pq.read_table(store.path / "coverage.parquet").to_pylist()
    held = {row["rule"]: row["count"] for row in counts if row["verdict"] == "holds"}
    assert held["HV204"] == result.coverage["HV204"].holds > 0


def test_rules_can_be_chosen(stores) -> None:
    """`--select` and `--ignore` by prefix; what is not asked is not judged."""
    store = stores(get("015-count0-not-disabling"))
    assert [found.rule for found in check(store, Options(chosen=("HV5",))).divergences] == ["HV501"]
    assert check(stores(get("035-os-id-zero")), Options(ignored=("HV208",))).verdict == "clean"


CHAOS = ("baseline-hvmut-stimer", "baseline-hvmut-msr", "kut-hyperv_synic")


def loaded(store: Store) -> tuple[list[tape.Event], np.ndarray]:
    """A store's tape, and the CPU of each event of it."""
    tables = {name: checking._table(store, name) for name in tape.TAPE if store.has(name)}
    events = [event for window in tape.events(tables) for event in window]
    cpus = np.zeros(store.manifest.total, np.int64)
    for name in tables:
        columns = store.parquet(name).read(["seq", "cpu"])
        cpus[columns["seq"].to_numpy()] = columns["cpu"].to_numpy()
    return events, cpus[[event[0] for event in events]]


def judged(store: Store, events: list[tape.Event], losses: list[Loss]) -> Judge:
    traced = checking._traced(store)
    judge = Judge(RULES, traced)
    offer = checking._offer(Options(), store.manifest)
    bench = Bench(judge, profile_for(store.manifest.kernel), traced, offer, False)
    bench.stamps = Stamps.of(store.manifest.clock["name"], store.manifest.clock["unit"])
    engine = Engine(bench, losses)
    engine.run(events)
    engine.finish()
    return judge


@pytest.mark.parametrize("name", CHAOS)
def test_lost_events_make_no_divergence(name: str, stores) -> None:
    """Windows of one CPU removed, as a ring buffer would lose them: nothing diverges."""
    store = stores(get(name))
    events, cpus = loaded(store)
    stamps = np.array([event[1] for event in events])
    for seed in range(25):
        chance = random.Random(f"{name} {seed}")
        kept, losses = np.ones(len(events), bool), []
        for _ in range(chance.choice([1, 3, 8])):
            cpu, begin = chance.choice([0, 1]), int(stamps[chance.randrange(len(events))])
            end = begin + int(10 ** chance.uniform(4, 8))
            kept &= ~((cpus == cpu) & (stamps > begin) & (stamps < end))
            before, after = stamps[(cpus == cpu) & (stamps <= begin)], stamps[(cpus == cpu) & (stamps >= end)]
            losses.append((int(before[-1]) if len(before) else None, int(after[0]) if len(after) else None))
        judge = judged(store, [event for event, keep in zip(events, kept, strict=True) if keep], losses)
        assert [(f.rule, f.message) for f in judge.divergences.values()] == [], seed


@pytest.mark.parametrize("name", CHAOS)
def test_a_start_in_mid_life_makes_no_divergence(name: str, stores) -> None:
    """Recordings cut off at their front at random places: nothing diverges."""
    store = stores(get(name))
    events, _ = loaded(store)
    for seed in range(25):
        cut = random.Random(f"{name} {seed}").randrange(len(events))
        judge = judged(store, events[cut:], [])
        assert [(f.rule, f.message) for f in judge.divergences.values()] == [], seed
