"""What two recordings are recordings of: kernel, flags, parameters, losses; enlightenments; divergences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import polars as pl

from hvtrace.analysis.diff.side import Side
from hvtrace.analysis.overview import overview
from hvtrace.pipeline.metadata import cpu_options

__all__ = ["differences"]

#: Facts of the host, as the metadata beside a recording has them.
_HOST = ("cpu", "cpus", "clocksource", "qemu_version")

#: Module parameters of KVM that are told also where they are the same.
_ALWAYS = (
    "kvm.halt_poll_ns",
    "kvm.halt_poll_ns_grow",
    "kvm.halt_poll_ns_grow_start",
    "kvm.halt_poll_ns_shrink",
)


def differences(a: Side, b: Side) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """Return facts, enlightenments and divergences.

    Facts: fact, a, b (null where it is not known), same. Enlightenments that differ: kind ("offered": flags; "msr",
    "hypercall": used without a fault), name, a, b (whether it has it; null where it is not known). Divergences:
    "checked_a", "checked_b" (whether the recording was checked), and "rows": rule, name, severity, a, b (how many, null
    where it was not checked); those accepted by a baseline do not count.
    """
    views = [overview(side.store) for side in (a, b)]
    return _facts((a, b), views), _enlightenments((a, b), views), _divergences(a, b)


def _facts(sides: tuple[Side, Side], views: list[dict[str, Any]]) -> list[dict[str, Any]]:
    known = [_known(side, view) for side, view in zip(sides, views, strict=True)]
    names = list(dict.fromkeys(name for facts in known for name in facts))
    rows = []
    for name in names:
        first, second = (facts.get(name) for facts in known)
        if first is None and second is None:
            continue
        if "." in name and name not in _ALWAYS and (first == second or None in (first, second)):
            continue
        rows.append({"fact": name, "a": first, "b": second, "same": first == second})
    return rows


def _known(side: Side, view: dict[str, Any]) -> dict[str, Any]:
    host = view["host"]
    facts: dict[str, Any] = {
        "format": ", ".join(str(source.get("format")) for source in view["sources"]),
        "kernel": view["kernel"],
        "clock": view["clock"].get("name"),
        "clock unit": view["clock"].get("unit", "ns"),
        "VM seconds": round(side.seconds, 3) if side.in_ns else None,
        "VMs": len(side.lives),
        "vCPUs": _counted(len(vm["vcpus"]) for vm in view["vms"] if vm["vm"] in side.lives),
        "spans with losses": len(view["lost"]),
    }
    facts |= {name: str(host[name]) for name in _HOST if name in host}
    if str(host.get("tsc_khz", "")).isdecimal():
        # Calibrated at every start: the last digits are chance.
        facts["TSC MHz"] = round(int(host["tsc_khz"]) / 1000)
    modules = host.get("module_parameters")
    for module, parameters in modules.items() if isinstance(modules, dict) else ():
        if isinstance(parameters, dict):
            facts |= {f"{module}.{name}": str(value) for name, value in parameters.items()}
    facts |= {"-cpu": "; ".join(dict.fromkeys(cpu_options(host))) or None}
    return facts


def _counted(numbers: Iterable[int]) -> str:
    """Numbers, in order of size: "1, 2", or "63 × 1, 2"."""
    return ", ".join(f"{n} × {one}" if n > 1 else str(one) for one, n in sorted(Counter(numbers).items()))


def _enlightenments(sides: tuple[Side, Side], views: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for kind in ("offered", "msrs", "hypercalls"):
        first, second = (_have(side, view, kind) for side, view in zip(sides, views, strict=True))
        for name in sorted((first or set()) | (second or set())):
            has = [None if own is None else name in own for own in (first, second)]
            if has[0] != has[1]:
                rows.append({"kind": kind.removesuffix("s"), "name": name, "a": has[0], "b": has[1]})
    return rows


def _have(side: Side, view: dict[str, Any], kind: str) -> set[str] | None:
    """Names of what any of the VMs compared was offered, or used; None where that is not known."""
    vms = [vm for vm in view["vms"] if vm["vm"] in side.lives]
    if kind == "offered":
        known = [vm["offered"] for vm in vms if vm["offered"] is not None]
        return {name for own in known for name in own} if known else None
    table = {"msrs": "kvm_msr", "hypercalls": "kvm_hv_hypercall"}[kind]
    used = {name for vm in vms for name in vm["used"][kind]}
    return used if used or side.whole_group or side.store.has(table) else None


def _divergences(a: Side, b: Side) -> dict[str, Any]:
    counts = [_diverged(side) for side in (a, b)]
    rules = sorted({key for own in counts if own is not None for key in own})
    rows = [
        {"rule": rule, "name": name, "severity": severity}
        | {
            side: None if own is None else own.get((rule, name, severity), 0)
            for side, own in zip("ab", counts, strict=True)
        }
        for rule, name, severity in rules
    ]
    return {"checked_a": counts[0] is not None, "checked_b": counts[1] is not None, "rows": rows}


def _diverged(side: Side) -> dict[tuple[str, str, str], int] | None:
    if not side.store.has("divergences"):
        return None
    # What belongs to no VM is told whichever is asked about.
    own = [condition | pl.col("vm").is_null() for condition in side.scope.owners()]
    rows = (
        side.store.scan("divergences")
        .filter(~pl.col("known").fill_null(value=False), *own, *side.scope.span())
        .group_by(pl.col("rule", "name", "severity").cast(pl.String))
        .agg(pl.col("count").fill_null(1).sum())
        .collect()
    )
    return {(rule, name, severity): count for rule, name, severity, count in rows.iter_rows()}
