"""What is done in threads meanwhile comes out as if it were done in turn."""

from __future__ import annotations

import io
import threading

import pytest

from hvtrace.export.overlap import Behind


def test_bytes_are_written_in_order() -> None:
    """Bytes given and bytes made in the thread, as they came; the file is left open."""
    file = io.BytesIO()
    with Behind(file) as behind:
        behind.write(b"a")
        behind.make(lambda: b"b")
        behind.write(b"c")
        behind.write(b"d")
        behind.make(lambda: b"e")
        behind.write(b"f")
    assert file.getvalue() == b"abcdef"


def test_many_bytes_do_not_wait_for_the_end() -> None:
    """They are written as they come, in pieces; memory stays bounded."""
    file = io.BytesIO()
    with Behind(file) as behind:
        for _ in range(5):
            behind.write(bytes(1 << 21))
        behind.make(bytes)
        behind.make(bytes)
        assert len(file.getvalue()) == 5 << 21


class Full(io.BytesIO):
    """A file on a full disk."""

    def write(self, data: object) -> int:
        raise OSError(28, "No space left on device")


def test_what_writing_raises_is_raised() -> None:
    """By the next piece, or at the end."""
    with pytest.raises(OSError, match="No space"), Behind(Full()) as behind:
        behind.make(lambda: b"a")
    with pytest.raises(OSError, match="No space"), Behind(Full()) as behind:
        behind.make(lambda: b"a")
        behind.make(lambda: b"b")
        pytest.fail("the second piece is not taken")


def test_after_a_failure_nothing_more_is_written() -> None:
    """What was raised goes on to whoever opened the file, and the thread ends."""
    file = io.BytesIO()
    with pytest.raises(ValueError, match="wrong"), Behind(file) as behind:
        behind.write(b"a")
        raise ValueError("wrong")
    assert file.getvalue() == b""
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("behind")]
