"""Reading ahead: the next window is parsed in a thread of its own while this one is attributed and written."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

__all__ = ["ahead"]

T = TypeVar("T")

#: How often a reader whose consumer may have gone looks whether it has, in seconds.
PATIENCE_S = 0.2


class _End:
    """The last thing in the queue: with the error that ended the reading, if one did."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def ahead(items: Iterator[T], depth: int = 1) -> Iterator[T]:
    """Yield `items`, read up to `depth` ahead; an error comes out where it would have. Order is kept."""
    waiting: queue.Queue[T | _End] = queue.Queue(maxsize=depth)
    gone = threading.Event()

    def put(item: T | _End) -> None:
        while not gone.is_set():
            try:
                waiting.put(item, timeout=PATIENCE_S)
            except queue.Full:
                continue
            return

    def read() -> None:
        error = None
        try:
            for item in items:
                put(item)
                if gone.is_set():
                    break
        except BaseException as raised:  # whatever it is, it belongs to the consumer
            error = raised
        put(_End(error))

    reader = threading.Thread(target=read, name="hvtrace-reader", daemon=True)
    reader.start()
    try:
        while not isinstance(item := waiting.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        gone.set()
        reader.join()
