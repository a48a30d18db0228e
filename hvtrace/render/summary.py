"""What `hvtrace ingest` says on stderr when it is done."""

from __future__ import annotations

import sys
from pathlib import Path

from hvtrace.render.terminal import duration, plural, safe
from hvtrace.store import Manifest

__all__ = ["after_ingest"]

#: Damaged places named one by one.
MAX_DAMAGE = 5


def after_ingest(manifest: Manifest, target: Path) -> None:
    """One line of what was stored; a line for each thing that is not as it should be."""
    vcpus = sum(len(vm["vcpus"]) for vm in manifest.vms)
    span = manifest.time["duration_ns"]
    if span is None:
        _say(f"{safe(str(target))}: the recording is whole, and holds no events")
        return
    unit = duration(span) if manifest.clock["unit"] == "ns" else f"{span:,} ticks"
    vms = f"{plural(len(manifest.vms), 'VM')}, {plural(vcpus, 'vCPU')}"
    _say(f"{safe(str(target))}: {plural(manifest.total, 'event')} in {unit}, {vms}")
    for source in manifest.sources:
        name = safe(source["name"])
        for damage in source["damage"][:MAX_DAMAGE]:
            _say(f"warning: {name}: offset {damage['offset']:#x}: {safe(damage['message'])}")
        if source["damaged"] > MAX_DAMAGE:
            _say(f"warning: {name}: {source['damaged'] - MAX_DAMAGE} more damaged places (see manifest.json)")
        missed = source["not_understood"]
        if missed["count"]:
            example = f", such as: {safe(missed['samples'][0], 100)}" if missed["samples"] else ""
            _say(f"warning: {name}: {missed['count']:,} not understood{example}")
    if manifest.lost:
        known = sum(x["count"] or 0 for x in manifest.lost)
        unknown = any(x["count"] is None for x in manifest.lost)
        number = f"{'at least ' if unknown and known else ''}{known:,}" if known else "an unknown number of"
        _say(f"warning: {number} events were lost while recording, in {plural(len(manifest.lost), 'place')}")
    if any(not vm["certain"] for vm in manifest.vms):
        _say("warning: which vCPU threads belong to one VM was concluded from the order of their ids alone")


def _say(line: str) -> None:
    print(line, file=sys.stderr)
