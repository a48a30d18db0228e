"""Text recordings: ftrace's trace and trace_pipe, trace-cmd report, perf script.

`recording` cuts the text into blocks of lines, `block` turns a block into tables: `prefix` splits the lines, `events`
reads the texts of one tracepoint by its layouts (`layout`, `match`). `cursor` is the arithmetic beneath.
"""

from hvtrace.parsers.text.recording import TextRecording, open_text
from hvtrace.parsers.text.sniff import sniff_text

__all__ = ["TextRecording", "open_text", "sniff_text"]
