"""A bounded reader over bytes: every number and string of a file header passes through here."""

from __future__ import annotations

import mmap
import struct

from hvtrace.errors import InputError

__all__ = ["Cursor"]

#: The longest NUL-terminated string a header may hold.
MAX_STRING = 1 << 16


class Cursor:
    """Reads little-endian values from `data` between `at` and `end`.

    Offsets in errors are those of the file: `base` is added to positions. Raises InputError where the bytes end
    too early or a length field asks for more than there is.
    """

    def __init__(
        self, data: bytes | mmap.mmap, path: str, at: int = 0, end: int | None = None, base: int = 0
    ) -> None:
        self.data = data
        self.path = path
        self.at = at
        self.end = len(data) if end is None else min(end, len(data))
        self.base = base

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return max(self.end - self.at, 0)

    def fail(self, message: str, at: int | None = None) -> InputError:
        """Return the error that names this place of the file (or the position `at`)."""
        return InputError(self.path, message, self.base + (self.at if at is None else at))

    def take(self, size: int, what: str) -> bytes:
        """Return the next `size` bytes."""
        if size > self.left:
            raise self.fail(f"the file ends inside {what} ({size} bytes announced, {self.left} there)")
        self.at += size
        return bytes(self.data[self.at - size : self.at])

    def skip(self, size: int, what: str) -> None:
        """Pass over `size` bytes."""
        if size > self.left:
            raise self.fail(f"the file ends inside {what} ({size} bytes announced, {self.left} there)")
        self.at += size

    def u16(self, what: str) -> int:
        """Return a two-byte number."""
        return int.from_bytes(self.take(2, what), "little")

    def u32(self, what: str) -> int:
        """Return a four-byte number."""
        return int.from_bytes(self.take(4, what), "little")

    def u64(self, what: str) -> int:
        """Return an eight-byte number."""
        return int.from_bytes(self.take(8, what), "little")

    def numbers(self, layout: str, what: str) -> tuple[int, ...]:
        """Return several numbers: `layout` as for struct, little-endian."""
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout), what))

    def string(self, what: str) -> str:
        """Return the NUL-terminated string here."""
        stop = self.data.find(b"\0", self.at, min(self.end, self.at + MAX_STRING))
        if stop < 0:
            raise self.fail(f"{what} has no end")
        text = bytes(self.data[self.at : stop]).decode("utf-8", "replace")
        self.at = stop + 1
        return text
