"""Divergences on the timeline."""

from __future__ import annotations

import io
from pathlib import Path

from builders.store import add_divergences, tiny_store
from builders.timeline import read_timeline

from hvtrace.export.perfetto import write_trace
from hvtrace.export.streams import Which

EVENTS = [
    (100, "kvm_entry", 0, 0, {}),
    (200, "kvm_exit", 0, 0, {"isa": 2, "exit_reason": 0x7C}),
    (300, "kvm_entry", 0, 0, {}),
]
ONE = {
    "rule": "HV204",
    "name": "reserved-bits-accepted",
    "severity": "error",
    "seq": 1,
    "ts_ns": 200,
    "vm": 0,
    "vcpu": 0,
    "tracepoint": "kvm_msr",
    "expected": "#GP",
    "observed": "no #GP",
    "message": "reserved bits were accepted",
}


def test_a_divergence_is_an_instant_on_its_vcpu(tmp_path: Path) -> None:
    """Rule and name are its name; what was expected and observed are arguments."""
    store = tiny_store(tmp_path / "t.hvt", EVENTS)
    add_divergences(store, [ONE, ONE | {"ts_ns": 250, "vm": None, "vcpu": None}])
    out = io.BytesIO()
    write_trace(store, out)
    on_vcpu, of_vm = read_timeline(out.getvalue()).instants
    assert on_vcpu.track == ("VM 0", "vCPU 0", "Divergences")
    assert (on_vcpu.start, on_vcpu.name) == (200, "HV204 reserved-bits-accepted")
    assert on_vcpu.arguments["expected"] == "#GP"
    assert on_vcpu.arguments["observed"] == "no #GP"
    assert on_vcpu.arguments["seq"] == 1
    assert of_vm.track == ("Recording", "Divergences")


def test_those_of_other_vcpus_and_times_are_left_out(tmp_path: Path) -> None:
    """The part asked for holds for divergences as well."""
    store = tiny_store(tmp_path / "t.hvt", EVENTS)
    add_divergences(store, [ONE])
    for which in (Which(vcpu=1), Which(first_ns=201), Which(last_ns=199), Which(vm=3)):
        out = io.BytesIO()
        write_trace(store, out, which)
        assert read_timeline(out.getvalue()).instants == []
