"""hvtrace: reads KVM trace recordings, judges them against a reference model, and draws where the time went."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
