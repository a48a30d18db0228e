r"""The text forms of tracepoints: the grammar of `Tracepoint.layouts`, and its parser.

A layout is the text as it is printed, with captures in braces and optional parts in brackets:

    vcpu {vcpu_id:u}, rip 0x{rip:x}[ requests 0x{requests:x}]{immediate_exit?\[immediate exit\]}

| written | means |
| --- | --- |
| `{f:u}` `{f:d}` | a decimal number, without or with a sign |
| `{f:-u}` | a decimal number whose sign was turned before printing |
| `{f:x}` | a hexadecimal number without 0x |
| `{f:X}` | a hexadecimal number with 0x, which zero may lack |
| `{f:x<<56}` | the number, shifted left |
| `{f:a=1\|b=0}` | one of these words, and the number it stands for |
| `{f:@table}` | one of the words of a table in `hvtrace.parsers.text.vocabulary`; `{f,g:@table}` fills two fields |
| `{f?text}` | true where the text stands here, false where it does not |
| `{f=1}` | nothing is read: the field has this value |
| `{f=1!}` | the same, but only where the kernel printed the text (libtraceevent prints some forms wrongly) |
| `{f:s}` | a string, up to where the next literal stands first, or the end of the line |
| `{f:r}` | a string, up to where the next literal stands with all that the layout has after it |
| `{f,n:b}` | hexadecimal bytes separated by blanks, and their number |
| `{f:msi}` | a message-signalled interrupt's destination, as the bits of its address |
| `{-:…}` | read, but not kept |
| `[…]` | may be missing; its fields are null then |

A number also stands for a word that the kernel had no name for (`0x25`). A field captured more than once has the
bits of all its captures. A backslash takes `[ ] { }` literally. Blanks at the end of the line do not matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = [
    "Choice",
    "Constant",
    "Flag",
    "HexBytes",
    "LayoutError",
    "Literal",
    "Maybe",
    "Msi",
    "Number",
    "Op",
    "String",
    "Words",
    "parse_layout",
]

#: A word, and the values it gives to the choice's fields (None: it gives none).
Words = Mapping[str, tuple[int | None, ...]]


class LayoutError(ValueError):
    """A layout that is not written by the grammar."""


@dataclass(frozen=True, slots=True)
class Literal:
    """Text that must stand here."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Number:
    """A number; `kind` is u, d, -u, x, X, or auto (raw fields: 0x tells hexadecimal)."""

    field: str | None
    kind: str
    shift: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some words. `follow` is the literal after it: None unknown, empty the end of the line."""

    fields: tuple[str | None, ...]
    words: Words
    follow: bytes | None


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that the layout itself tells."""

    field: str
    value: int


@dataclass(frozen=True, slots=True)
class Flag:
    """Whether a text stands here."""

    field: str
    text: bytes


@dataclass(frozen=True, slots=True)
class String:
    """Text up to `follow` (empty: the end of the line); with `rest_fits`, up to where all of `rest` fits."""

    field: str | None
    follow: bytes
    rest_fits: bool = False
    rest: tuple[Op, ...] = ()


@dataclass(frozen=True, slots=True)
class HexBytes:
    """Hexadecimal bytes separated by `between`."""

    field: str
    length_field: str | None
    between: bytes = b" "


@dataclass(frozen=True, slots=True)
class Msi:
    """The destination of a message-signalled interrupt."""

    field: str


@dataclass(frozen=True, slots=True)
class Maybe:
    """Ops that may be missing as a whole."""

    ops: tuple[Op, ...]


Op = Literal | Number | Choice | Constant | Flag | String | HexBytes | Msi | Maybe

_NUMBERS = {"u", "d", "-u", "x", "X"}
_CAPTURE = re.compile(r"(?P<fields>[\w,]+|-)(?P<mark>[:?=])(?P<what>.*)", re.DOTALL)


def _unescape(text: str) -> bytes:
    return re.sub(r"\\(.)", r"\1", text).encode()


def _words(what: str) -> Words:
    words = {}
    for part in what.split("|"):
        word, _, value = part.rpartition("=")
        words[word] = (int(value, 0),)
    return words


#: `{e:|masked=0x10000}` is a word that begins with the separator itself.
_BAR_WORD = re.compile(r"\|(\w+)=(\w+)")


class _Parser:
    def __init__(self, layout: str, tables: Mapping[str, Words], kernel: bool) -> None:
        self.kernel = kernel
        self.layout = layout
        self.tables = tables
        self.pos = 0

    def fail(self, why: str) -> LayoutError:
        return LayoutError(f"{why} at {self.pos} of layout {self.layout!r}")

    def ops(self, closing: str = "") -> tuple[Op, ...]:
        result: list[Op] = []
        literal = ""

        def flush() -> None:
            nonlocal literal
            if literal:
                result.append(Literal(literal.encode()))
                literal = ""

        while self.pos < len(self.layout):
            char = self.layout[self.pos]
            self.pos += 1
            if char == "\\":
                literal += self.layout[self.pos]
                self.pos += 1
            elif char == "{":
                flush()
                result.extend(self.capture())
            elif char == "[":
                flush()
                result.append(Maybe(self.ops("]")))
            elif char == closing:
                flush()
                return tuple(result)
            elif char in "]}":
                raise self.fail(f"unexpected {char}")
            else:
                literal += char
        if closing:
            raise self.fail(f"missing {closing}")
        flush()
        return tuple(result)

    def capture(self) -> tuple[Op, ...]:
        end = self.pos
        while end < len(self.layout) and self.layout[end] != "}":
            end += 2 if self.layout[end] == "\\" else 1
        inside, self.pos = self.layout[self.pos : end], end + 1
        parts = _CAPTURE.fullmatch(inside)
        if parts is None:
            raise self.fail(f"no capture {{{inside}}}")
        names = tuple(None if name == "-" else name for name in parts["fields"].split(","))
        if parts["mark"] == "=" and parts["what"].endswith("!"):
            constant = self.op(names, "=", parts["what"][:-1])
            return (constant,) if self.kernel else ()
        return (self.op(names, parts["mark"], parts["what"]),)

    def op(self, names: tuple[str | None, ...], mark: str, what: str) -> Op:
        name = names[0]
        if mark == "?" and name is not None:
            return Flag(name, _unescape(what))
        if mark == "=" and name is not None:
            return Constant(name, int(what, 0))
        if mark != ":":
            raise self.fail(f"{{-{mark}}} keeps nothing")
        number, _, shift = what.partition("<<")
        if number in _NUMBERS:
            return Number(name, number, int(shift or 0))
        if what in ("s", "r"):
            return String(name, b"", rest_fits=what == "r")
        if what == "b" and name is not None:
            return HexBytes(name, names[1] if len(names) > 1 else None)
        if what == "msi" and name is not None:
            return Msi(name)
        if what.startswith("@"):
            if what[1:] not in self.tables:
                raise self.fail(f"no table {what}")
            return Choice(names, self.tables[what[1:]], None)
        if bar := _BAR_WORD.fullmatch(what):
            return Choice(names, {"|" + bar[1]: (int(bar[2], 0),)}, None)
        if "=" in what:
            return Choice(names, _words(what), None)
        raise self.fail(f"no kind {what!r}")


def _linked(ops: tuple[Op, ...], after: bytes | None) -> tuple[Op, ...]:
    """The same ops, where choices and strings know what follows them."""
    result: list[Op] = []
    for i, op in enumerate(ops):
        following = ops[i + 1] if i + 1 < len(ops) else None
        follow = after if following is None else following.text if isinstance(following, Literal) else None
        if isinstance(op, Choice):
            op = Choice(op.fields, op.words, follow)
        elif isinstance(op, String):
            rest = _linked(ops[i + 1 :], after) if op.rest_fits else ()
            op = String(op.field, follow or b"", op.rest_fits, rest)
        elif isinstance(op, Maybe):
            op = Maybe(_linked(op.ops, follow))
        result.append(op)
    return tuple(result)


def parse_layout(layout: str, tables: Mapping[str, Words], kernel: bool = True) -> tuple[Op, ...]:
    """The ops of a layout, for text that the kernel (or libtraceevent) printed.

    `tables` are the word tables it may name. Raises LayoutError.
    """
    parser = _Parser(layout, tables, kernel)
    return _linked(parser.ops(), b"")
