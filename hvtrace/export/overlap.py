"""Bytes are made and written in a thread meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, BinaryIO

__all__ = ["Behind"]

#: What has bytes: bytes, or a pyarrow buffer.
Buffer = Any

#: Bytes gathered before they are written.
_ENOUGH = 1 << 22


class Behind:
    """A file written in a thread. What writing raises is raised by a later `write`, or at the end.

    Bytes are given away: nobody may change them after `write`. The end waits until all is written, and leaves the
    file open.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._pool = ThreadPoolExecutor(1, "behind")
        self._writing: Future[None] | None = None
        self._held: list[Buffer] = []
        self._size = 0

    def write(self, data: Buffer) -> None:
        """Write bytes, sooner or later."""
        self._held.append(data)
        self._size += len(data)
        if self._size >= _ENOUGH:
            self.make(bytes)

    def make(self, make: Callable[[], Buffer]) -> None:
        """Make bytes in the thread, and write them. Waits until what was made before is written."""
        self._wait()
        self._writing = self._pool.submit(self._write, self._held, make)
        self._held, self._size = [], 0

    def _write(self, first: list[Buffer], make: Callable[[], Buffer]) -> None:
        self._file.write(b"".join(first))
        self._file.write(make())

    def _wait(self) -> None:
        if self._writing is not None:
            # Not asked again: it would raise again.
            writing, self._writing = self._writing, None
            writing.result()

    def __enter__(self) -> Behind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.make(bytes)
                self._wait()
        finally:
            self._pool.shutdown()
