"""How long things take that a guest waits for: timers, interrupts, messages, wake-ups, hypercalls, userspace."""

from hvtrace.analysis.latency.answer import BY, FIGURES, Latency, Question, latency, spans
from hvtrace.analysis.latency.table import MEASURES

__all__ = ["BY", "FIGURES", "MEASURES", "Latency", "Question", "latency", "spans"]
