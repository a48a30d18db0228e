"""What a check takes from a store besides events: flags, parameters, what was recorded, what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders.store import tiny_store

from hvtrace.errors import HvtraceError
from hvtrace.pipeline import check as checking
from hvtrace.pipeline.check import Options, check
from hvtrace.replay.rule import RESETS
from hvtrace.replay.tape import QEMU_TAPE, TAPE
from hvtrace.schema.groups import WHOLE_GROUP
from hvtrace.store import Manifest, Store

ROWS = [
    (0, "kvm_entry", 0, 0, {"vcpu_id": 0, "rip": 5}),
    (10, "kvm_exit", 0, 0, {"vcpu_id": 0, "exit_reason": 0x7C, "isa": 2}),
    (20, "kvm_msr", 0, 0, {"write": 0, "ecx": 0x40000084, "data": 1, "exception": 0}),
    (30, "kvm_entry", 0, 0, {"vcpu_id": 0, "rip": 7}),
]


def store(folder: Path, **changes: Any) -> Store:
    """A store of four events (a read of EOM that gives 1), with a manifest changed as told."""
    made = tiny_store(folder / "x.hvt", ROWS)
    made.manifest.sources = [{"name": "x", "format": "trace.dat 7"}]
    made.manifest.events = {"kvm_entry": 2, "kvm_exit": 1, "kvm_msr": 1}
    for key, value in changes.items():
        setattr(made.manifest, key, value)
    made.manifest.write(made.path)
    return Store(made.path)


@pytest.mark.parametrize(
    ("command", "enforced"),
    [
        ("qemu-system-x86_64 -cpu host,hv-synic,hv-enforce-cpuid -m 128", True),
        (["qemu-system-x86_64", "-cpu", "host,hv_synic"], False),
        ("exec qemu -cpu 'host,hv-vpindex' -smp 2", False),
        ("qemu -cpu host,hv-synic & qemu -cpu host,hv-synic", False),
        # Two VMs with different options: which is which is not known.
        ("qemu -cpu host,hv-synic & qemu -cpu host", None),
        ("qemu -cpu host,hv-unheard-of", None),
        (None, None),
    ],
)
def test_flags_come_from_the_command_line_beside_the_recording(
    command: object, enforced: bool | None
) -> None:
    """As one string or as words; nothing is known where it is ambiguous."""
    vms = [{"vm": 0}, {"vm": 1}] if "&" in str(command) else [{"vm": 0}]
    offer = checking._offer(Options(), Manifest(host={"qemu_command": command}, vms=vms))
    assert (None if offer is None else offer.enforced) == enforced


def test_one_command_line_is_not_taken_for_two_vms() -> None:
    """Which of the VMs it is about is not known."""
    manifest = Manifest(host={"qemu_command": "qemu -cpu host,hv-synic"}, vms=[{"vm": 0}, {"vm": 1}])
    assert checking._offer(Options(), manifest) is None


def test_the_option_counts_more_than_the_metadata() -> None:
    """--cpu replaces what lies beside the recording; a wrong one is an error."""
    offer = checking._offer(Options(cpu="host,hv-synic"), Manifest(host={"qemu_command": "qemu -cpu host"}))
    assert offer is not None
    assert offer.hyperv
    with pytest.raises(HvtraceError, match="no such flag"):
        checking._offer(Options(cpu="host,hv-x"), {})


def test_what_was_recorded_is_told_from_what_fired(tmp_path: Path) -> None:
    """A tracepoint without events counts as recorded only where the whole group was, or most of the timers'."""
    few = checking._traced(store(tmp_path / "few"))
    assert few == {"kvm_entry", "kvm_exit", "kvm_msr", RESETS}
    timers = [name for name in TAPE if name.startswith("kvm_hv_stimer_")]
    some = checking._traced(store(tmp_path / "some", events=dict.fromkeys(timers[:5], 1)))
    assert set(timers) <= some
    many = {f"kvm_{n}": 1 for n in range(20)} | dict.fromkeys(WHOLE_GROUP, 1)
    assert set(TAPE) - set(QEMU_TAPE) <= checking._traced(store(tmp_path / "many", events=many))


def test_perf_script_leaves_callbacks_out(tmp_path: Path) -> None:
    """Samples taken in guest mode are not printed: their absence says nothing."""
    timers = {name: 1 for name in TAPE if name.startswith("kvm_hv_stimer_")}
    sources = [{"name": "x", "format": "perf script text"}]
    assert "kvm_hv_stimer_callback" not in checking._traced(store(tmp_path, events=timers, sources=sources))


@pytest.mark.parametrize(
    ("command", "seen"),
    [
        ("/usr/bin/perf record -q -a -m 16M -e kvm:*", True),
        ("perf record -ag -e kvm:*", True),
        ("perf record -C 0-3 -e kvm:*", True),
        ("perf record -e kvm:* -p 4711", False),
        ("perf kvm --host record -e kvm:* --pid=4711 -o x.data", False),
    ],
)
def test_perf_of_some_threads_has_not_all_callbacks(tmp_path: Path, command: str, seen: bool) -> None:
    """A host timer fires while any thread runs."""
    timers = {name: 1 for name in TAPE if name.startswith("kvm_hv_stimer_")}
    sources = [{"name": "x", "format": "perf.data", "facts": {"cmdline": command}}]
    traced = checking._traced(store(tmp_path, events=timers, sources=sources))
    assert ("kvm_hv_stimer_callback" in traced) == seen


def test_gradual_starts_and_damage_are_losses() -> None:
    """perf switches tracepoints on one by one; what damage took cannot be placed."""
    manifest = Manifest(
        sources=[{"format": "perf.data"}],
        lost=[{"cpu": 0, "from_ns": 5, "to_ns": 7, "count": 1}],
        time={"first_ns": 0, "last_ns": 10**9},
    )
    notes: list[str] = []
    assert checking._losses(manifest, notes) == [(5, 7), (None, 100_000_000), (900_000_000, None)]
    manifest.sources = [{"format": "trace.dat 7", "damaged": 1, "corrupt": 1}]
    assert checking._losses(manifest, notes) == [(5, 7), (None, None)]
    assert "corrupt" in notes[0]


def test_a_tiny_store_is_judged(tmp_path: Path) -> None:
    """EOM reads 1: one divergence, at that event; in a corrupt recording, nothing; in a cut one, what is there."""
    result = check(store(tmp_path / "whole"))
    assert [(found.rule, found.seq, found.vcpu) for found in result.divergences] == [("HV206", 2, 0)]
    assert (result.replayed, result.total, result.judged["kvm_msr"]) == (4, 4, 1)
    damaged = store(
        tmp_path / "damaged", sources=[{"name": "x", "format": "trace.dat 7", "damaged": 2, "corrupt": 2}]
    )
    assert check(damaged).verdict == "unjudged"
    cut = store(
        tmp_path / "cut", sources=[{"name": "x", "format": "trace.dat 7", "damaged": 2, "corrupt": 0}]
    )
    assert check(cut).verdict == "diverged"


def test_the_verdicts_in_a_store_are_those_of_the_check(tmp_path: Path) -> None:
    """Re-read: every column of the two tables, in the types the documentation gives."""
    made = store(tmp_path)
    found = check(made).divergences[0]
    assert made.scan("divergences").collect().to_dicts() == [
        {
            "rule": "HV206", "name": "msr-fixed-value", "severity": "error", "seq": 2, "ts_ns": 20, "vm": 0,
            "vcpu": 0, "tracepoint": "kvm_msr", "expected": found.expected, "observed": found.observed,
            "message": found.message, "count": 1, "last_seq": 2, "known": False,
            "history": [2],
        }
    ]  # fmt: skip
    counts = made.scan("coverage").collect().to_dicts()
    assert {"rule": "HV206", "verdict": "diverges", "reason": None, "count": 1} in counts
    documented = (Path(__file__).parents[2] / "docs" / "store.md").read_text(encoding="utf-8")
    for name in ("divergences", "coverage"):
        for column in made.scan(name).collect_schema():
            assert f"| `{column}` |" in documented, f"docs/store.md says nothing of {name}.{column}"
