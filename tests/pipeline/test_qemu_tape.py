"""What a store has of QEMU's trace, as the replay takes it: whose events they are, how exact, where some are lost."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from recordings import get

from hvtrace.pipeline import qemu_tape
from hvtrace.pipeline.check import Options, check, tape_of
from hvtrace.pipeline.ingest import ingest
from hvtrace.pipeline.qemu_tape import SKEW_NS, recorded, traced
from hvtrace.render.verdicts import as_json
from hvtrace.replay.tape import HOME, NO_PLACE, QEMU_TAPE, home_of
from hvtrace.store import Manifest, Store


@pytest.fixture
def two_vms(tmp_path: Path) -> Store:
    """A recording of two VMs."""
    ingest([get("two-vms") / "trace.dat"], tmp_path / "two.hvt")
    return Store(tmp_path / "two.hvt")


def add(store: Store, event: str, vms: list[int | None], **fields: list[int]) -> None:
    """Give a store rows of an event of QEMU's, behind all others."""
    last, count = store.manifest.time["last_ns"], len(vms)
    columns = {
        "seq": pa.array([store.manifest.total + n for n in range(count)], pa.uint64()),
        "ts_ns": pa.array([last + n for n in range(count)], pa.int64()),
        "cpu": pa.nulls(count, pa.uint16()),
        "tid": pa.array([7] * count, pa.int32()),
        "vm": pa.array(vms, pa.uint16()),
        "vcpu": pa.nulls(count, pa.uint16()),
        **{name: pa.array(values, pa.uint32()) for name, values in fields.items()},
    }
    pq.write_table(pa.table(columns), store.path / "events" / f"{event}.parquet")


def manifest(store: Store, **changes: object) -> Store:
    """The store with other words in its manifest."""
    path = store.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return Store(store.path)


def test_a_store_without_qemus_events_has_nothing_of_it(two_vms: Store) -> None:
    """The replay then does not know of VMBus."""
    assert recorded(two_vms) is None
    assert not traced(two_vms)


def test_one_vms_recording_is_its_own(tmp_path: Path) -> None:
    """QEMU's main loop is no vCPU's thread: its events are the VM's, whatever their row says."""
    sample = get("vmbus-balloon-2s")
    ingest([sample / "trace.dat", sample / "qemu-trace.log"], tmp_path / "x.hvt")
    store = Store(tmp_path / "x.hvt")
    places = {e[3] for window in tape_of(store) for e in window if e[2] in QEMU_TAPE}
    assert places == {home_of(0)} == {HOME}
    assert traced(store) == frozenset(QEMU_TAPE)
    told = recorded(store)
    residual = store.manifest.sources[1]["aligned"]["residual_ns"]
    assert told is not None
    assert told.slack_ns == residual + SKEW_NS
    assert told.losses == []


def test_some_events_alone_are_not_the_whole_group(two_vms: Store) -> None:
    """Whoever traces messages alone has not traced what they say: that it is missing means nothing."""
    add(two_vms, "vmbus_post_msg", [0], type=[15], size=[12])
    assert traced(two_vms) == {"vmbus_post_msg"}
    add(two_vms, "vmbus_recv_message", [0], type=[14], size=[40])
    add(two_vms, "vmbus_process_incoming_message", [0], message_type=[14])
    add(two_vms, "vmbus_msg_cb", [0], status=[0])
    assert len(traced(two_vms)) == 4
    add(two_vms, "vmbus_gpadl_header", [0], gpadl_id=[7], num_gfns=[1])
    add(two_vms, "vmbus_gpadl_created", [0], gpadl_id=[7])
    assert traced(two_vms) == frozenset(QEMU_TAPE)


def test_of_several_vms_each_has_its_own(two_vms: Store) -> None:
    """Where the thread does not tell, an event is nobody's."""
    add(two_vms, "vmbus_post_msg", [0, 1, None], type=[15, 15, 15], size=[12, 12, 12])
    places = [e[3] for window in tape_of(two_vms) for e in window if e[2] in QEMU_TAPE]
    assert places == [home_of(0), home_of(1), NO_PLACE]


@pytest.mark.parametrize("vms", [[0, 1, 1], [0, None, 1]])
def test_several_processes_find_what_one_finds(two_vms: Store, vms: list[int | None]) -> None:
    """VMs are replayed apart: no event of QEMU's is judged twice."""
    add(two_vms, "vmbus_post_msg", vms, type=[15, 15, 15], size=[12, 99, 12])
    together = check(two_vms, Options(jobs=1))
    assert as_json(check(two_vms, Options(jobs=2))) == as_json(together)
    assert ("VB117" in {found.rule for found in together.divergences}) == (None not in vms)


def test_what_qemu_dropped_and_what_cannot_be_read_are_losses(two_vms: Store) -> None:
    """Nobody knows what a line says that could not be read; a cut end is no hole."""
    add(two_vms, "vmbus_post_msg", [0], type=[15], size=[12])
    source = {"name": "q", "format": "QEMU log, threads and seconds"}
    aligned = {"residual_ns": 5000, "lost": [{"cpu": None, "from_ns": 10, "to_ns": 20, "count": 3}]}
    told = recorded(manifest(two_vms, sources=[source | {"aligned": aligned, "damaged": 1}]))
    assert told is not None
    assert (told.slack_ns, told.losses) == (5000 + SKEW_NS, [(10, 20)])
    for damage in ({"corrupt": 1}, {"not_understood": {"count": 2, "samples": []}}):
        told = recorded(manifest(two_vms, sources=[source | damage]))
        assert told is not None
        assert told.losses == [(None, None)]


def test_a_log_alone_has_one_vm() -> None:
    """Nothing tells of VMs: it is one QEMU's."""
    batch = pa.RecordBatch.from_pydict({"vm": pa.nulls(2, pa.uint16())})
    assert qemu_tape.housed(batch, Manifest()).column("vm").to_pylist() == [0, 0]
