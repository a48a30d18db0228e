"""A store of a few events, written down as rows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hvtrace.schema.arrow import arrow_schema
from hvtrace.schema.common import COMMON_COLUMNS
from hvtrace.schema.registry import BY_NAME, event_fields
from hvtrace.schema.tables import table_schema
from hvtrace.store import Manifest, Store, StoreWriter

__all__ = ["Row", "add_divergences", "tiny_store"]

#: Time stamp, tracepoint, vCPU (None: no vCPU), host CPU, fields.
Row = tuple[int, str, int | None, int, dict[str, Any]]


def tiny_store(
    path: Path,
    rows: Iterable[Row],
    *,
    lost: Iterable[dict[str, Any]] = (),
    unit: str = "ns",
    polling_cap: int | None = None,
    last_ns: int | None = None,
    last_seq: int | None = None,
    vms: int = 1,
) -> Store:
    """Write a store whose events are `rows`, all of VM 0, in this order; null where a field is not given.

    `last_ns`: where the recording ends; None: with the last event. `last_seq`: the VM's last event, None: it is there
    until the end. Of `vms` VMs those after the first have a vCPU and no events.
    """
    listed = list(rows)
    manifest = Manifest(
        kernel="6.1.0-test",
        clock={"name": "local", "unit": unit, "raw": False},
        lost=list(lost),
        total=len(listed),
        time={"first_ns": listed[0][0], "last_ns": listed[-1][0] if last_ns is None else last_ns},
        vms=[
            {
                "vm": 0,
                "name": None,
                "vcpus": [
                    {"vcpu": v, "tids": [100 + v]} for v in sorted({r[2] for r in listed if r[2] is not None})
                ],
                "first_seq": 0,
                "last_seq": last_seq,
                "tgid": None,
            },
            *(
                {"vm": vm, "name": None, "vcpus": [{"vcpu": 0, "tids": []}], "first_seq": 0, "last_seq": None}
                for vm in range(1, vms)
            ),
        ],
    )
    if polling_cap is not None:
        manifest.host = {"module_parameters": {"kvm": {"halt_poll_ns": str(polling_cap)}}}
    tables: dict[str, list[dict[str, Any]]] = {}
    for seq, (ts, tracepoint, vcpu, cpu, fields) in enumerate(listed):
        own = {
            "seq": seq,
            "ts_ns": ts,
            "cpu": cpu,
            "tid": 100,
            "vm": None if vcpu is None else 0,
            "vcpu": vcpu,
        }
        tables.setdefault(tracepoint, []).append(own | fields)
        manifest.events[tracepoint] = manifest.events.get(tracepoint, 0) + 1
    with StoreWriter(path) as writer:
        for tracepoint, events in tables.items():
            schema = arrow_schema((*COMMON_COLUMNS, *event_fields(BY_NAME[tracepoint])))
            writer.append(tracepoint, pa.RecordBatch.from_pylist(events, schema=schema))
        writer.finish(manifest)
    return Store(path)


def add_divergences(store: Store, rows: list[dict[str, Any]]) -> None:
    """Give a store a table of divergences; what a row does not name is null."""
    table = pa.Table.from_pylist(rows, schema=table_schema("divergences"))
    pq.write_table(table, store.path / "divergences.parquet")
