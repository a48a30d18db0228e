"""trace-cmd's trace.dat, versions 6 and 7 (trace-cmd.dat.v6.5, trace-cmd.dat.v7.5)."""

from hvtrace.parsers.tracedat.reader import TraceDat, is_tracedat

__all__ = ["TraceDat", "is_tracedat"]
