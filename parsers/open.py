"""From a path to an opened recording: the format is recognised by content, never by name."""

from __future__ import annotations

import os
from functools import partial
from typing import BinaryIO

from hvtrace.errors import InputError
from hvtrace.parsers.recording import Recording
from hvtrace.parsers.source import open_stream, read_head

__all__ = ["FORMATS", "open_recording"]

#: What a user may give, for messages.
FORMATS = (
    "trace-cmd's trace.dat, perf.data, the text of ftrace, trace-cmd report or perf script, "
    "QEMU's trace log or simpletrace"
)


def open_recording(path: str | os.PathLike[str], tsc_khz: int | None = None) -> Recording:
    """Open the recording at `path`, plain or compressed (gzip, zstd, xz).

    `tsc_khz` is the TSC's frequency, for recordings with the clock x86-tsc that do not say it themselves. Raises
    InputError where the file is missing, empty, or none of the known formats.
    """
    if os.path.isdir(path):
        from hvtrace.parsers.perfdata import PerfData, is_perf_directory

        if is_perf_directory(path):
            return PerfData(path)
    head = read_head(path)
    if not head:
        raise InputError(path, "the file is empty")
    # Each parser is loaded where it is needed: the text parser alone takes a tenth of a second.
    from hvtrace.parsers.tracedat import TraceDat, is_tracedat

    if is_tracedat(head):
        recording = TraceDat(path, tsc_khz)
        if recording.text_offset is None:
            return recording
        recording.close()
        from hvtrace.parsers.text import open_text

        return open_text(str(path), partial(_open_at, path, recording.text_offset), tsc_khz)
    from hvtrace.parsers.perfdata import PerfData, is_perfdata

    if is_perfdata(head):
        return PerfData(path)
    from hvtrace.parsers.text import open_text, sniff_text

    if sniff_text(head) is not None:
        return open_text(str(path), lambda: open_stream(path), tsc_khz)
    from hvtrace.parsers.qemu import QemuLog, SimpleTrace, is_simpletrace, sniff_log

    if is_simpletrace(head):
        return SimpleTrace(path)
    if (form := sniff_log(head)) is not None:
        return QemuLog(path, form, lambda: open_stream(path))
    raise InputError(path, f"not a recording hvtrace knows ({FORMATS})", 0)


def _open_at(path: str | os.PathLike[str], offset: int) -> BinaryIO:
    """Open the text that a trace.dat of the latency kind holds from `offset` on."""
    stream = open_stream(path)
    left = offset
    while left and (data := stream.read(min(left, 1 << 20))):
        left -= len(data)
    return stream
