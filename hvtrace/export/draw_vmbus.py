"""Draws the states of VMBus: a VM's connection, each channel's life, the balloon behind one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from hvtrace.abi.vmbus import MESSAGES
from hvtrace.export.cut import Keys
from hvtrace.export.details import Shown
from hvtrace.export.interning import Interned
from hvtrace.export.machines import UNFINISHED, Machines, after, before, latest, slices_of, unbroken
from hvtrace.export.packets import Kind
from hvtrace.export.states import NO_VM
from hvtrace.export.texts import plain
from hvtrace.export.tracks import Tracks
from hvtrace.export.vmbus_facts import CHANNEL_BITS, SHARED, VmbusFacts, vm_of
from hvtrace.export.window import Arguments, Slices, Window

__all__ = ["VmbusStateLayer"]

_NUMBERS = {m.name: m.number for m in MESSAGES.values()}
INITIATE_CONTACT, UNLOAD, UNLOAD_RESPONSE = (
    _NUMBERS[name] for name in ("INITIATE_CONTACT", "UNLOAD", "UNLOAD_RESPONSE")
)

TAKEN = "vmbus_process_incoming_message"

#: end_seq of what the recording's end cuts off: after all events.
_NEVER = 1 << 61


@dataclass(frozen=True, slots=True)
class Event:
    """Rows of a table that change a state: which state they begin (None: none, the one before ends).

    `columns` are further ones by name. `once`: only where the state before is one of these; otherwise where it is
    another one.
    """

    table: str
    state: str | None
    columns: Mapping[str, str] = field(default_factory=dict)
    where: pl.Expr | None = None
    once: tuple[str | None, ...] | None = None


#: Before a machine's first event.
_NONE = "none"

_OTHERS = ~pl.col("message_type").is_in([INITIATE_CONTACT, UNLOAD])

#: A guest that goes on after a contact has agreed to that version: no event tells the host's answer.
CONNECTION: Sequence[Event] = (
    Event("vmbus_initiate_contact", "contact", {"major": "major", "minor": "minor"}),
    Event(TAKEN, "connected", where=_OTHERS, once=("contact", _NONE)),
    Event(TAKEN, "unloading", where=pl.col("message_type") == UNLOAD),
    Event("vmbus_post_msg", None, where=pl.col("type") == UNLOAD_RESPONSE),
)

CHANNEL: Sequence[Event] = (
    Event("vmbus_send_offer", "offered"),
    Event("vmbus_gpadl_header", "sharing pages", {"gpadl": "gpadl_id", "pages": "num_gfns"}),
    Event("vmbus_gpadl_created", "pages shared", {"gpadl": "gpadl_id"}),
    Event("vmbus_open_channel", "opening", {"gpadl": "gpadl_id", "vp": "target_vp"}),
    Event("vmbus_channel_open", "open", {"status": "status"}, where=pl.col("status") == 0),
    Event("vmbus_channel_open", "refused", {"status": "status"}, where=pl.col("status") != 0),
    Event("vmbus_close_channel", "closed"),
    Event("vmbus_gpadl_teardown", "taking pages back", {"gpadl": "gpadl_id"}),
    Event("vmbus_gpadl_torndown", "offered", {"gpadl": "gpadl_id"}),
)

#: Ends the state of all the VM's channels.
RESETS: Sequence[Event] = (
    Event(TAKEN, None, where=pl.col("message_type") == INITIATE_CONTACT),
    Event(TAKEN, None, where=pl.col("message_type") == UNLOAD),
)

BALLOON = "hv_balloon_state_change"

COLUMNS: Mapping[str, pl.DataType] = {
    "state": pl.String(),
    "major": pl.Int64(),
    "minor": pl.Int64(),
    "gpadl": pl.Int64(),
    "pages": pl.Int64(),
    "vp": pl.Int64(),
    "status": pl.Int64(),
    "once": pl.List(pl.String()),
}

SHOWN = tuple(Shown(name, name, Kind.UINT) for name in ("gpadl", "pages", "vp", "status"))


class VmbusStateLayer:
    """States of connections, channels and balloons, by VM."""

    def __init__(self, names: Interned, tracks: Tracks, facts: VmbusFacts) -> None:
        self._names = names
        self._tracks = tracks
        self._facts = facts
        self._arguments = Arguments(names)
        self._connections = Machines((), 0, COLUMNS)
        self._channels = Machines((), CHANNEL_BITS, COLUMNS)
        self._balloons = Machines((), 0, COLUMNS)
        self.tables: dict[str, tuple[str, ...]] = {
            TAKEN: ("message_type",),
            "vmbus_initiate_contact": ("major", "minor"),
            "vmbus_post_msg": ("type",),
            "vmbus_send_offer": ("chan_id",),
            "vmbus_open_channel": ("chan_id", "gpadl_id", "target_vp"),
            "vmbus_channel_open": ("chan_id", "status"),
            "vmbus_close_channel": ("chan_id",),
            "vmbus_gpadl_header": ("gpadl_id", "num_gfns"),
            **dict.fromkeys(SHARED[1:], ("gpadl_id",)),
            BALLOON: ("tostr",),
        }
        self.by: dict[str, Keys] = {
            TAKEN: (("vm", "message_type"),),
            "vmbus_post_msg": (("vm", "type"),),
            **{
                table: (("vm", columns[0]),)
                for table, columns in self.tables.items()
                if table[:6] == "vmbus_" and "_id" in columns[0]
            },
        }

    def draw(self, window: Window) -> list[Slices]:
        """Return states that ended in this window; in the last one also those that last to the recording's end."""
        new = window.new
        connection = self._drawn(
            window,
            self._connections,
            [_read(new, event, pl.lit(0)) for event in CONNECTION],
            "vmbus connection",
            0,
        )
        channel = self._drawn(window, self._channels, self._lives(new), "vmbus channel", CHANNEL_BITS)
        states = Event(BALLOON, "", {"state": "tostr"})
        balloon = self._drawn(window, self._balloons, [_read(new, states, pl.lit(0))], "vmbus balloon", 0)
        return [connection, channel, balloon]

    def _lives(self, new: Mapping[str, pl.DataFrame]) -> list[pl.DataFrame]:
        """Events of channels. Pages belong to the channel that is opened with them."""
        found = []
        for event in CHANNEL:
            if event.table not in SHARED:
                found.append(_read(new, event, pl.col("chan_id")))
                continue
            rows = _read(new, event, pl.lit(0))
            owners = self._facts.channel_of(rows.with_columns(vm="machine"))
            found.append(
                owners.with_columns(machine=_machine("channel")).filter(pl.col("machine").is_not_null())
            )
        for event in RESETS:
            rows = _read(new, event, pl.lit(0)).rename({"machine": "vm"})
            rows = rows.join(self._facts.channels, on="vm").with_columns(machine=_machine("channel"))
            found.append(rows)
        return found

    def _drawn(
        self, window: Window, machines: Machines, parts: Sequence[pl.DataFrame], kind: str, bits: int
    ) -> Slices:
        events = machines.joined(pl.concat([part.select(*machines.schema) for part in parts]))
        # The same state again changes nothing, such as an offer that is repeated as its slot was busy.
        last = before("state").fill_null("ended")
        first = pl.col("machine").shift(1).ne_missing(pl.col("machine"))
        last = pl.when(first).then(pl.lit(_NONE)).otherwise(last)
        fresh = (
            pl.when(pl.col("once").is_not_null())
            .then(pl.col("once").list.contains(last))
            .otherwise((pl.col("state").fill_null("ended") != last) | pl.col("major").is_not_null())
        )
        kept = events.filter(~pl.col("new") | fresh)
        kept = kept.with_columns(latest(pl.col("major")), latest(pl.col("minor")))
        machines.remember(kept)
        states = kept.with_columns(end_seq=after("seq"), end_ts=after("ts"), end_new=after("new")).filter(
            pl.col("state").is_not_null()
        )
        states = unbroken(_until_end(states, window, bits, self._facts.last_ns), self._facts.losses)
        return slices_of(
            "vmbus",
            states,
            self._tracks.many(kind, states["machine"].to_numpy(), bits),
            self._labels(states),
            self._arguments.of((*SHOWN, UNFINISHED), states),
        )

    def _labels(self, states: pl.DataFrame) -> np.ndarray:
        columns = states.select("state", "major", "minor").iter_rows()
        return np.array([self._names.event(_label(*row)) for row in columns], np.uint64)


def _label(state: str, major: int | None, minor: int | None) -> str:
    version = "" if major is None else f"{major}.{minor}"
    words = {"contact": f"contact, version {version}", "connected": f"connected {version}".rstrip()}
    return words.get(state) or plain(state, 80)


def _machine(index: str) -> pl.Expr:
    return pl.col("vm") * (1 << CHANNEL_BITS) + pl.col(index)


def _read(new: Mapping[str, pl.DataFrame], event: Event, index: pl.Expr) -> pl.DataFrame:
    """Events of a window's new rows: machine (the VM and, where `index` is a column, that), and COLUMNS."""
    schema = {"machine": pl.Int64(), "seq": pl.Int64(), "ts": pl.Int64(), "kind": pl.Int8(), **COLUMNS}
    rows = new.get(event.table)
    if rows is None:
        return pl.DataFrame(schema=schema)
    if event.where is not None:
        rows = rows.filter(event.where)
    inner = bool(index.meta.root_names())
    if inner:
        rows = rows.filter(index.is_between(0, (1 << CHANNEL_BITS) - 1))
    given = {
        "machine": vm_of() * (1 << CHANNEL_BITS) + index.cast(pl.Int64) if inner else vm_of(),
        "seq": pl.col("seq"),
        "ts": pl.col("ts_ns"),
        # One kind: of each machine the last event alone counts later.
        "kind": pl.lit(0),
        "state": pl.lit(event.state, pl.String),
        "once": pl.lit(None if event.once is None else list(event.once), pl.List(pl.String)),
        **{name: pl.col(column) for name, column in event.columns.items()},
    }
    return rows.select(
        given.get(name, pl.lit(None)).cast(dtype).alias(name) for name, dtype in schema.items()
    )


def _until_end(rows: pl.DataFrame, window: Window, bits: int, last_ns: int | None) -> pl.DataFrame:
    """States that end in this window, and in the last one those that are there until the recording's end.

    A VM that is not known is there until then (`last_ns`).
    """
    ends = {NO_VM: last_ns} if window.final and last_ns is not None else {}
    for key, ts in window.open_until.items() if window.final else ():
        ends[key >> 16] = max(ts, ends.get(key >> 16, ts))
    last = (pl.col("machine") // (1 << bits)).replace_strict(ends, default=None, return_dtype=pl.Int64)
    is_open = pl.col("end_ts").is_null() & last.is_not_null()
    if window.edge:
        # Of what comes after the part wanted, not all events are there that end it.
        is_open &= ~pl.col("new")
    return rows.with_columns(
        end_ts=pl.when(is_open).then(last).otherwise(pl.col("end_ts")),
        end_seq=pl.when(is_open).then(_NEVER).otherwise(pl.col("end_seq")),
        end_new=is_open | pl.col("end_new"),
        unfinished=pl.when(is_open).then(True),
    ).filter(pl.col("end_new").fill_null(value=False))
