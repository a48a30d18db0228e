"""Items that a thread makes ahead come out as if they were made in turn."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from hvtrace.parsers.ahead import ahead


def failing_after(items: int) -> Iterator[int]:
    """So many items, and then a failure."""
    yield from range(items)
    raise OSError("cannot be read")


def test_items_come_in_order() -> None:
    """All of them, also where an item is false or there are none."""
    assert list(ahead(iter([0, None, 2]))) == [0, None, 2]
    assert list(ahead(iter([]))) == []


def test_a_failure_comes_after_the_items_before_it() -> None:
    """What making an item raises is raised where that item would have come."""
    running = ahead(failing_after(2))
    assert (next(running), next(running)) == (0, 1)
    with pytest.raises(OSError, match="cannot be read"):
        next(running)


def test_one_item_is_made_ahead_and_no_more() -> None:
    """Memory stays bounded; and whoever stops early leaves no thread behind."""
    made = []

    def items() -> Iterator[int]:
        for n in range(100):
            made.append(n)
            yield n

    running = ahead(items())
    assert (next(running), next(running)) == (0, 1)
    running.close()
    assert made in ([0, 1], [0, 1, 2])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_the_first_item_is_made_at_once() -> None:
    """Before anybody asks for it."""
    begun = threading.Event()

    def items() -> Iterator[int]:
        begun.set()
        yield 1

    running = ahead(items())
    assert begun.wait(60)
    assert list(running) == [1]
