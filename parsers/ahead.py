"""Work on the next item while the last one is used: numpy, polars and pyarrow let other threads run meanwhile."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["ahead"]

T = TypeVar("T")


def ahead(items: Iterator[T]) -> Generator[T]:
    """Return what `items` yields; a thread makes the first item at once, and each other while the one before is used.

    What making an item raises is raised in its turn.
    """
    end = object()
    pool = ThreadPoolExecutor(1, "ahead")
    return _rest(items, end, pool, pool.submit(next, items, end))


def _rest(items: Iterator[T], end: object, pool: ThreadPoolExecutor, following: Future[Any]) -> Generator[T]:
    with pool:
        while (item := following.result()) is not end:
            following = pool.submit(next, items, end)
            yield item
