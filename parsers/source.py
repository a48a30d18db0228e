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
from typing import BinaryIO, Protocol

import zstandard

from hvtrace.errors import InputError

__all__ = ["CONTAINERS", "Mapped", "container_of", "fault_of", "open_stream", "read_head", "release"]

BLOCK = 1 << 20

#: Magic bytes → name of the container. Sources: RFC 1952, RFC 8878, the .xz file format, section 2.1.1.
CONTAINERS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"),
)


class _Decoder(Protocol):
    eof: bool
    unused_data: bytes

    def decompress(self, data: bytes, /) -> bytes: ...


def _decoder(container: str) -> _Decoder:
    if container == "gzip":
        return zlib.decompressobj(wbits=31)
    if container == "zstd":
        decoder: _Decoder = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
        return decoder
    return lzma.LZMADecompressor()


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
        self._decoder: _Decoder | None = None
        self._left = b""
        self._blocks = self._decompress()
        self.fault: str | None = None

    def readable(self) -> bool:
        return True

    def _decompress(self) -> Iterator[bytes]:
        decoder = _decoder(self._container)
        fresh = True
        while True:
            data = self._raw.read(BLOCK // 4)
            if not data:
                if not fresh:
                    self.fault = f"the {self._container} data ends in the middle"
                return
            while data:
                try:
                    out = decoder.decompress(data)
                except (zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
                    self.fault = f"the {self._container} data is damaged: {error}"
                    return
                fresh = False
                if out:
                    yield out
                data = b""
                if decoder.eof:
                    data = (
                        decoder.unused_data.lstrip(b"\0") if self._container == "xz" else decoder.unused_data
                    )
                    decoder, fresh = _decoder(self._container), True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's name for Buffer is private
        if not self._left:
            self._left = next(self._blocks, b"")
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
    first, last = -(-start // page) * page, stop // page * page
    if isinstance(area, mmap.mmap) and last > first:
        area.madvise(mmap.MADV_DONTNEED, first, last - first)
