"""The bytes of a recording: plain or gzip, zstd or xz compressed, mapped or streamed.

A compressed container is recognised by its magic, never by its name. Where it ends too early or is damaged,
everything before the damage is used and the damage is reported.
"""

from __future__ import annotations

import io
import lzma
import mmap
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

import zstandard

from hvtrace.errors import InputError

__all__ = ["CONTAINERS", "ENDS", "Mapped", "container_of", "fault_of", "open_stream", "read_head", "release"]

BLOCK = 1 << 20

#: What a fault says of a container that is cut, as against one that is damaged.
ENDS = "ends in the middle"

#: Magic bytes → name of the container. Sources: RFC 1952, RFC 8878, the .xz file format, section 2.1.1.
CONTAINERS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"),
)


#: Bytes handed to a decoder at a time. A zstd block of four bytes can stand for 128 KiB, and its decoder has no
#: limit of its own; the others stop at BLOCK.
STEPS = {"gzip": BLOCK // 4, "zstd": 1 << 10, "xz": BLOCK // 4}

#: The largest window a zstd frame may ask for: what the zstd tool itself grants by default.
MAX_WINDOW = 1 << 27


def _decoder(container: str) -> Any:
    """A decoder of one member or frame: it has `decompress`, `eof` and `unused_data`."""
    if container == "gzip":
        return zlib.decompressobj(wbits=31)
    if container == "zstd":
        return zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
    return lzma.LZMADecompressor()


def _decode(decoder: Any, container: str, data: bytes) -> tuple[bytes, bytes | None]:
    """Some decompressed bytes, a bounded number, and what the decoder must be given next (None: new input)."""
    if container == "zstd":
        return decoder.decompress(data), None
    out = decoder.decompress(data, BLOCK)
    if container == "xz":
        return out, None if decoder.eof or decoder.needs_input else b""
    return out, decoder.unconsumed_tail if len(out) == BLOCK and not decoder.eof else None


def container_of(head: bytes) -> str | None:
    """Name of the compressed container that starts with `head`, None for plain bytes."""
    return next((name for magic, name in CONTAINERS if head.startswith(magic)), None)


class _Decompressed(io.RawIOBase):
    """The decompressed bytes of a container, all its members or frames in turn.

    After a fault, `fault` says what and the stream ends there.
    """

    def __init__(self, raw: BinaryIO, container: str) -> None:
        self._raw = raw
        self._container = container
        self._left = memoryview(b"")
        self._blocks = self._decompress()
        self.fault: str | None = None

    def readable(self) -> bool:
        return True

    def _decompress(self) -> Iterator[bytes]:
        container = self._container
        decoder = _decoder(container)
        fresh = True
        while data := self._raw.read(STEPS[container]):
            following: bytes | None = data
            while following is not None:
                try:
                    out, following = _decode(decoder, container, following)
                except (zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
                    self.fault = f"the {container} data is damaged: {error}"
                    return
                fresh = False
                if out:
                    yield out
                if decoder.eof:
                    rest = decoder.unused_data
                    following = (rest.lstrip(b"\0") if container == "xz" else rest) or None
                    decoder, fresh = _decoder(container), True
        if not fresh:
            self.fault = f"the {container} data ends in the middle"

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's name for Buffer is private
        if not self._left:
            self._left = memoryview(next(self._blocks, b""))
        n = min(len(buffer), len(self._left))
        buffer[:n] = self._left[:n]
        self._left = self._left[n:]
        return n

    def close(self) -> None:
        self._raw.close()
        super().close()


def _open(path: str | os.PathLike[str]) -> BinaryIO:
    try:
        if os.path.isdir(path):
            raise InputError(path, "is a directory, not a recording")
        return open(path, "rb")
    except OSError as error:
        raise InputError(path, error.strerror or str(error)) from error


def open_stream(path: str | os.PathLike[str]) -> BinaryIO:
    """Open the (decompressed) bytes of `path` for reading from the start. Raises InputError."""
    raw = _open(path)
    container = container_of(raw.read(8))
    raw.seek(0)
    if container is None:
        return raw
    return io.BufferedReader(_Decompressed(raw, container), BLOCK)


def fault_of(stream: BinaryIO) -> str | None:
    """What went wrong in the compressed container under `stream`, once it has been read to its end."""
    raw = getattr(stream, "raw", None)
    return raw.fault if isinstance(raw, _Decompressed) else None


def read_head(path: str | os.PathLike[str], size: int = 1 << 16) -> bytes:
    """Return the first `size` decompressed bytes, fewer where the file is shorter."""
    with open_stream(path) as stream:
        head = b""
        while len(head) < size and (data := stream.read(size - len(head))):
            head += data
        return head


class Mapped:
    """The whole of a recording's bytes, mapped into memory; a compressed one by way of a nameless temporary file.

    `fault` says what was wrong with the compressed container, if anything.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = str(path)
        self.fault: str | None = None
        with open_stream(path) as stream:
            if not isinstance(getattr(stream, "raw", None), _Decompressed):
                self._map(stream)
                return
            with tempfile.TemporaryFile(prefix="hvtrace-") as spool:
                while data := stream.read(BLOCK):
                    spool.write(data)
                spool.flush()
                self.fault = fault_of(stream)
                self._map(spool)

    def _map(self, file: BinaryIO) -> None:
        self.size = os.fstat(file.fileno()).st_size
        self.data: mmap.mmap | bytes = b""
        if self.size:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def release(self, start: int, stop: int) -> None:
        """Tell the kernel that bytes from `start` to `stop` need not stay in memory."""
        release(self.data, start, stop)

    def close(self) -> None:
        """Unmap, unless arrays still look into the mapping (then it goes with them)."""
        if isinstance(self.data, mmap.mmap):
            with suppress(BufferError):
                self.data.close()


def release(area: mmap.mmap | bytes, start: int, stop: int) -> None:
    """Give the pages wholly inside [start, stop) of a mapping back to the kernel; contents of a file stay."""
    page = mmap.PAGESIZE
    first, last = -(-start // page) * page, min(stop, len(area)) // page * page
    if isinstance(area, mmap.mmap) and last > first:
        area.madvise(mmap.MADV_DONTNEED, first, last - first)
