"""Every declared layout: what is printed by it is read back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hvtrace.parsers.text.cursor import Text
from hvtrace.parsers.text.events import EventReader
from hvtrace.parsers.text.layout import (
    Choice,
    Constant,
    Flag,
    HexBytes,
    LayoutError,
    Literal,
    Maybe,
    Msi,
    Number,
    Op,
    String,
    parse_layout,
)
from hvtrace.parsers.text.match import Captured, Matcher
from hvtrace.parsers.text.vocabulary import VOCABULARY
from hvtrace.schema.registry import TRACEPOINTS
from hvtrace.schema.tracepoint import Tracepoint

LAYOUTS = [
    pytest.param(tracepoint, layout, id=f"{tracepoint.name}-{i}")
    for tracepoint in TRACEPOINTS
    for i, layout in enumerate(tracepoint.layouts)
]
BITS = {"u8": 8, "u16": 16, "u32": 32, "s8": 8, "s16": 16, "s32": 32, "bool": 1}
#: Letters that begin no literal of a layout.
WORD = st.text("qjzQJZ/:0123456789", min_size=1, max_size=15)


class Printer:
    """Prints a layout with drawn values, and remembers what a reader must find."""

    def __init__(self, draw: st.DrawFn, tracepoint: Tracepoint, ops: tuple[Op, ...]) -> None:
        self.draw = draw
        self.types = {f.name: f.type for f in tracepoint.fields}
        self.seen = [name for op in flat(ops) for name in names(op)]
        self.values: dict[str, Any] = {}
        self.text = b""
        for op in ops:
            self.print(op)

    def number(self, field: str | None) -> int:
        bits = BITS.get(self.types.get(field or "", ""), 64)
        # Bits joined from several captures: each prints the lowest byte only.
        return self.draw(st.integers(0, min(2**bits - 1, 0xFF if self.seen.count(field) > 1 else 2**64)))

    def keep(self, field: str | None, value: int | None) -> None:
        if field is not None and value is not None:
            self.values[field] = self.values.get(field, 0) | value & 0xFFFFFFFFFFFFFFFF

    def print(self, op: Op) -> None:
        match op:
            case Literal(text):
                self.text += text
            case Number(field, kind, shift):
                value = self.number(field)
                self.text += {"x": f"{value:x}", "X": f"{value:#x}" if value else "0"}.get(
                    kind, str(value)
                ).encode()
                self.keep(field, -value if kind == "-u" else value << shift)
            case Choice(fields, words, _):
                word = self.draw(st.sampled_from(sorted(words)))
                self.text += word.encode()
                for field, value in zip(fields, words[word], strict=True):
                    self.keep(field, value)
            case Constant(field, value):
                self.keep(field, value)
            case Flag(field, text):
                there = self.draw(st.booleans())
                self.text += text if there else b""
                self.keep(field, int(there))
            case String(field, follow):
                said = self.draw(WORD).encode().replace(follow or b"\0", b"")
                self.text += said
                if field is not None:
                    self.values[field] = said
            case HexBytes(field, length_field, between):
                said = self.draw(st.binary(min_size=1, max_size=15))
                self.text += said.hex(between.decode()).encode()
                self.values[field] = said
                self.keep(length_field, len(said))
            case Msi(field):
                value = self.draw(st.integers(0, 2**32 - 1))
                self.text += f"{value:x}".encode()
                self.keep(field, (value & 0xFF) << 12 | (value & 0xFFFFFF00) << 32)
            case Maybe(ops):
                if self.draw(st.booleans()):
                    for inner in ops:
                        self.print(inner)


def flat(ops: tuple[Op, ...]) -> list[Op]:
    return [x for op in ops for x in ([op, *flat(op.ops)] if isinstance(op, Maybe) else [op])]


def names(op: Op) -> tuple[str | None, ...]:
    return op.fields if isinstance(op, Choice) else (getattr(op, "field", None),)


def found(text: bytes, captured: Captured) -> dict[str, Any]:
    """What the reader took out of the one line it was given."""
    result: dict[str, Any] = {name: int(v[0]) for name, v in captured.values.items()}
    result |= {name: text[s.start[0] : s.end[0]] for name, s in captured.strings.items()}
    result |= {name: rows[0, : n[0]].tobytes() for name, (rows, n) in captured.bytes.items()}
    return {k: v for k, v in result.items() if k not in captured.valid or captured.valid[k][0]}


@pytest.mark.parametrize(("tracepoint", "layout"), LAYOUTS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_a_layout_prints_it_reads(tracepoint: Tracepoint, layout: str, data: st.DataObject) -> None:
    """Any values of the fields' types, any of the words, optional parts there or not."""
    ops = parse_layout(layout, VOCABULARY)
    printed = Printer(data.draw, tracepoint, ops)
    matcher = Matcher(ops, {f.name: BITS.get(f.type, 64) for f in tracepoint.fields})
    end = np.array([len(printed.text.rstrip(b" "))])
    captured = matcher.run(Text(printed.text + b"\n  next line"), np.array([0]), end)
    assert captured.fits.tolist() == [True], printed.text
    assert found(printed.text, captured) == printed.values


@pytest.mark.parametrize(("tracepoint", "layout"), LAYOUTS)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_text_cut_short_never_fails(tracepoint: Tracepoint, layout: str, data: st.DataObject) -> None:
    """Any beginning of a text, and texts of several layouts in one block, are read or refused, without an error."""
    texts = [
        Printer(data.draw, tracepoint, parse_layout(other, VOCABULARY)).text for other in tracepoint.layouts
    ]
    cut = [text[: data.draw(st.integers(0, len(text)))] for text in texts]
    lines = [*texts, *cut]
    start = np.cumsum([0] + [len(line) + 1 for line in lines[:-1]])
    end = start + [len(line.rstrip(b" ")) for line in lines]
    rows = EventReader(tracepoint).read(Text(b"\n".join(lines)), start, end)
    assert rows.understood[: len(texts)].all()
    assert [len(column) for column in rows.columns] == [len(lines)] * len(tracepoint.fields)


def test_every_field_of_a_layout_is_declared() -> None:
    """A capture fills a field of its tracepoint."""
    wrong = [
        (tracepoint.name, name)
        for tracepoint in TRACEPOINTS
        for layout in tracepoint.layouts
        for op in flat(parse_layout(layout, VOCABULARY))
        for name in names(op)
        if name is not None and name not in {f.name for f in tracepoint.fields}
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "layout", ["{", "a]", "[a", "{f}", "{f:@nothing}", "{f:q}", "{-?x}", "{:u}"], ids=lambda layout: layout
)
def test_a_layout_that_is_not_written_by_the_grammar_is_refused(layout: str) -> None:
    with pytest.raises(LayoutError):
        parse_layout(layout, VOCABULARY)


#: ftrace's form of a marker is any text at all.
OVERLAPPING = {"print"}


@pytest.mark.parametrize(
    "tracepoint",
    [t for t in TRACEPOINTS if len(t.layouts) > 1 and t.name not in OVERLAPPING],
    ids=lambda t: t.name,
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_layout_takes_another_s_text_for_something_else(
    tracepoint: Tracepoint, data: st.DataObject
) -> None:
    """The order in which layouts are tried is a matter of speed: where two fit a text, they say the same."""
    parsed = [parse_layout(layout, VOCABULARY, data.draw(st.booleans())) for layout in tracepoint.layouts]
    bits = {f.name: BITS.get(f.type, 64) for f in tracepoint.fields}
    printed = Printer(data.draw, tracepoint, data.draw(st.sampled_from(parsed)))
    end = np.array([len(printed.text.rstrip(b" "))])
    for ops in parsed:
        captured = Matcher(ops, bits).run(Text(printed.text + b"\n"), np.array([0]), end)
        if captured.fits[0]:
            said = found(printed.text, captured)
            assert {k: v for k, v in said.items() if v != printed.values.get(k, 0)} == {}
