"""VMBus: what a guest and its host say to each other, as far as KVM's events and QEMU's show it."""

from hvtrace.analysis.vmbus.answer import TABLES, Question, Vmbus, vmbus

__all__ = ["TABLES", "Question", "Vmbus", "vmbus"]
