"""Numbers and words read at many places of a text at once."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hvtrace.parsers.text.cursor import Text

NUMBERS = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40)


def starts(tokens: list[str]) -> tuple[Text, np.ndarray]:
    """A text of tokens with blanks between them, and where each starts."""
    at = np.cumsum([0] + [len(t) + 1 for t in tokens[:-1]])
    return Text(" ".join(tokens).encode()), at.astype(np.int64)


@given(NUMBERS)
def test_decimal_numbers_are_read_whole(numbers: list[int]) -> None:
    """Every 64-bit number has its value and its length."""
    text, at = starts([str(n) for n in numbers])
    values, lengths = text.decimal(at)
    assert values.tolist() == numbers
    assert lengths.tolist() == [len(str(n)) for n in numbers]


@given(NUMBERS, st.sampled_from(["x", "08x", "016x"]))
def test_hexadecimal_numbers_are_read_whole(numbers: list[int], form: str) -> None:
    text, at = starts([f"{n:{form}}" for n in numbers])
    values, lengths = text.hexadecimal(at)
    assert values.tolist() == numbers
    assert lengths.tolist() == [len(f"{n:{form}}") for n in numbers]


@given(st.lists(st.text("0123456789abcdefg .:-", min_size=1, max_size=24), min_size=1, max_size=20))
def test_what_is_no_number_has_no_length(tokens: list[str]) -> None:
    """A number ends at the first other character; more digits than fit 64 bits are no number."""
    text, at = starts([f"{t}z" for t in tokens])
    decimal = [len(t) - len(t.lstrip("0123456789")) for t in tokens]
    hexadecimal = [len(t) - len(t.lstrip("0123456789abcdef")) for t in tokens]
    assert text.decimal(at)[1].tolist() == [n if n <= 20 else 0 for n in decimal]
    assert text.hexadecimal(at)[1].tolist() == [n if n <= 16 else 0 for n in hexadecimal]


@given(st.text("ab \n", max_size=200).map(str.encode), st.sampled_from(b"ab \n"))
def test_all_places_of_a_byte_are_found(data: bytes, byte: int) -> None:
    assert Text(data).positions(byte).tolist() == [i for i, c in enumerate(data) if c == byte]


@given(st.text("ab", max_size=60), st.text("ab", min_size=1, max_size=30))
def test_a_literal_matches_where_it_stands(before: str, literal: str) -> None:
    """Literals of any length are compared as a whole."""
    data = (before + literal).encode()
    text = Text(data)
    at = np.arange(len(data))
    expected = [data[i:].startswith(literal.encode()) for i in at]
    assert text.matches(at, literal.encode()).tolist() == expected


def test_a_search_ends_at_the_end_of_the_line() -> None:
    """What stands in the next line is not found."""
    text = Text(b"abcdefghijkl:m\nno colon here\n:")
    assert text.find(np.array([0, 15]), ord(":"), np.array([14, 28])).tolist() == [12, 28]


def test_blanks_are_skipped() -> None:
    text = Text(b"x" + b" " * 30 + b"y")
    assert text.skip(np.array([0, 1, 9]), ord(" ")).tolist() == [0, 31, 31]
