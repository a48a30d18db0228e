"""hvtrace: reads KVM trace recordings, judges them against a reference model, and draws where the time went."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hvtrace.analysis.recording import Recording

__all__ = ["__version__", "open"]

__version__ = "0.1.0"


def open(path: str | os.PathLike[str]) -> Recording:  # noqa: A001
    """Open a store, or a recording (which is read into a temporary store). Raises hvtrace.errors.InputError."""
    from hvtrace.analysis.recording import Recording

    return Recording(path)
