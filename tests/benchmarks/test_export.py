"""What the benchmark of export compares is the same trace, written in different ways."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builders.samples import EVENTS, SAMPLES
from builders.timeline import read_timeline
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

from hvtrace.export.perfetto import write_trace
from hvtrace.pipeline.ingest import ingest
from hvtrace.store import Store

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def answer(program: str, *given: object) -> dict[str, Any]:
    """What a program of the benchmarks prints."""
    command = [sys.executable, str(BENCHMARKS / program), *map(str, given)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_builders_and_encoder_write_the_same_slices(tmp_path: Path) -> None:
    """The encoder's trace is what an export writes; the builders write each of its packets again."""
    (tmp_path / "recording").write_bytes(SAMPLES["trace.dat 6"]())
    ingest([tmp_path / "recording"], tmp_path / "store.hvt")
    with (tmp_path / "exported").open("wb") as out:
        write_trace(Store(tmp_path / "store.hvt"), out)
    assert answer("encoder.py", tmp_path / "store.hvt", tmp_path / "encoded")["wall_s"] > 0
    exported = (tmp_path / "exported").read_bytes()
    assert (tmp_path / "encoded").read_bytes() == exported
    begun = [
        p for p in Trace.FromString(exported).packet if p.track_event.type == TrackEvent.TYPE_SLICE_BEGIN
    ]
    for builder in ("memory", "streaming"):
        again = tmp_path / builder
        built = answer("perfetto_builder.py", tmp_path / "exported", again, "--builder", builder, "--check")
        assert built["slices"] == len(begun) > 100
        assert read_timeline(again.read_bytes()) == read_timeline(exported)


def test_a_builder_that_wrote_something_else_is_noticed(tmp_path: Path) -> None:
    """The check compares packet by packet: a field that the builder is not given makes it fail."""
    trace = Trace()
    trace.packet.add(timestamp=1, trusted_packet_sequence_id=2, sequence_flags=2).track_event.track_uuid = 3
    (tmp_path / "other").write_bytes(trace.SerializeToString())
    with pytest.raises(subprocess.CalledProcessError) as failed:
        answer("perfetto_builder.py", tmp_path / "other", tmp_path / "again", "--check")
    assert "differs" in failed.value.stderr


def test_one_command_measures_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes, ways of writing and figures, as JSON; each size has its share of the events asked for."""
    recordings = tmp_path / "some"
    recordings.mkdir()
    (recordings / "trace.dat").write_bytes(SAMPLES["trace.dat 6"]())
    monkeypatch.setenv("HVTRACE_RECORDINGS", str(tmp_path))
    command = [
        sys.executable,
        str(BENCHMARKS / "export.py"),
        "--events",
        str(4 * EVENTS),
        "--sizes",
        "1",
        "4",
    ]
    command += ["--rounds", "1", "--json", str(tmp_path / "figures.json")]
    subprocess.run(command, check=True, capture_output=True)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [(m["scale"], m["events"]) for m in figures["measurements"]] == [(1, EVENTS), (4, 4 * EVENTS)]
    assert [w["what"] for w in figures["writings"]] == [
        "hvtrace export",
        "encoder alone",
        "builder, memory",
        "builder, streaming",
    ]
    assert all(w["slices_per_s"] > 0 for w in figures["writings"])
