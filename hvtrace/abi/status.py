"""Hypercall status codes (TLFS, Hypercall status codes) and who gives them on KVM."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["STATUSES", "Status", "status_name"]


@dataclass(frozen=True, slots=True)
class Status:
    """One status: the low 16 bits of a hypercall's result."""

    value: int
    name: str
    given: str


STATUSES: tuple[Status, ...] = (
    Status(0x00, "HV_STATUS_SUCCESS", "KVM and userspace"),
    Status(
        0x02,
        "HV_STATUS_INVALID_HYPERCALL_CODE",
        "KVM: unknown code; QEMU: fast PostMessage, no debug handler",
    ),
    Status(
        0x03,
        "HV_STATUS_INVALID_HYPERCALL_INPUT",
        "KVM: reserved bits, wrong counts, unreadable input, vector",
    ),
    Status(0x04, "HV_STATUS_INVALID_ALIGNMENT", "KVM: slow SignalEvent; QEMU: PostMessage, SignalEvent"),
    Status(0x05, "HV_STATUS_INVALID_PARAMETER", "KVM: fast debug or extended call; QEMU: debug count"),
    Status(0x06, "HV_STATUS_ACCESS_DENIED", "KVM: CPUID bit missing, under enforcement"),
    Status(0x08, "HV_STATUS_OPERATION_DENIED", "KVM: debug call while SYNDBG_OPTIONS bit 2 is clear"),
    Status(0x0B, "HV_STATUS_INSUFFICIENT_MEMORY", "QEMU: buffer cannot be mapped"),
    Status(0x11, "HV_STATUS_INVALID_PORT_ID", "KVM, SignalEvent: turns into an exit to userspace"),
    Status(0x12, "HV_STATUS_INVALID_CONNECTION_ID", "QEMU"),
    Status(0x13, "HV_STATUS_INSUFFICIENT_BUFFERS", "QEMU"),
    Status(0x1B, "HV_STATUS_NO_DATA", "QEMU: RetrieveDebugData"),
)

_NAMES: dict[int, str] = {status.value: status.name for status in STATUSES}


def status_name(value: int) -> str | None:
    """Name of a status (the low 16 bits of a result); None where no row has it."""
    return _NAMES.get(value & 0xFFFF)
