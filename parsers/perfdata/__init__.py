"""perf.data of perf record: file, pipe and directory (tools/perf/Documentation/perf.data-file-format.txt)."""

from hvtrace.parsers.perfdata.header import is_perf_directory, is_perfdata
from hvtrace.parsers.perfdata.reader import PerfData

__all__ = ["PerfData", "is_perf_directory", "is_perfdata"]
