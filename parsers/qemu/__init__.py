"""Recordings that QEMU made of itself: the text of its log backend, and the files of its simple backend."""

from hvtrace.parsers.qemu.log import QemuLog, sniff_log
from hvtrace.parsers.qemu.simpletrace import SimpleTrace, is_simpletrace

__all__ = ["QemuLog", "SimpleTrace", "is_simpletrace", "sniff_log"]
