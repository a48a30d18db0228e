"""`hvtrace.open`: what Python code asks a recording."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from builders.store import tiny_store
from recordings import get

import hvtrace
from hvtrace.analysis.exits import Question, exits
from hvtrace.errors import InputError
from hvtrace.store import Store

EVENTS = [
    (0, "kvm_entry", 0, 0, {}),
    (10, "kvm_exit", 0, 0, {"isa": 2, "exit_reason": 0x78}),
    (30, "kvm_entry", 0, 0, {}),
]


def test_a_store_answers_as_the_command_does(tmp_path: Path) -> None:
    """The words of a question are keyword arguments; rows make a frame."""
    tiny_store(tmp_path / "t.hvt", EVENTS)
    answer = hvtrace.open(tmp_path / "t.hvt").exits(by=("vcpu",), sort="count")
    assert answer == exits(Store(tmp_path / "t.hvt"), Question(by=("vcpu",), sort="count"))
    frame = answer.frame
    assert frame.columns == answer.question.columns
    assert frame.select("vm", "vcpu", "reason", "count", "time_ns").rows() == [(0, 0, "hlt", 1, 20)]


def test_a_frame_without_rows_has_its_columns(tmp_path: Path) -> None:
    """So that code need not ask."""
    tiny_store(tmp_path / "t.hvt", EVENTS)
    frame = hvtrace.open(tmp_path / "t.hvt").exits(first_ns=100).frame
    assert (frame.height, frame.columns) == (0, Question().columns)


def test_a_recording_is_read_on_the_way() -> None:
    """As it is by every command."""
    recording = hvtrace.open(get("baseline-hvmut-stimer") / "trace.dat")
    counted = recording.store.scan("kvm_exit").select(pl.len()).collect().item()
    answer = recording.exits()
    assert counted == answer.count + sum(answer.excluded.values())


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    """With the error of the command line."""
    with pytest.raises((InputError, OSError)):
        hvtrace.open(tmp_path / "none.hvt")
