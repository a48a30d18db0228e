"""Connections of guests to VMBus: versions tried and agreed, offers, the end."""

from __future__ import annotations

from typing import Any

import polars as pl

from hvtrace.analysis.vmbus.messages import INITIATE_CONTACT, UNLOAD, Messages
from hvtrace.analysis.vmbus.tables import named

__all__ = ["AGREED", "REFUSED", "connections", "version_name"]

OFFER, ALL_OFFERED = 1, 4

AGREED, REFUSED = "agreed", "refused"

_NO_END = 1 << 62


def version_name(version: int | None) -> str | None:
    """A version of the protocol as people write it."""
    return None if version is None else f"{version >> 16}.{version & 0xFFFF}"


def connections(found: Messages) -> list[dict[str, Any]]:
    """Connections by VM and time, from the first contact of each on.

    Each has vm; since_ns (the first contact was received); versions, a row each: version, outcome, ts_ns, vcpu (that
    sent it), vp (that gets messages), answered_ns (the answer was delivered), ns; version (agreed; null: none, or not
    known), agreed_ns; offers (how many channels), offered_ns (the guest was told that these are all); until_ns and
    ended ("unloaded", "contacted again"; null: it is there to the end). No event says what was answered to a contact:
    it was AGREED where the guest goes on with another message, REFUSED where it tries an older version next, else null.
    """
    sent = found.sent.filter(pl.col("taken_seq").is_not_null()).sort("taken_seq")
    after = pl.col("type").shift(-1).over("vm")
    older = pl.col("version").shift(-1).over("vm") < pl.col("version")
    outcome = (
        pl.when((after == INITIATE_CONTACT) & older)
        .then(pl.lit(REFUSED))
        .when(~after.is_in([INITIATE_CONTACT, UNLOAD]))
        .then(pl.lit(AGREED))
    )
    sent = sent.with_columns(outcome=outcome, follows=pl.col("type").shift(1).over("vm"))
    contacts = sent.filter(pl.col("type") == INITIATE_CONTACT)
    begins = (pl.col("follows") != INITIATE_CONTACT).fill_null(value=True)
    contacts = contacts.with_columns(number=begins.cum_sum().over("vm"))
    rows = []
    for (vm, _), own in contacts.group_by("vm", "number", maintain_order=True):
        rows.append(_connection(int(str(vm)), own))
    rows.sort(key=lambda row: (row["vm"], row["since_seq"]))
    for at, row in enumerate(rows):
        then = rows[at + 1] if at + 1 < len(rows) else None
        _rest(row, found, then if then is not None and then["vm"] == row["vm"] else None)
    for row in rows:
        row["vm"] = named(row["vm"])
        del row["since_seq"]
    return rows


def _connection(vm: int, contacts: pl.DataFrame) -> dict[str, Any]:
    versions = [
        {
            "version": version_name(row["version"]),
            "outcome": row["outcome"],
            "ts_ns": row["ts_ns"],
            "vcpu": row["vcpu"],
            "vp": row["vp"],
            "answered_ns": row["delivered_ns"],
            "ns": None if row["delivered_ns"] is None else row["delivered_ns"] - row["ts_ns"],
        }
        for row in contacts.iter_rows(named=True)
    ]
    agreed = next((one for one in versions if one["outcome"] == AGREED), None)
    return {
        "vm": vm,
        "since_seq": contacts["taken_seq"][0],
        "since_ns": versions[0]["ts_ns"],
        "versions": versions,
        "version": None if agreed is None else agreed["version"],
        "agreed_ns": None if agreed is None else agreed["answered_ns"],
    }


def _rest(row: dict[str, Any], found: Messages, again: dict[str, Any] | None) -> None:
    """Add offers and the end; `again` is the VM's next connection."""
    until = _NO_END if again is None else again["since_seq"]
    own = (pl.col("vm") == row["vm"]) & pl.col("seq").is_between(row["since_seq"], until, closed="left")
    given = found.given.filter(own)
    last = given.filter(pl.col("type") == ALL_OFFERED)["delivered_ns"].drop_nulls()
    unloads = found.sent.filter(own, pl.col("type") == UNLOAD, pl.col("taken_seq").is_not_null())
    row["offers"] = int((given["type"] == OFFER).sum())
    row["offered_ns"] = last[0] if len(last) else None
    row["until_ns"], row["ended"] = None, None
    if len(unloads):
        row["until_ns"], row["ended"] = unloads["ts_ns"][0], "unloaded"
    elif again is not None:
        row["until_ns"], row["ended"] = again["since_ns"], "contacted again"
