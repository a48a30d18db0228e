"""What the page shows at first: the link that makes the Perfetto UI load a timeline and go to its first divergence."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from urllib.parse import quote, urlencode

import polars as pl

from hvtrace.export.divergences import in_part
from hvtrace.export.streams import Which
from hvtrace.export.tracks import vm_name
from hvtrace.store import Store

__all__ = ["Spot", "first_divergence", "view_link"]

#: Groups that are opened, and tracks that are pinned at the top where there is a divergence, by the names they are
#: given in hvtrace.export.tracks. The UI searches names for these (JavaScript) regular expressions.
EXPANDED = ("^VMs$", r"^VM \d+$", r"^VM not known$", r"^vCPU \d+$")
PINNED = r"^Divergences$"

#: Listed beneath the timeline. With these columns the UI makes each `id` a link to the slice.
LISTED = (
    "SELECT id, name, extract_arg(arg_set_id, 'debug.expected') AS expected, "
    "extract_arg(arg_set_id, 'debug.observed') AS observed, ts, dur, track_id, id AS slice_id "
    "FROM slice WHERE category = 'divergence' ORDER BY ts"
)

#: Shown before and after a divergence: the exits around it, wide enough to read their names.
MARGIN_NS = 500_000


@dataclass(frozen=True, slots=True)
class Spot:
    """A divergence and the time shown around it, in ns of the trace clock."""

    ts_ns: int
    first_ns: int
    last_ns: int


def first_divergence(store: Store, which: Which) -> Spot | None:
    """Return where the timeline of this part is to be opened; None: at its whole length.

    The earliest error that no baseline accepts; without one, the earliest of the others, errors first.
    """
    if not store.has("divergences") or not which.wants("divergences"):
        return None
    urgency = (pl.col("severity") != "error", pl.col("known").fill_null(False), pl.col("ts_ns"))
    found = store.scan("divergences").filter(in_part(which)).sort(*urgency).select("ts_ns").head(1).collect()
    if found.is_empty():
        return None
    ts = int(found.item())
    # The UI takes a window only if it lies within the trace.
    starts, ends = (
        (store.manifest.time["first_ns"], which.first_ns),
        (store.manifest.time["last_ns"], which.last_ns),
    )
    first = max(t for t in (ts - MARGIN_NS, *starts) if t is not None)
    last = min(t for t in (ts + MARGIN_NS, *ends) if t is not None)
    return Spot(ts, min(first, ts), max(last, ts))


def view_link(page: str, trace: str, store: Store, spot: Spot | None) -> str:
    """Return the deep link: the UI at `page` loads `trace` (a URL), opens the VMs and vCPUs, and goes to `spot`.

    What a link can ask for: https://perfetto.dev/docs/visualization/deep-linking-to-perfetto-ui; the commands are
    of those that the UI permits at its start (STARTUP_COMMAND_ALLOWLIST in its source).
    """
    names = dict.fromkeys(vm_name(vm, vm["vm"]) for vm in store.manifest.vms if vm.get("name"))
    opened = "|".join((*EXPANDED, *(f"^{re.escape(name)}$" for name in names)))
    arguments = {"url": trace}
    commands = [("dev.perfetto.ExpandTracksByRegex", opened)]
    if spot is not None:
        # `ts` and `dur` select the instant.
        arguments |= {"ts": str(spot.ts_ns), "dur": "0"}
        arguments |= {"visStart": str(spot.first_ns), "visEnd": str(spot.last_ns)}
        commands += [
            ("dev.perfetto.PinTracksByRegex", PINNED),
            ("dev.perfetto.RunQueryAndShowTab", LISTED),
        ]
    arguments["startupCommands"] = json.dumps(
        [{"id": command, "args": [argument]} for command, argument in commands], separators=(",", ":")
    )
    return f"{page}/#!/?{urlencode(arguments, quote_via=quote, safe=':/')}"
