"""Event formats: the text with which a recording describes its own records (tracefs `events/*/*/format`).

Source: Documentation/trace/events.rst, section "Event formats".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["COMMON_FIELDS", "EventFormat", "FormatField", "parse_event_format"]

#: A format text is a few KiB; more than this is damage.
MAX_TEXT = 1 << 20

#: Every record starts with these.
COMMON_FIELDS = ("common_type", "common_flags", "common_preempt_count", "common_pid")

# Every repetition is bounded, so that no text, however damaged, takes long or gives a huge number.
_FIELD = re.compile(
    r"^[ \t]*field:(?P<decl>[^;]{1,256});\s{0,8}offset:(?P<offset>\d{1,6});\s{0,8}size:(?P<size>\d{1,6});"
    r"(?:\s{0,8}signed:(?P<signed>[01]);)?",
    re.MULTILINE | re.ASCII,
)
_DECL = re.compile(r"^(?P<type>.*?[\s*])(?P<name>\w+)\s*(?P<array>(?:\[[^\]]*\])*)$", re.DOTALL | re.ASCII)
#: Names are C identifiers: tables and files are named after them.
_NAME = re.compile(r"^name:[ \t]*(\w{1,128})[ \t]*$", re.MULTILINE | re.ASCII)
_ID = re.compile(r"^(?:ID|id):[ \t]*(\d{1,9})[ \t]*$", re.MULTILINE | re.ASCII)


@dataclass(frozen=True, slots=True)
class FormatField:
    """One field of a record: byte offset and size from the record's start (common_type)."""

    name: str
    ctype: str
    offset: int
    size: int
    signed: bool
    #: True for char[16], u8[15] and the like; `char buf[]` has size 0 and runs to the record's end.
    array: bool
    #: "data": size 4, low half offset from the record's start, high half length; "rel": relative to the field's end.
    loc: str | None

    @property
    def is_text(self) -> bool:
        """Whether the bytes of this array are characters."""
        return self.array and re.search(r"\bchar\b", self.ctype) is not None and "unsigned" not in self.ctype


@dataclass(frozen=True, slots=True)
class EventFormat:
    """The layout of one event type's records. `size` is the length in bytes of the fixed part."""

    system: str
    name: str
    id: int
    common: tuple[FormatField, ...]
    fields: tuple[FormatField, ...]
    size: int


def _field(match: re.Match[str]) -> FormatField | None:
    decl = _DECL.match(match["decl"].strip())
    if decl is None:
        return None
    ctype, array = decl["type"].strip(), bool(decl["array"])
    loc = None
    for prefix, kind in (("__data_loc", "data"), ("__rel_loc", "rel")):
        if ctype.startswith(prefix):
            ctype, loc, array = ctype.removeprefix(prefix).strip().removesuffix("[]").strip(), kind, True
    return FormatField(
        name=decl["name"],
        ctype=ctype,
        offset=int(match["offset"]),
        size=int(match["size"]),
        signed=match["signed"] == "1",
        array=array,
        loc=loc,
    )


def parse_event_format(text: str, system: str = "") -> EventFormat | None:
    """Return the format that `text` describes, None where it names no event or has no common_type."""
    text = text[:MAX_TEXT]
    name, number = _NAME.search(text), _ID.search(text)
    if name is None or number is None:
        return None
    head = text.split("\nprint fmt:", 1)[0]
    named = {f.name: f for m in _FIELD.finditer(head) if (f := _field(m)) is not None}
    fields = list(named.values())
    common = tuple(f for f in fields if f.name.startswith("common_"))
    own = tuple(f for f in fields if not f.name.startswith("common_"))
    if not any(f.name == "common_type" for f in common):
        return None
    size = max(f.offset + f.size for f in fields)
    if size > 1 << 16:
        return None
    return EventFormat(system=system, name=name[1], id=int(number[1]), common=common, fields=own, size=size)
