"""What an answer of VMBus says: identifiers, completeness, results (QEMU hw/hyperv/vmbus.c, send_*)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvtrace.replay.model.vmbus_finding import Aspect, Finding, finding
from hvtrace.replay.model.vmbus_protocol import (
    ANNOUNCED_BY,
    GPADL_BODY,
    GPADL_HEADER,
    GPADL_TEARDOWN,
    OFFERCHANNEL,
    OPENCHANNEL,
)

if TYPE_CHECKING:
    from hvtrace.replay.model.vmbus import Announcement, Bus, Gpadl, Taken

__all__ = ["contents", "ignored"]


def ignored(bus: Bus, one: Announcement, message: Taken) -> Finding:
    """A message that was to be ignored is answered."""
    if message.number in (GPADL_HEADER, GPADL_BODY) and _missing(bus, message):
        text = "a GPADL is created before all of its pages are known"
        expected = f"{_missing(bus, message)} more pages"
        return finding(Aspect.COMPLETE, one.event, one.cell, False, expected, one.name, text)
    return finding(
        Aspect.CALLED,
        one.event,
        one.cell,
        False,
        "no answer",
        one.name,
        f"{message.name} is to be ignored here",
    )


def _missing(bus: Bus, message: Taken) -> int:
    """Pages that are not known yet."""
    shared = _shared(bus, message.ident)
    return 0 if shared is None or shared.seen is None else shared.pages - shared.seen


def _shared(bus: Bus, gpadl: int | None) -> Gpadl | None:
    known = bus.gpadls
    return None if known is None or gpadl is None else known.get(gpadl)


def contents(bus: Bus, one: Announcement, message: Taken) -> list[Finding]:
    """Identifiers and status of an answer that comes in its place."""
    event, cell = one.event, one.cell
    found = []
    if message.number in (OPENCHANNEL, GPADL_HEADER, GPADL_BODY, GPADL_TEARDOWN):
        if message.ident is None:
            found.append(finding(Aspect.IDENTIFIED, event, cell, None, why=bus.why))
        else:
            text = f"{one.name} is of another than {message.name}"
            fits = one.ident == message.ident
            found.append(
                finding(Aspect.IDENTIFIED, event, cell, fits, f"#{message.ident}", f"#{one.ident}", text)
            )
    if one.name == ANNOUNCED_BY[OFFERCHANNEL]:
        new = None if bus.offered is None else one.ident not in bus.offered and bool(one.ident)
        text = "there is no channel 0" if one.ident == 0 else "a channel is offered twice"
        found.append(
            finding(
                Aspect.OFFERED,
                event,
                cell,
                new,
                "another channel",
                f"channel {one.ident}",
                text,
                bus.why,
            )
        )
    if message.number in (GPADL_HEADER, GPADL_BODY) and message.owed is not False:
        shared = _shared(bus, message.ident)
        whole = None if shared is None or shared.seen is None else True
        found.append(finding(Aspect.COMPLETE, event, cell, whole, why=bus.why))
        if message.likely:
            found.append(finding(Aspect.SHARED, message.event, message.cell, True))
    if message.number == OPENCHANNEL:
        found += _result(bus, one, message)
    return found


def _result(bus: Bus, one: Announcement, message: Taken) -> list[Finding]:
    event, cell = one.event, one.cell
    shared = _shared(bus, message.gpadl)
    missing = bus.gpadls is not None and message.gpadl is not None and shared is None
    alive = shared is not None and shared.alive
    if one.status not in (0, 1):
        text = "QEMU knows two results, 0 and 1"
        wrong = finding(Aspect.RESULT, event, cell, False, "status 0 or 1", f"status {one.status}", text)
        return [wrong]
    if one.status:
        return [finding(Aspect.RESULT, event, cell, True)]
    fits = False if missing else True if alive else None
    text = f"a channel opens whose GPADL {message.gpadl} does not exist"
    found = [finding(Aspect.RESULT, event, cell, fits, "status 1", "status 0", text, bus.why)]
    offered = None if bus.offered is None else message.ident in bus.offered
    text = f"channel {message.ident} was never offered"
    found.append(
        finding(
            Aspect.UNOFFERED,
            event,
            cell,
            offered,
            "a channel that was offered",
            "status 0",
            text,
            bus.why,
        )
    )
    return found
