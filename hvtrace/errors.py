"""Errors meant for people: printed once, in one line, with an exit code (see hvtrace.cli.main)."""

from __future__ import annotations

__all__ = ["HvtraceError", "InputError"]


class HvtraceError(Exception):
    """Something the user can act on. Printed without a traceback; the process ends with `exit_code`."""

    exit_code = 2


class InputError(HvtraceError):
    """An unusable input: names the file and, where known, the offset in bytes (or `line N` for text)."""

    def __init__(self, path: object, message: str, offset: int | None = None) -> None:
        self.path = str(path)
        self.offset = offset
        self.reason = message
        where = f"{self.path}" if offset is None else f"{self.path}: offset {offset:#x}"
        super().__init__(f"{where}: {message}")
