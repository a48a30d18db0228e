"""What a store holds, in one object: the answer of `hvtrace info`."""

from __future__ import annotations

from typing import Any

import polars as pl

from hvtrace.abi import cpuid, msr
from hvtrace.analysis.advice.offered import offered_by_vm
from hvtrace.store import Store

__all__ = ["overview"]


def overview(store: Store) -> dict[str, Any]:
    """Return events by tracepoint, losses, time, clock, kernel, VMs with vCPUs, threads and enlightenments."""
    manifest = store.manifest
    offered, used = _offered(store), _used(store)
    return {
        "schema_version": 1,
        "store": str(store.path),
        "sources": manifest.sources,
        "kernel": manifest.kernel,
        "clock": manifest.clock,
        "host": manifest.host,
        "first_ns": manifest.time.get("first_ns"),
        "last_ns": manifest.time.get("last_ns"),
        "duration_ns": manifest.time.get("duration_ns"),
        "total": manifest.total,
        "events": manifest.events,
        "lost": manifest.lost,
        "vms": [
            {
                **vm,
                "tids": sorted({tid for vcpu in vm["vcpus"] for tid in vcpu["tids"]}),
                "offered": offered.get(vm["vm"]),
                "used": used.get(vm["vm"], {"msrs": {}, "hypercalls": {}}),
            }
            for vm in manifest.vms
        ],
    }


def _offered(store: Store) -> dict[int, list[str]]:
    """VM → hv-* flags all of whose CPUID bits the guest was shown, for VMs whose guest read the leaves.

    None of them where it was shown another interface; a VM is missing where that is not known.
    """
    found = offered_by_vm(store, (vm["vm"] for vm in store.manifest.vms))
    read = {vm: shown for vm, shown in found.items() if shown.read}
    return {vm: [] for vm, shown in read.items() if shown.hyperv is False} | {
        vm: shown.flags
        for vm, shown in read.items()
        if shown.hyperv and any(leaf == cpuid.FEATURES for leaf, _ in shown.exposure.leaves)
    }


def _used(store: Store) -> dict[int, dict[str, dict[str, int]]]:
    """VM → synthetic and KVM MSRs accessed without a fault, and Hyper-V hypercalls made, each with its count."""
    used: dict[int, dict[str, dict[str, int]]] = {}
    known = sorted(row.index for row in msr.MSRS)
    sources = (
        ("msrs", "kvm_msr", "msr_name", pl.col("ecx").is_in(known) & (pl.col("exception") == 0)),
        ("hypercalls", "kvm_hv_hypercall", "code_name", pl.lit(value=True)),
    )
    for kind, table, column, wanted in sources:
        if not store.has(table):
            continue
        rows = (
            store.scan(table)
            .filter(pl.col("vm").is_not_null(), wanted)
            .group_by("vm", pl.col(column).cast(pl.String).alias("name"))
            .len()
            .sort("vm", "len", "name", descending=[False, True, False])
            .collect()
        )
        for vm, name, number in rows.iter_rows():
            entry = used.setdefault(vm, {"msrs": {}, "hypercalls": {}})
            entry[kind][name or "unknown"] = number
    return used
