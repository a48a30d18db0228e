"""What a store holds, in one object: the answer of `hvtrace info`."""

from __future__ import annotations

from typing import Any

import polars as pl

from hvtrace.abi import cpuid, msr
from hvtrace.abi.flags import FLAGS
from hvtrace.abi.register import Gate
from hvtrace.store import Store

__all__ = ["overview"]

#: CPUID register → column of kvm_cpuid.
COLUMNS = {"eax": "rax", "ebx": "rbx", "ecx": "rcx", "edx": "rdx"}


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
    """VM → hv-* flags all of whose CPUID bits the guest was shown, for VMs whose guest read the leaves."""
    if not store.has("kvm_cpuid"):
        return {}
    rows = (
        store.scan("kvm_cpuid")
        .filter(
            pl.col("vm").is_not_null(), pl.col("found"), pl.col("function").is_between(0x40000000, 0x400000FF)
        )
        .unique(["vm", "function"], keep="last", maintain_order=True)
        .select("vm", "function", *COLUMNS.values())
        .collect()
    )
    leaves: dict[int, dict[tuple[int, str], int]] = {}
    for vm, function, *registers in rows.iter_rows():
        for register, value in zip(COLUMNS, registers, strict=True):
            leaves.setdefault(vm, {})[function, register] = value & 0xFFFFFFFF

    def shown(own: dict[tuple[int, str], int], gate: Gate) -> bool:
        return bool(own.get((gate.leaf, gate.register), 0) >> gate.bit & 1)

    hyperv = {
        vm: own
        for vm, own in leaves.items()
        if own.get((cpuid.INTERFACE, "eax"), cpuid.INTERFACE_SIGNATURE) == cpuid.INTERFACE_SIGNATURE
        and (cpuid.FEATURES, "eax") in own
    }
    return {
        vm: [flag.name for flag in FLAGS if flag.sets and all(shown(own, gate) for gate in flag.sets)]
        for vm, own in hyperv.items()
    } | {vm: [] for vm in leaves if vm not in hyperv}


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
